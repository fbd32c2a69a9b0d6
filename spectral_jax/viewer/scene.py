"""What the viewers show, free of any GUI: a choice, and the meshes that follow from it for a run and its data."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectral_jax.basis import spectral
from spectral_jax.data.dataset import Data
from spectral_jax.geometry.metrics import vertex_errors_mm
from spectral_jax.network.codec import Codec
from spectral_jax.paths import interpolate
from spectral_jax.runs.run import Run

Show = Literal["reconstruction", "interpolation", "latent walk"]
Through = Literal["network", "basis alone"]
Layout = Literal["beside", "overlaid"]
Method = Literal["latent", "spherical", "geodesic"]

LOOKED_AT = 256  # meshes of a split that the ranges of latents are taken from
BOXED = 32  # meshes that tell how much room one takes
GEODESIC_POINTS = 16
FAINT = 0.4  # opacity of what is only there to be compared with


@dataclass(frozen=True)
class Choice:
    """All that can be chosen in a viewer, but the run."""

    show: Show = "reconstruction"
    """What to look at."""
    split: str = "test"
    """The split that indices are of."""
    index: int = 0
    """The mesh that is reconstructed, or that a walk starts from."""
    through: Through = "network"
    """What it is reconstructed by."""
    layout: Layout = "beside"
    """Whether meshes to compare stand beside each other or in each other."""
    modes: int = 1 << 20
    """Modes kept of whatever is reconstructed, at most those of the network."""
    low_mm: float = 0.0
    """The error of the first colour."""
    high_mm: float = 50.0
    """The error of the last colour."""
    start: int = 0
    """The first mesh of an interpolation."""
    end: int = 1
    """The last one."""
    amount: float = 0.5
    """How far along, 0 to 1."""
    method: Method = "latent"
    """The way through latent space."""
    latent: tuple[float, ...] = ()
    """Where a walk is; nothing where it starts."""


class Sample(NamedTuple):
    """A mesh of the data in metres, and what the network makes of it."""

    vertices: Float[np.ndarray, "vertex 3"]
    coefficients: Float[np.ndarray, "freq 3"]
    latent: Float[np.ndarray, "latent"]
    decoded: Float[np.ndarray, "freq 3"]
    identity: str
    label: str


@dataclass(frozen=True)
class Subject:
    """A run and its data, ready to be looked at.

    Attributes:
      mesh: the sample of a split and an index. Raises ValueError for either where there is no such.
      geodesic: latents of the geodesic of a split between two indices.
      low, high: of latents, three deviations about the mean of meshes that the network was trained on.
      box: two opposite corners, metres, of the room that most meshes keep to.
    """

    run: Run
    data: Data
    codec: Codec
    mesh: Callable[[str, int], Sample]
    geodesic: Callable[[str, int, int], Float[Array, "point latent"]]
    low: Float[np.ndarray, "latent"]
    high: Float[np.ndarray, "latent"]
    box: Float[np.ndarray, "2 3"]

    @property
    def faces(self) -> Int[np.ndarray, "face 3"]:
        """Of all its meshes."""
        return np.asarray(self.run.basis.faces)


class Gallery(NamedTuple):
    """The runs to choose from: what they are called, and how one is loaded."""

    names: Callable[[], list[str]]
    load: Callable[[str], Subject]


class Layer(NamedTuple):
    """A mesh that is shown: metres, errors where it is coloured by them, opacity, and its place in the row."""

    name: str
    vertices: Float[np.ndarray, "vertex 3"]
    errors_mm: Float[np.ndarray, "vertex"] | None = None
    opacity: float = 1.0
    column: int = 0


class Picture(NamedTuple):
    """What follows from a choice: meshes, the one that matters first; what was measured; where they are from."""

    layers: list[Layer]
    measured: str
    mean_mm: float
    max_mm: float
    origin: list[str]


def prepare(run: Run, data: Data, codec: Codec, geodesic: Callable) -> Subject:
    """A run with its data, compiled; `geodesic` is one of two latents and `num_points`."""

    @functools.lru_cache(maxsize=64)
    def mesh(split: str, index: int) -> Sample:
        records = data.records(split)
        if not 0 <= index < len(records):
            raise ValueError(f"{data.path}: mesh {index} of split {split}, which has {len(records)}")
        example = records[index]
        coefficients = np.asarray(example.coefficients[: run.config.model.modes], np.float32)
        if not np.isfinite(coefficients).all():
            raise ValueError(f"{data.path}: mesh {index} of split {split} has values that are not finite")
        latent = codec.encode(coefficients[None])
        vertices = example.vertices
        if vertices is None:
            vertices = shapes(codec, coefficients[None], len(coefficients))[0]
        label = f"{split} {index}: {example.identity}, {example.file}, frame {example.frame}"
        return Sample(vertices, coefficients, latent[0], codec.decode(latent)[0], example.identity, label)

    @functools.lru_cache(maxsize=64)
    def way(split: str, start: int, end: int) -> Float[Array, "point latent"]:
        ends = mesh(split, start).latent, mesh(split, end).latent
        return geodesic(*ends, num_points=GEODESIC_POINTS).latents.block_until_ready()

    train = "train" if "train" in data.splits else next(iter(data.splits))
    records, modes = data.splits[train], run.config.model.modes
    latents = codec.encode(np.stack([records[i].coefficients[:modes] for i in spread(len(records), LOOKED_AT)]))
    middle, reach = latents.mean(axis=0), 3 * latents.std(axis=0) + 1e-3
    boxed = np.stack([mesh(train, i).vertices for i in spread(len(records), BOXED)])
    box = np.stack([np.quantile(boxed.min(axis=1), 0.1, axis=0), np.quantile(boxed.max(axis=1), 0.9, axis=0)])
    subject = Subject(run, data, codec, mesh, way, middle - reach, middle + reach, box)
    for choice in (Choice(), Choice(show="interpolation"), Choice(show="interpolation", method="spherical")):
        draw(subject, clamp(choice, subject))
    return subject


def spread(count: int, most: int) -> list[int]:
    """At most so many indices, evenly over `count`."""
    return np.unique(np.linspace(0, count - 1, most).astype(int)).tolist()


def clamp(choice: Choice, subject: Subject) -> Choice:
    """The choice nearest to one that this run and its data have."""
    config, splits = subject.run.config.model, subject.data.splits
    split = choice.split if choice.split in splits else next(iter(splits))
    last = len(splits[split]) - 1
    index, start, end = (min(max(i, 0), last) for i in (choice.index, choice.start, choice.end))
    latent = choice.latent if len(choice.latent) == config.latent_size else ()
    return replace(
        choice,
        split=split,
        index=index,
        start=start,
        end=end,
        modes=min(max(choice.modes, 1), config.modes),
        high_mm=max(choice.high_mm, choice.low_mm + 0.1),
        amount=min(max(choice.amount, 0.0), 1.0),
        latent=latent,
    )


def draw(subject: Subject, choice: Choice) -> Picture:
    """The meshes of a choice that fits the subject."""
    if choice.show == "interpolation":
        return _draw_interpolation(subject, choice)
    sample = subject.mesh(choice.split, choice.index)
    beside = int(choice.layout == "beside")
    faint = 1.0 if beside else FAINT
    if choice.show == "latent walk":
        latent = np.array([choice.latent], np.float32) if choice.latent else sample.latent[None]
        coefficients = np.stack([subject.codec.decode(latent)[0], sample.decoded])
        moved, start = shapes(subject.codec, coefficients, choice.modes)
        layers = [Layer("walk", moved, column=beside), Layer("start", start, opacity=faint)]
        return Picture(layers, "from the start", *_distances(moved, start), [sample.label])
    source = sample.decoded if choice.through == "network" else sample.coefficients
    rebuilt = shapes(subject.codec, source[None], choice.modes)[0]
    errors = np.asarray(vertex_errors_mm(rebuilt, sample.vertices))
    layers = [Layer("reconstruction", rebuilt, errors, column=beside), Layer("original", sample.vertices, None, faint)]
    return Picture(layers, "error", float(errors.mean()), float(errors.max()), [sample.label])


def _draw_interpolation(subject: Subject, choice: Choice) -> Picture:
    start, end = (subject.mesh(choice.split, i) for i in (choice.start, choice.end))
    amounts = np.array([choice.amount], np.float32)
    if choice.method == "geodesic":
        latent = interpolate.spline(subject.geodesic(choice.split, choice.start, choice.end), amounts)
    else:
        between = interpolate.straight if choice.method == "latent" else interpolate.spherical
        latent = between(start.latent, end.latent, amounts)
    spatial = interpolate.straight(start.coefficients, end.coefficients, amounts)
    coefficients = np.concatenate([subject.codec.decode(latent), spatial])
    moved, straight = shapes(subject.codec, coefficients, choice.modes)
    columns = (1, 2, 0, 3) if choice.layout == "beside" else (0, 1, 0, 0)
    layers = [
        Layer(choice.method, moved, column=columns[0]),
        Layer("straight in space", straight, column=columns[1]),
        Layer("from", start.vertices, opacity=FAINT, column=columns[2]),
        Layer("to", end.vertices, opacity=FAINT, column=columns[3]),
    ]
    return Picture(layers, "between the ways", *_distances(moved, straight), [start.label, end.label])


def _distances(vertices: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Mean and maximum over vertices, mm."""
    distances = np.asarray(vertex_errors_mm(vertices, other))
    return float(distances.mean()), float(distances.max())


def shapes(
    codec: Codec, coefficients: Float[Array | np.ndarray, "mesh freq 3"], modes: int
) -> Float[np.ndarray, "mesh vertex 3"]:
    """Vertices in metres of the first `modes` coefficients: the others are zeros, so no number of them compiles."""
    return np.asarray(_shapes(codec, coefficients, modes))


@jax.jit
def _shapes(codec: Codec, coefficients: Array, modes: Array) -> Array:
    kept = (jnp.arange(coefficients.shape[1]) < modes)[None, :, None]
    return spectral.reconstruct(codec.basis, jnp.where(kept, coefficients, 0))


def first_mesh(data: Data, split: str, identity: str) -> int:
    """The index of a mesh of an identity: where the meshes of those before it end, else by looking through them all.

    Raises ValueError where there is none.
    """
    records, before = data.splits[split], 0
    for name, count in identities(data, split).items():
        if name == identity:
            break
        before += count
    for index in (before, *range(len(records))):
        if index < len(records) and records[index].identity == identity:
            return index
    raise ValueError(f"{data.path}: no mesh of {identity!r} in split {split}")


def identities(data: Data, split: str) -> dict[str, int]:
    """Identities of a split and how many meshes they have."""
    return data.metadata["identities"][split]


def options(subject: Subject) -> dict[str, str]:
    """What the run was told, and how far it came."""
    config = subject.run.config
    told = {**vars(config.model), **vars(config.train)}
    named = {name.replace("_", " "): f"{value:,}" if type(value) is int else str(value) for name, value in told.items()}
    return {"data": str(subject.data.path), "epoch": f"{subject.run.epoch:,}"} | named


def normals(vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]) -> Float[np.ndarray, "vertex 3"]:
    """Unit normals of vertices: the sum of those of their faces, by area."""
    a, b, c = vertices[faces.T]
    across = np.cross(b - a, c - a)
    summed = [np.bincount(faces.ravel(), np.repeat(axis, 3), len(vertices)) for axis in across.T]
    stacked = np.stack(summed, axis=1)
    return (stacked / (np.linalg.norm(stacked, axis=1, keepdims=True) + 1e-20)).astype(np.float32)


def coloured_glb(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"], rgb: Float[np.ndarray, "vertex 3"]
) -> bytes:
    """A mesh with colours (sRGB, 0 to 1) as binary glTF 2.0, which holds them linear."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    arrays = [vertices, normals(vertices, faces), linear]
    parts = [np.ascontiguousarray(array, "<f4").tobytes() for array in arrays]
    parts.append(np.ascontiguousarray(faces, "<u4").tobytes())
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    accessors: list[dict[str, Any]] = [
        {"bufferView": i, "componentType": 5126, "count": len(vertices), "type": "VEC3"} for i in range(3)
    ]
    accessors[0] |= {"min": vertices.min(axis=0).tolist(), "max": vertices.max(axis=0).tolist()}
    accessors.append({"bufferView": 3, "componentType": 5125, "count": faces.size, "type": "SCALAR"})
    attributes = {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 3, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}}],
        "buffers": [{"byteLength": starts[-1]}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": len(part)}
            for start, part in zip(starts[:-1], parts, strict=True)
        ],
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + starts[-1])
    return b"".join(
        [head, struct.pack("<I4s", len(text), b"JSON"), text, struct.pack("<I4s", starts[-1], b"BIN\0"), *parts]
    )


def places(picture: Picture, box: Float[np.ndarray, "2 3"]) -> list[float]:
    """Where each layer stands, metres along x: the row is about 0, and no mesh in the room of another."""
    columns = [layer.column for layer in picture.layers]
    pitch = 1.1 * float(box[1, 0] - box[0, 0])
    return [pitch * (column - max(columns) / 2) for column in columns]


def eye(
    picture: Picture, box: Float[np.ndarray, "2 3"], fov: float, aspect: float
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Where to look at the row from, and at what, metres, to see it whole; `fov` is the vertical one in radians."""
    middle, size = box.mean(axis=0), box[1] - box[0]
    width = max(places(picture, box)) * 2 + 1.1 * size[0]
    half = max(1.15 * size[1], width / aspect) / 2
    return middle + np.array([0, 0.1 * size[1], half / np.tan(fov / 2) + size[2] / 2]), middle
