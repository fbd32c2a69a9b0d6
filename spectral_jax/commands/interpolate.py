"""`spectral-jax interpolate`, `sample`, `filter` and `mix`: experiments with a trained network and its basis."""

from __future__ import annotations

import csv
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars, check_free, console, track
from spectral_jax.commands.network import Network, ReferenceMeshes, open_network, read_mesh, read_others

Method = Literal["spatial", "latent", "spherical", "geodesic"]
METHODS: tuple[Method, ...] = ("spatial", "latent", "spherical", "geodesic")
LABELS = ("pairs", "from", "to", "method")
CANDIDATES = 20  # pairs looked at for each one compared, to find some that are far apart


@dataclass(frozen=True)
class Interpolate:
    """Walk from one mesh to another, through vertex space or the network's latents, and measure the way."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to make: frames, path.glb, path.gif, path.npz and measures.json; with --compare the table."""
    start: Annotated[str, tyro.conf.arg(name="from", metavar="I|FILE")] = "0"
    """The first mesh: an index of the split, or a mesh file of the same connectivity, metres, placed as the data is."""
    end: Annotated[str, tyro.conf.arg(name="to", metavar="J|FILE")] = "1"
    """The last mesh, likewise."""
    method: Method = "latent"
    """Straight in vertex space, straight or along a great circle in latent space, or a geodesic of the decoder."""
    steps: int = 16
    """Meshes on the way, ends included."""
    extend: float = 0.0
    """Go on beyond both ends by this share of the way (not along a geodesic)."""
    compare: Annotated[int | None, tyro.conf.arg(metavar="PAIRS")] = None
    """Instead: compare all methods on so many random pairs of the split."""
    seed: int = 0
    """Seed of the random pairs."""
    split: str = "test"
    """The split that indices and pairs are of."""
    data: str | None = None
    """A dataset (default: the one the run was trained on)."""
    format: Literal["ply", "obj"] = "ply"
    """What the frames are written as."""
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
        network = open_network(self.run, self.data)
        if self.compare is None:
            self.one(network)
        else:
            self.all(network, self.compare)

    def one(self, network: Network) -> None:
        """Write one path in all its forms."""
        from spectral_jax.basis import spectral
        from spectral_jax.geometry import gltf, render
        from spectral_jax.geometry.mesh import Mesh, write_mesh

        ends = [read_mesh(text, network, self.split) for text in (self.start, self.end)]
        amounts = np.linspace(-self.extend, 1 + self.extend, self.steps, dtype=np.float32)
        with console.status(f"walking: {self.method}"):
            path = walk(self.method, network, ends, amounts)
            vertices = np.asarray(spectral.reconstruct(network.run.basis, path["coefficients"]))
            measures = measure(network, vertices, path, read_others(network, self.split))
        faces = np.asarray(network.run.basis.faces)
        (self.out / "frames").mkdir(parents=True, exist_ok=True)
        for old in (self.out / "frames").glob(f"[0-9]*.{self.format}"):  # of a longer path
            old.unlink()
        for step, frame in enumerate(vertices):
            write_mesh(self.out / "frames" / f"{step:03d}.{self.format}", Mesh(frame, faces))
        gltf.write_animation(self.out / "path.glb", vertices, faces)
        np.savez(self.out / "path.npz", allow_pickle=False, amounts=amounts, **path)
        record = {"run": str(self.run), "from": self.start, "to": self.end, "method": self.method, **measures}
        (self.out / "measures.json").write_text(json.dumps(record, indent=1) + "\n")
        try:
            view = render.window(vertices)
            render.write_gif(self.out / "path.gif", [render.draw(frame, faces, view) for frame in vertices])
        except ValueError as error:
            console.print(f"no path.gif: {error}", soft_wrap=True)
        print_measures(f"{self.method}, {self.start} to {self.end}, {self.steps} meshes", {self.method: [measures]})
        print(f"{self.out}: {self.steps} frames, path.glb, path.npz, measures.json")

    def all(self, network: Network, count: int) -> None:
        """Measure every method on random pairs, print their means and write all figures."""
        from spectral_jax.basis import spectral

        rng, others = np.random.default_rng(self.seed), read_others(network, self.split)
        total = len(network.data.splits[self.split])
        if total < 2:
            raise ValueError(f"{network.data.path}: {total} mesh in split {self.split}, two are needed")
        random = [rng.choice(total, 2, replace=False).tolist() for _ in range(count)]
        candidates = [rng.choice(len(others.indices), 2, replace=False) for _ in range(CANDIDATES * count)]
        apart = [np.linalg.norm(others.vertices[a] - others.vertices[b], axis=-1).mean() for a, b in candidates]
        farthest = np.argsort(apart)[::-1][: max(1, count // 4)].tolist()
        far = [[others.indices[i] for i in candidates[pair]] for pair in farthest]
        amounts, rows = np.linspace(0, 1, self.steps, dtype=np.float32), []
        for i, pair in enumerate(track([*random, *far], "comparing")):
            ends = [read_mesh(str(index), network, self.split) for index in pair]
            for method in METHODS:
                path = walk(method, network, ends, amounts)
                vertices = np.asarray(spectral.reconstruct(network.run.basis, path["coefficients"]))
                row = {"pairs": "random" if i < count else "far", "from": pair[0], "to": pair[1], "method": method}
                rows.append(row | measure(network, vertices, path, others))
        self.out.mkdir(parents=True, exist_ok=True)
        summary = {"run": str(self.run), "pairs": count, "steps": self.steps, "seed": self.seed, "rows": rows}
        (self.out / "compare.json").write_text(json.dumps(summary, indent=1) + "\n")
        with (self.out / "compare.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        titles = {
            "random": f"{count} random pairs",
            "far": f"the {len(far)} farthest apart of {len(candidates):,} random pairs",
        }
        for name, title in titles.items():
            chosen = {m: [row for row in rows if row["pairs"] == name and row["method"] == m] for m in METHODS}
            print_measures(f"{title}, {self.steps} meshes each: mean ± deviation", chosen)
        print(f"{self.out}: compare.json, compare.csv")


@dataclass(frozen=True)
class Sample:
    """Decode random latents of a Gaussian fitted to those of the train split."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to make: 000.ply, ..., and samples.npz."""
    count: int = 8
    """How many."""
    seed: int = 0
    """Seed of the latents."""
    data: str | None = None
    """A dataset (default: the one the run was trained on)."""
    format: Literal["ply", "obj"] = "ply"
    """What the meshes are written as."""
    overwrite: bool = False
    """Replace the files of the folder."""

    def __call__(self) -> None:
        import jax

        from spectral_jax.basis import spectral
        from spectral_jax.data import dataset
        from spectral_jax.geometry.mesh import Mesh, write_mesh
        from spectral_jax.paths import interpolate

        if self.count < 1:
            raise ValueError(f"--count must be at least 1, not {self.count}")
        if self.out.exists() and any(self.out.iterdir()) and not self.overwrite:
            raise ValueError(f"{self.out} is not empty; --overwrite replaces its files")
        network = open_network(self.run, self.data)
        with Bars() as bars:
            modes = network.run.config.model.modes
            train = dataset.read_split(network.data, "train", modes, progress=bars).coefficients
        gaussian = interpolate.fit_gaussian(network.codec.encode(train))
        latents = interpolate.sample(jax.random.key(self.seed), gaussian, self.count)
        coefficients = network.codec.decode(latents)
        self.out.mkdir(parents=True, exist_ok=True)
        faces = np.asarray(network.run.basis.faces)
        for i, vertices in enumerate(np.asarray(spectral.reconstruct(network.run.basis, coefficients))):
            write_mesh(self.out / f"{i:03d}.{self.format}", Mesh(vertices, faces))
        np.savez(self.out / "samples.npz", allow_pickle=False, latents=latents, coefficients=coefficients)
        print(f"{self.out}: {self.count} meshes, samples.npz")


@dataclass(frozen=True)
class Filter:
    """Keep the lowest modes of a mesh: its shape without its detail."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, for its basis and its dataset."""
    mesh: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="I|FILE")]
    """An index of the split, or a mesh file of the same connectivity."""
    modes: int
    """Modes kept."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The mesh file to write."""
    width: int = 0
    """Modes within which they fade out (0: at once)."""
    overwrite: bool = False
    """Replace the file if it exists."""
    split: str = "test"
    """The split that the index is of."""
    data: str | None = None
    """A dataset (default: the one the run was trained on)."""

    def __call__(self) -> None:
        from spectral_jax.paths import interpolate

        check_free(self.out, self.overwrite)
        network = open_network(self.run, self.data)
        coefficients = read_mesh(self.mesh, network, self.split)
        write_coefficients(self.out, network, interpolate.low_pass(coefficients, self.modes, self.width))


@dataclass(frozen=True)
class Mix:
    """The low modes of one mesh with the high ones of another: pose of the one, detail of the other."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, for its basis and its dataset."""
    low: Annotated[str, tyro.conf.arg(metavar="I|FILE")]
    """The mesh of the low modes: an index of the split, or a mesh file of the same connectivity."""
    high: Annotated[str, tyro.conf.arg(metavar="J|FILE")]
    """The mesh of the high modes, likewise."""
    cut: int
    """Modes of the first."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The mesh file to write."""
    width: int = 0
    """Modes within which one crosses over to the other (0: at once)."""
    overwrite: bool = False
    """Replace the file if it exists."""
    split: str = "test"
    """The split that indices are of."""
    data: str | None = None
    """A dataset (default: the one the run was trained on)."""

    def __call__(self) -> None:
        from spectral_jax.paths import interpolate

        check_free(self.out, self.overwrite)
        network = open_network(self.run, self.data)
        low, high = (read_mesh(text, network, self.split) for text in (self.low, self.high))
        write_coefficients(self.out, network, interpolate.mix_bands(low, high, self.cut, self.width))


def write_coefficients(out: Path, network: Network, coefficients) -> None:
    """Write the mesh of coefficients (freq, 3)."""
    from spectral_jax.basis import spectral
    from spectral_jax.geometry.mesh import Mesh, write_mesh

    out.parent.mkdir(parents=True, exist_ok=True)
    vertices = np.asarray(spectral.reconstruct(network.run.basis, coefficients))
    write_mesh(out, Mesh(vertices, np.asarray(network.run.basis.faces)))
    print(out)


def walk(method: Method, network: Network, ends: list[np.ndarray], amounts: np.ndarray) -> dict[str, Any]:
    """The coefficients of a path, and its latents where it has any; of a geodesic also how well it was found."""
    from spectral_jax.paths import interpolate

    if method == "spatial":
        return {"coefficients": interpolate.straight(*ends, amounts)}
    latents = network.codec.encode(np.stack(ends))
    if method == "geodesic":
        found = network.geodesic(*latents, num_points=len(amounts))
        path = {name: getattr(found, name) for name in ("straight_energy", "energy", "converged", "iterations")}
        return path | {"latents": found.latents, "coefficients": network.codec.decode(found.latents)}
    between = interpolate.straight if method == "latent" else interpolate.spherical
    latents = between(*latents, amounts)
    return {"latents": latents, "coefficients": network.codec.decode(latents)}


def measure(network: Network, vertices: np.ndarray, path: dict[str, Any], others: ReferenceMeshes) -> dict[str, Any]:
    """The measures of a path as plain numbers."""
    from spectral_jax.paths import measures

    faces = np.asarray(network.run.basis.faces)
    found = dataclasses.asdict(measures.measure(vertices, faces, others.vertices))
    if "latents" in path:
        round_trip = measures.round_trip(network.codec.encode, network.codec.decode, path["latents"], others.spread)
        found["round_trip_error"] = round_trip
    found |= {name: path[name] for name in ("straight_energy", "energy", "converged", "iterations") if name in path}
    return {name: np.asarray(value).item() for name, value in found.items()}


def print_measures(title: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """A table: a line a measure, a column a method."""
    table = Table(title=title)
    table.add_column("")
    for method in rows:
        table.add_column(method, justify="right")
    names = dict.fromkeys(name for found in rows.values() for row in found for name in row)
    for name in names:
        cells = []
        for found in rows.values():
            values = [float(row[name]) for row in found if row.get(name) is not None] if name not in LABELS else []
            spread = f"±{short(np.std(values), 2)}" if len(values) > 1 else ""
            cells.append(f"{short(np.mean(values), 3)}{spread}" if values else "")
        if name not in LABELS:
            table.add_row(name.replace("_", " "), *cells)
    Console().print(table)


def short(value: Any, digits: int) -> str:
    """A number to so many digits, without an exponent unless it is tiny."""
    if abs(value) < 1e-4:
        return f"{value:.1g}"
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")
