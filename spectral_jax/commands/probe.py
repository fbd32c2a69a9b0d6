"""`spectral-jax probe` and `spectral-jax swap`: what the latents of a network mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars, check_free, console
from spectral_jax.commands.interpolate import write_coefficients
from spectral_jax.commands.network import Checkpoint, open_run
from spectral_jax.files import atomic, safe_files
from spectral_jax.geometry.mesh import MOST_BYTES

if TYPE_CHECKING:
    from spectral_jax.data.dataset import Example
    from spectral_jax.runs.opened import OpenedRun


@dataclass(frozen=True)
class Probe:
    """Tell what latents know: identity, gender, set and time of meshes, by cross-validated ridge regression.

    A split of more than 4,096 meshes is represented by as many, spread evenly.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    data: str | None = None
    """The dataset (default: the one the run was trained on)."""
    split: str = "train"
    """The split whose meshes are encoded."""
    labels: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """More labels: an .npz of arrays (mesh) or (mesh, number), one row for each mesh of the split, such as betas."""
    checkpoint: Checkpoint = None
    """The newest checkpoint (last) or the one with the lowest validation error (best) (default: last for SAE-LP, best
    for the residual network)."""
    json: Path | None = None
    """Also write the scores to this JSON file."""

    def __call__(self) -> None:
        from spectral_jax.network import probing
        from spectral_jax.runs.opened import encode_some

        opened = open_run(self.run, self.data, self.checkpoint)
        with Bars() as bars:
            rows, examples, latents = encode_some(opened, split=self.split, progress=bars)
        known = labels_of(examples) | (read_labels(self.labels, opened, self.split, rows) if self.labels else {})
        groups = [f"{example.dataset}/{example.identity}/{example.file}" for example in examples]
        owners = [example.identity for example in examples]
        with console.status("probing"):
            found = [
                probing.probe(name, latents, values, owners if name == "gender" else groups)
                for name, values in known.items()
            ]
        table = Table(title=f"what the latents of {len(latents):,} meshes tell of others")
        for title in ("label", "score", "chance", "classes", "left out together"):
            table.add_column(title, justify="left" if title == "label" else "right")
        for each in filter(None, found):
            kind = f"{each.classes:,}" if each.classes else "numbers: R²"
            together = ("identities" if each.label == "gender" else "files") if each.grouped else "single meshes"
            table.add_row(each.label, f"{each.score:.3f}", f"{each.chance:.3f}", kind, together)
        Console().print(table)
        if same := [name for name, each in zip(known, found, strict=True) if each is None]:
            print(f"the same for all meshes: {', '.join(same)}")
        if self.json:
            atomic.write_json(self.json, {each.label: each._asdict() for each in found if each})


@dataclass(frozen=True)
class Swap:
    """Give the pose of one mesh the identity of another, in latent space."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    pose: Annotated[str, tyro.conf.arg(metavar="I|FILE")]
    """The mesh whose pose is kept: an index of the split, or a mesh file of the same connectivity."""
    identity: Annotated[str, tyro.conf.arg(metavar="J|FILE")]
    """The mesh whose identity is taken, likewise."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The mesh file to write."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a mesh file's size, unpacked."""
    overwrite: bool = False
    """Replace the file if it exists."""
    split: str = "test"
    """The split that indices are of. Identity is told from pose by the train split."""
    data: str | None = None
    """The dataset (default: the one the run was trained on)."""

    def __call__(self) -> None:
        from spectral_jax.network import probing
        from spectral_jax.runs.opened import encode_some, read_coefficients

        check_free(self.out, self.overwrite)
        opened = open_run(self.run, self.data)
        ends = [read_coefficients(opened, text, self.split, self.max_file_bytes) for text in (self.pose, self.identity)]
        with Bars() as bars:
            _, examples, latents = encode_some(opened, progress=bars)
        separation = probing.separate(latents, [example.identity for example in examples])
        swapped = probing.swap(separation, *opened.codec.encode(np.stack(ends)))
        write_coefficients(self.out, opened, opened.codec.decode(swapped[None])[0])


def labels_of(examples: list[Example]) -> dict[str, np.ndarray]:
    """The labels of meshes by name; time is the place of a mesh among those of its file, from 0 to 1."""
    found = {name: np.array([getattr(example, name) for example in examples]) for name in ("identity", "gender")}
    found["set"] = np.array([example.dataset for example in examples])
    last: dict[tuple[str, str, str], int] = {}
    for example in examples:
        key = example.dataset, example.identity, example.file
        last[key] = max(last.get(key, 0), example.frame)
    time = [e.frame / max(1, last[e.dataset, e.identity, e.file]) for e in examples]
    return found | {"time in the sequence": np.array(time)}


def read_labels(path: Path, opened: OpenedRun, split: str, rows: list[int]) -> dict[str, np.ndarray]:
    """The arrays of an .npz for some meshes of a split. Raises ValueError unless each has a row for every mesh."""
    total, found = len(opened.data.records(split)), {}
    try:
        with safe_files.open_npz(path, MOST_BYTES) as file:
            arrays = {name: file[name] for name in file}
    except ValueError as error:
        raise ValueError(f"{path}: not a readable file of labels ({error})") from error
    for name, values in arrays.items():
        if values.shape[:1] != (total,) or values.ndim > 2 or values.dtype.kind not in "fiuUS":
            expected = f"expected text or numbers for the {total} meshes of {split}"
            raise ValueError(f"{path}: {name} is {values.dtype} {values.shape}, {expected}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{path}: {name} has values that are not finite")
        found[name] = values[rows]
    return found
