"""`spectral-jax encode` and `spectral-jax decode`: meshes to latents, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import tyro

from spectral_jax.commands.console import Bars, check_free, console
from spectral_jax.commands.dataset import open_data
from spectral_jax.commands.network import Checkpoint
from spectral_jax.data.recipes import DEMO_DATA
from spectral_jax.files.progress import Progress, track
from spectral_jax.geometry.mesh import MOST_BYTES
from spectral_jax.geometry.sequences import Align

ARRAYS = (".npz", ".npy")


@dataclass(frozen=True)
class Encode:
    """Encode a dataset, mesh files or coefficients, and write their latents."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A dataset folder or demo, a mesh file or a folder of them, or coefficients (mesh, freq, 3) as .npy or .npz."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The .npz file to write: the latents, the origin of each, the run and its connectivity."""
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The run folder, or the word demo: the network that comes with the package."""
    checkpoint: Checkpoint = None
    """The newest checkpoint (last) or the one with the lowest validation error (best) (default: last for SAE-LP, best
    for the residual network)."""
    split: Annotated[str | None, tyro.conf.arg(metavar="SPLIT")] = None
    """For a dataset: the split to encode, train, test or all (default: test)."""
    center: Annotated[Literal["none", "centroid", "box"] | None, tyro.conf.arg(metavar="none|centroid|box")] = None
    """For mesh files: what becomes the origin. Default for this, --scale and --up: as the run's dataset was made. The
    meshes of a dataset that was made with --align are aligned, too."""
    scale: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """For mesh files: metres per unit."""
    up: Annotated[Literal["x", "y", "z"] | None, tyro.conf.arg(metavar="x|y|z")] = None
    """For mesh files: the axis that points up."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a mesh file's size, unpacked."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.runs import latents, run

        if self.out.suffix != ".npz":
            raise ValueError(f"{self.out}: latents are written as an .npz file")
        check_free(self.out, self.overwrite)
        loaded = run.load_run(self.run, self.checkpoint)
        loaded.require_basis()  # the file of latents names its connectivity
        with Bars() as bars:
            encoded, labels = latents.encode(loaded, self.open(loaded, bars))
        latents.write_latents(self.out, encoded, labels, loaded)
        print(f"{self.out}: {len(encoded):,} latents of {encoded.shape[1]} numbers, epoch {loaded.epoch} of {self.run}")

    def open(self, run: Any, progress: Progress) -> Any:
        """The examples (`runs.latents.Examples`) that DATA names."""
        from spectral_jax.data import dataset, pytorch_layouts
        from spectral_jax.runs import latents

        path = Path(self.data)
        if self.data == "demo" or (path / dataset.METADATA_FILE).is_file() or pytorch_layouts.pytorch_layout(path):
            return latents.read_dataset(open_data(self.data), self.split or "test", run, progress)
        if self.split:
            raise ValueError(f"{path} is not a dataset, it has no split {self.split!r}")
        if not path.exists():
            raise ValueError(f"{path}: no such dataset, mesh or file of coefficients")
        if latents.holds_coefficients(path):
            return latents.read_coefficients(path, run, progress)
        return latents.read_meshes(path, self.placement(run), run, progress, self.max_file_bytes)

    def placement(self, run: Any) -> dict[str, Any]:
        """How to centre, scale, turn and align mesh files: by the options, else as the run's dataset was made."""
        from spectral_jax.data import dataset, pytorch_layouts
        from spectral_jax.geometry import mesh

        told = {"center": self.center, "scale": self.scale, "up": self.up}
        told = {name: value for name, value in told.items() if value is not None}
        made, source = {"center": "none", "scale": 1.0, "up": "y"}, run.config.data
        folder = DEMO_DATA if source == "demo" else Path(source)
        if source and pytorch_layouts.pytorch_layout(folder):
            return made | told
        metadata = folder / dataset.METADATA_FILE
        if not (source and metadata.is_file()):
            if len(told) == len(made):
                return told
            raise ValueError(
                f"the dataset of {run.path} ({source or 'unknown'}) is missing, so the placement of its meshes is "
                "unknown: give --center, --scale and --up"
            )
        try:
            options = dict(json.loads(metadata.read_text())["source"])
            if (align := options.get("align", "none")) not in get_args(Align):
                raise ValueError(f"align is {align!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{metadata}: not a dataset's metadata ({error})") from error
        found = made | {name: options[name] for name in made if name in options} | told
        if align == "none":
            return found
        return found | {
            "align": align,
            "template": mesh.read_mesh(folder / dataset.MESH_FILE, self.max_file_bytes).vertices,
        }


@dataclass(frozen=True)
class Decode:
    """Decode latents, and write their coefficients, vertices or meshes."""

    latents: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LATENTS")]
    """A file from `encode`, any .npz with an array `latents`, or a .npy (mesh, latent)."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The .npz or .npy file to write, or the folder for .ply meshes."""
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The run folder, or the word demo: the network that comes with the package."""
    checkpoint: Checkpoint = None
    """The newest checkpoint (last) or the one with the lowest validation error (best) (default: last for SAE-LP, best
    for the residual network)."""
    vertices: bool = False
    """Write vertices (mesh, vertex, 3) in metres instead of coefficients (mesh, freq, 3)."""
    overwrite: bool = False
    """Replace the file, or the meshes in the folder."""

    def __call__(self) -> None:
        from spectral_jax.basis import spectral
        from spectral_jax.geometry import sequences
        from spectral_jax.network import codec
        from spectral_jax.runs import latents, run

        if self.out.suffix in ARRAYS:
            check_free(self.out, self.overwrite)
        elif self.out.suffix.lower() in sequences.SUFFIXES:
            raise ValueError(f"{self.out}: meshes are written into a folder, arrays as .npz or .npy")
        elif self.out.exists() and any(self.out.iterdir()) and not self.overwrite:
            raise ValueError(f"{self.out} is not empty; --overwrite replaces its meshes")
        loaded = run.load_run(self.run, self.checkpoint)
        model, basis = loaded.config.model, loaded.require_basis()
        values, others = latents.read_array(self.latents, "latents", (model.latent_size,), loaded)
        if not np.isfinite(values).all():
            row = int(np.isfinite(values).all(axis=1).argmin())
            raise ValueError(f"{self.latents}: latent {row} is {values[row].tolist()}, expected finite numbers")
        here = latents.origin(loaded)
        self._warn(others, here)
        vertices = self.vertices or self.out.suffix not in ARRAYS
        decode = codec.decode_vertices_batch if vertices else codec.decode_batch
        with Bars() as bars:
            parts = codec.Codec.of(loaded).stream(decode, track(values, bars, "decoding"))
            if self.out.suffix not in ARRAYS:
                latents.write_meshes(self.out, parts, basis, len(values))
            elif vertices:
                none, faces = spectral.with_unused(basis, np.zeros((0, basis.num_vertices, 3), np.float32))
                parts = (spectral.with_unused(basis, part)[0] for part in parts)
                shape = (len(values), *none.shape[1:])
                latents.write_array(self.out, "vertices", shape, parts, others | here | {"faces": faces})
            else:
                shape = (len(values), model.modes, 3)
                latents.write_array(self.out, "coefficients", shape, parts, others | here)
        what = "vertices" if vertices else "coefficients"
        print(f"{self.out}: {what} of {len(values):,} latents, epoch {loaded.epoch} of {self.run}")

    def _warn(self, others: dict[str, Any], here: dict[str, Any]) -> None:
        """Print a warning when the latents say that another run or epoch made them."""
        if any(name in others and str(others[name]) != str(here[name]) for name in ("run", "epoch")):
            made, used = (
                f"{found['run']} (epoch {found['epoch']})" for found in ({"run": "", "epoch": ""} | others, here)
            )
            text = f"warning: {self.latents} was made by {made}, but is decoded by {used}"
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
