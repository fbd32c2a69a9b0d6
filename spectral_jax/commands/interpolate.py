"""`spectral-jax interpolate`, `sample`, `filter` and `mix`: experiments with a trained network and its basis."""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars, check_free, console, track
from spectral_jax.commands.network import open_run
from spectral_jax.files import atomic
from spectral_jax.geometry.mesh import MOST_BYTES

if TYPE_CHECKING:
    from spectral_jax.runs.opened import OpenedRun, ReferenceMeshes

Method = Literal["spatial", "latent", "spherical", "geodesic"]
METHODS: tuple[Method, ...] = ("spatial", "latent", "spherical", "geodesic")
GEODESIC = ("straight_energy", "energy", "converged", "iterations")  # fields of a geodesic that are kept
LABELS = ("pairs", "from", "to", "method")  # what identifies a row of measures
NUM_CANDIDATES = 20  # pairs drawn for each one compared, among which the farthest apart are compared too


@dataclass(frozen=True)
class Interpolate:
    """Interpolate between two meshes, in vertex space or in the network's latent space, and measure the path."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, or the word demo: the network that comes with the package."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to write: frames, path.glb, path.gif, path.npz, measures.json; with --compare, the comparison."""
    start: Annotated[str, tyro.conf.arg(name="from", metavar="I|FILE")] = "0"
    """The first mesh: an index of the split, or a mesh file (metres) of the same connectivity and placement."""
    end: Annotated[str, tyro.conf.arg(name="to", metavar="J|FILE")] = "1"
    """The last mesh, likewise."""
    method: Method = "latent"
    """A straight line in vertex space or latent space, a great circle in latent space, or a geodesic of the decoder."""
    steps: int = 16
    """Number of meshes, both ends included."""
    extend: float = 0.0
    """Extrapolate beyond both ends by this share of the path (0.5: by half); not along a geodesic."""
    compare: Annotated[int | None, tyro.conf.arg(metavar="PAIRS")] = None
    """Instead of writing a path, compare all methods on this number of random pairs of the split."""
    seed: int = 0
    """Seed of the random pairs."""
    split: str = "test"
    """The split that indices and pairs are of."""
    data: str | None = None
    """The dataset (default: the one the run was trained on)."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a mesh file's size, unpacked."""
    format: Literal["ply", "obj"] = "ply"
    """File format of the frames."""
    overwrite: bool = False
    """Replace the files of the folder."""

    def __call__(self) -> None:
        if self.steps < 3:
            raise ValueError(f"--steps must be at least 3, not {self.steps}")
        if self.extend < 0 or (self.extend and self.method == "geodesic"):
            raise ValueError(f"--extend must be at least 0, and 0 for a geodesic, not {self.extend}")
        if self.compare is not None and self.compare < 1:
            raise ValueError(f"--compare must be at least 1, not {self.compare}")
        if self.out.exists() and any(self.out.iterdir()) and not self.overwrite:
            raise ValueError(f"{self.out} is not empty; --overwrite replaces its files")
        opened = open_run(self.run, self.data)
        if self.compare is None:
            self.write_path(opened)
        else:
            self.compare_methods(opened, self.compare)

    def write_path(self, opened: OpenedRun) -> None:
        """Write one path as frames, animation, picture, arrays and measures."""
        from spectral_jax.basis import spectral
        from spectral_jax.geometry import gltf, render
        from spectral_jax.geometry.mesh import Mesh, write_mesh
        from spectral_jax.runs import opened as runs

        limits = self.split, self.max_file_bytes
        ends = [runs.read_coefficients(opened, text, *limits) for text in (self.start, self.end)]
        amounts = np.linspace(-self.extend, 1 + self.extend, self.steps, dtype=np.float32)
        with Bars() as bars:
            references = runs.read_references(opened, self.split, bars)
        with console.status(f"interpolating: {self.method}"):
            path = interpolate_between(ends, self.method, opened, amounts)
            vertices = np.asarray(spectral.reconstruct(opened.basis, path["coefficients"]))
            measures = measure_path(opened, vertices, path, references)
        faces = np.asarray(opened.basis.faces)
        (self.out / "frames").mkdir(parents=True, exist_ok=True)
        for old in (self.out / "frames").glob(f"[0-9]*.{self.format}"):  # of a longer path
            old.unlink()
        for step, frame in enumerate(vertices):
            whole = Mesh(*spectral.with_unused(opened.basis, frame))
            write_mesh(self.out / "frames" / f"{step:03d}.{self.format}", whole)
        gltf.write_animation(self.out / "path.glb", vertices, faces)
        np.savez(self.out / "path.npz", allow_pickle=False, amounts=amounts, **path)
        record = {"run": str(self.run), "from": self.start, "to": self.end, "method": self.method, **measures}
        atomic.write_json(self.out / "measures.json", record)
        try:
            view = render.window(vertices)
            render.write_gif(self.out / "path.gif", [render.draw(frame, faces, view) for frame in vertices])
        except ValueError as error:
            console.print(f"no path.gif: {error}", soft_wrap=True)
        print_measures(f"{self.method}, {self.start} to {self.end}, {self.steps} meshes", {self.method: [measures]})
        print(f"{self.out}: {self.steps} frames, path.glb, path.npz, measures.json")

    def compare_methods(self, opened: OpenedRun, count: int) -> None:
        """Measure every method on random pairs and on distant ones; print means, write all measures."""
        from spectral_jax.basis import spectral
        from spectral_jax.runs import opened as runs

        with Bars() as bars:
            references = runs.read_references(opened, self.split, bars)
        pairs = self.draw_pairs(opened, references, count)
        amounts, rows = np.linspace(0, 1, self.steps, dtype=np.float32), []
        labelled = [(kind, pair) for kind, chosen in pairs.items() for pair in chosen]
        for kind, pair in track(labelled, "comparing"):
            ends = [runs.read_coefficients(opened, str(index), self.split) for index in pair]
            for method in METHODS:
                path = interpolate_between(ends, method, opened, amounts)
                vertices = np.asarray(spectral.reconstruct(opened.basis, path["coefficients"]))
                row = {"pairs": kind, "from": pair[0], "to": pair[1], "method": method}
                rows.append(row | measure_path(opened, vertices, path, references))
        summary = {"run": str(self.run), "pairs": count, "steps": self.steps, "seed": self.seed, "rows": rows}
        atomic.write_json(self.out / "compare.json", summary)
        with atomic.replacing(self.out / "compare.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        titles = {
            "random": f"{count} random pairs",
            "far": f"the {len(pairs['far'])} farthest apart of {NUM_CANDIDATES * count:,} random pairs",
        }
        for kind, title in titles.items():
            chosen = {m: [row for row in rows if row["pairs"] == kind and row["method"] == m] for m in METHODS}
            print_measures(f"{title}, {self.steps} meshes each: mean ± standard deviation", chosen)
        print(f"{self.out}: compare.json, compare.csv")

    def draw_pairs(self, opened: OpenedRun, references: ReferenceMeshes, count: int) -> dict[str, list[list[int]]]:
        """`count` random pairs of the split, and a quarter as many that are the farthest apart of a larger draw."""
        total = len(opened.data.splits[self.split])
        if total < 2:
            raise ValueError(f"{opened.data.path}: split {self.split} has {total} mesh, a pair needs 2")
        rng = np.random.default_rng(self.seed)
        random = [rng.choice(total, 2, replace=False).tolist() for _ in range(count)]
        indices, vertices = references.indices, references.vertices
        candidates = [rng.choice(len(indices), 2, replace=False) for _ in range(NUM_CANDIDATES * count)]
        apart = [np.linalg.norm(vertices[a] - vertices[b], axis=-1).mean() for a, b in candidates]
        farthest = np.argsort(apart)[::-1][: max(1, count // 4)].tolist()
        return {"random": random, "far": [[indices[i] for i in candidates[pair]] for pair in farthest]}


@dataclass(frozen=True)
class Sample:
    """Generate meshes: decode random latents of a density fitted to the latents of the train split.

    Of a large split, 4,096 meshes are used, spread evenly.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, or the word demo: the network that comes with the package."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to write: 000.ply, ..., and samples.npz."""
    count: int = 8
    """Number of meshes."""
    density: Literal["mixture", "gaussian"] = "mixture"
    """Draw from a mixture of Gaussians, whose meshes are nearer to those of the train split, or from one Gaussian."""
    seed: int = 0
    """Seed of the latents."""
    data: str | None = None
    """The dataset (default: the one the run was trained on)."""
    format: Literal["ply", "obj"] = "ply"
    """File format of the meshes."""
    overwrite: bool = False
    """Replace the files of the folder."""

    def __call__(self) -> None:
        import jax

        from spectral_jax.basis import spectral
        from spectral_jax.geometry.mesh import Mesh, write_mesh
        from spectral_jax.network import density
        from spectral_jax.runs.opened import encode_some

        if self.count < 1:
            raise ValueError(f"--count must be at least 1, not {self.count}")
        if self.out.exists() and any(self.out.iterdir()) and not self.overwrite:
            raise ValueError(f"{self.out} is not empty; --overwrite replaces its files")
        opened = open_run(self.run, self.data)
        with Bars() as bars:
            encoded = encode_some(opened, progress=bars).latents
        fit = density.fit_mixture if self.density == "mixture" else density.fit_gaussian
        with console.status(f"fitting: {self.density}"):
            fitted = fit(encoded)
        latents = density.sample(jax.random.key(self.seed), fitted, self.count)
        coefficients = opened.codec.decode(latents)
        self.out.mkdir(parents=True, exist_ok=True)
        for i, vertices in enumerate(np.asarray(spectral.reconstruct(opened.basis, coefficients))):
            write_mesh(self.out / f"{i:03d}.{self.format}", Mesh(*spectral.with_unused(opened.basis, vertices)))
        np.savez(self.out / "samples.npz", allow_pickle=False, latents=latents, coefficients=coefficients)
        print(f"{self.out}: {self.count} meshes, samples.npz")


@dataclass(frozen=True)
class Filter:
    """Low-pass filter a mesh: keep its lowest modes, which are its shape without its detail."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, or the word demo, whose basis and dataset are used."""
    mesh: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="I|FILE")]
    """An index of the split, or a mesh file of the same connectivity."""
    modes: int
    """Number of modes to keep."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The mesh file to write."""
    width: int = 0
    """Number of modes over which the filter fades out (0: a sharp cut)."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a mesh file's size, unpacked."""
    overwrite: bool = False
    """Replace the file if it exists."""
    split: str = "test"
    """The split that the index is of."""
    data: str | None = None
    """The dataset (default: the one the run was trained on)."""

    def __call__(self) -> None:
        from spectral_jax.paths import interpolate
        from spectral_jax.runs.opened import read_coefficients

        check_free(self.out, self.overwrite)
        opened = open_run(self.run, self.data)
        coefficients = read_coefficients(opened, self.mesh, self.split, self.max_file_bytes)
        write_coefficients(self.out, opened, interpolate.low_pass(coefficients, self.modes, self.width))


@dataclass(frozen=True)
class Mix:
    """Combine the low modes of one mesh with the high modes of another: the pose of one, the detail of the other."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, or the word demo, whose basis and dataset are used."""
    low: Annotated[str, tyro.conf.arg(metavar="I|FILE")]
    """The mesh whose low modes are taken: an index of the split, or a mesh file of the same connectivity."""
    high: Annotated[str, tyro.conf.arg(metavar="J|FILE")]
    """The mesh whose high modes are taken, likewise."""
    cut: int
    """Number of modes taken from the mesh of the low modes."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The mesh file to write."""
    width: int = 0
    """Number of modes over which one mesh blends into the other (0: a sharp cut)."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a mesh file's size, unpacked."""
    overwrite: bool = False
    """Replace the file if it exists."""
    split: str = "test"
    """The split that indices are of."""
    data: str | None = None
    """The dataset (default: the one the run was trained on)."""

    def __call__(self) -> None:
        from spectral_jax.paths import interpolate
        from spectral_jax.runs.opened import read_coefficients

        check_free(self.out, self.overwrite)
        opened = open_run(self.run, self.data)
        limits = self.split, self.max_file_bytes
        low, high = (read_coefficients(opened, text, *limits) for text in (self.low, self.high))
        write_coefficients(self.out, opened, interpolate.mix_bands(low, high, self.cut, self.width))


def write_coefficients(out: Path, opened: OpenedRun, coefficients) -> None:
    """Write the mesh of coefficients (freq, 3)."""
    from spectral_jax.basis import spectral
    from spectral_jax.geometry.mesh import Mesh, write_mesh

    out.parent.mkdir(parents=True, exist_ok=True)
    vertices = np.asarray(spectral.reconstruct(opened.basis, coefficients))
    write_mesh(out, Mesh(*spectral.with_unused(opened.basis, vertices)))
    print(out)


def interpolate_between(
    ends: list[np.ndarray], method: Method, opened: OpenedRun, amounts: np.ndarray
) -> dict[str, Any]:
    """The coefficients of a path, its latents unless it is spatial, and the quality of a geodesic, by name."""
    from spectral_jax.paths import interpolate

    if method == "spatial":
        return {"coefficients": interpolate.straight(*ends, amounts)}
    latents = opened.codec.encode(np.stack(ends))
    if method == "geodesic":
        found = interpolate.codec_geodesic(opened.codec, *latents, num_points=len(amounts))
        path = {name: getattr(found, name) for name in GEODESIC}
        return path | {"latents": found.latents, "coefficients": opened.codec.decode(found.latents)}
    between = interpolate.straight if method == "latent" else interpolate.spherical
    latents = between(*latents, amounts)
    return {"latents": latents, "coefficients": opened.codec.decode(latents)}


def measure_path(
    opened: OpenedRun, vertices: np.ndarray, path: dict[str, Any], references: ReferenceMeshes
) -> dict[str, Any]:
    """The measures of a path by name, as plain numbers."""
    from spectral_jax.paths import measures

    codec, faces = opened.codec, np.asarray(opened.basis.faces)
    found = dataclasses.asdict(measures.measure(vertices, faces, references.vertices))
    if "latents" in path:
        found["round_trip_error"] = measures.round_trip(codec.encode, codec.decode, path["latents"], references.spread)
    found |= {name: path[name] for name in GEODESIC if name in path}
    return {name: np.asarray(value).item() for name, value in found.items()}


def print_measures(title: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Print measures as a table: a row for each measure, a column for each method."""
    table = Table(title=title)
    table.add_column("")
    for method in rows:
        table.add_column(method, justify="right")
    names = dict.fromkeys(name for found in rows.values() for row in found for name in row)
    for name in names:
        cells = []
        for found in rows.values():
            values = [float(row[name]) for row in found if row.get(name) is not None] if name not in LABELS else []
            spread = f" ±{short(np.std(values), 2)}" if len(values) > 1 else ""
            cells.append(f"{short(np.mean(values), 3)}{spread}" if values else "")
        if name not in LABELS:
            table.add_row(name.replace("_", " "), *cells)
    Console().print(table)


def short(value: Any, digits: int) -> str:
    """A number with this many significant digits, without an exponent unless it is tiny."""
    if abs(value) < 1e-4:
        return f"{value:.1g}"
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")
