"""What the viewers show, without any GUI: a choice, and the picture that it gives of a run and its dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectral_jax.basis import spectral
from spectral_jax.data.dataset import Data, Example
from spectral_jax.geometry.metrics import vertex_errors_mm
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.network import probing
from spectral_jax.network.codec import Codec
from spectral_jax.paths import interpolate
from spectral_jax.runs.opened import OpenedRun, encode_some, example
from spectral_jax.runs.run import Run

Show = Literal["reconstruction", "interpolation", "latent walk"]
Through = Literal["network", "basis alone"]
Layout = Literal["beside", "overlaid"]
Method = Literal["latent", "spherical", "geodesic", "identity"]

NUM_ENCODED = 64  # meshes of the train split that the ranges of latents come from
NUM_BOXED = 32  # of them, meshes that the size of a mesh's place comes from
NUM_SEPARATED = 512  # of them, meshes that tell identity from pose
NUM_PAIRED = 256  # meshes of a split among which pairs are found
NUM_CACHED = 64  # samples, and geodesics, kept of a run
GEODESIC_POINTS = 16
PUBLISHED_PAIR = 10, 871  # test meshes that the published viewer starts with
FAINT = 0.4  # opacity of meshes that are only shown for comparison


@dataclass(frozen=True)
class Choice:
    """All that a user can choose in a viewer, except the run."""

    show: Show = "reconstruction"
    """What to look at."""
    split: str = "test"
    """The split that all indices refer to."""
    index: int = 0
    """The mesh to reconstruct, or at which a latent walk starts."""
    through: Through = "network"
    """What reconstructs the mesh."""
    layout: Layout = "beside"
    """Whether compared meshes stand beside each other or in one place."""
    modes: int = 1 << 20
    """Number of modes kept of every reconstruction, at most those of the network."""
    low_mm: float = 0.0
    """The error shown in the first colour."""
    high_mm: float = 50.0
    """The error shown in the last colour."""
    start: int = 0
    """The first mesh of an interpolation."""
    end: int = 1
    """The last mesh of an interpolation."""
    amount: float = 0.5
    """Position along the interpolation, 0 to 1."""
    method: Method = "latent"
    """Method of the interpolation in latent space."""
    latent: tuple[float, ...] = ()
    """The latent of a walk; empty where the walk starts."""


class Sample(NamedTuple):
    """A mesh of the dataset, metres, and its reconstruction by the network."""

    vertices: Float[np.ndarray, "vertex 3"]
    coefficients: Float[np.ndarray, "freq 3"]
    latent: Float[np.ndarray, "latent"]
    decoded: Float[np.ndarray, "freq 3"]
    identity: str
    label: str


class Subject:
    """A run with its dataset, ready to be drawn: it has read a few train meshes; samples and geodesics are cached.

    What a picture needs is compiled when the first one of its kind is asked for.

    Attributes:
      low, high: range of each latent: three standard deviations about the mean of the train split.
      box: two opposite corners, metres, of the box that most meshes fit into.
    """

    run: Run
    data: Data
    codec: Codec
    low: Float[np.ndarray, "latent"]
    high: Float[np.ndarray, "latent"]
    box: Float[np.ndarray, "2 3"]

    def __init__(self, opened: OpenedRun):
        self._opened, self.run, self.data, self.codec = opened, opened.run, opened.data, opened.codec
        self._cached_sample = functools.lru_cache(NUM_CACHED)(self._read_sample)
        self._cached_geodesic = functools.lru_cache(NUM_CACHED)(self._find_geodesic)
        train = "train" if "train" in self.data.splits else next(iter(self.data.splits))
        chosen = evenly_spaced(len(self.data.splits[train]), NUM_ENCODED)
        coefficients = np.stack([self._read(train, i)[1] for i in chosen])
        # one by one, as every sample is: a batch would be compiled for
        latents = np.concatenate([self.codec.encode(row[None]) for row in coefficients])
        middle, reach = latents.mean(axis=0), 3 * latents.std(axis=0) + 1e-3
        self.low, self.high = middle - reach, middle + reach
        modes = np.asarray(self.run.require_basis().modes)[:, : opened.num_modes]
        boxed = np.tensordot(modes, coefficients[evenly_spaced(len(chosen), NUM_BOXED)], (1, 1))  # (vertex, mesh, 3)
        corners = [end(boxed, axis=0) for end in (np.min, np.max)]
        self.box = np.stack([np.quantile(corner, q, axis=0) for corner, q in zip(corners, (0.1, 0.9), strict=True)])

    @property
    def faces(self) -> Int[np.ndarray, "face 3"]:
        """Faces of all its meshes."""
        return np.asarray(self.run.require_basis().faces)

    @functools.cached_property
    def separation(self) -> probing.Separation:
        """Identity and pose in latents; it takes seconds when first asked for. Raises ValueError as `separate` does."""
        found = encode_some(self._opened, NUM_SEPARATED)
        return probing.separate(found.latents, [each.identity for each in found.examples])

    def mesh(self, split: str, index: int) -> Sample:
        """A mesh of a split. Raises ValueError when there is no such split or index, or a value is not finite."""
        return self._cached_sample(split, index)

    def geodesic(self, split: str, start: int, end: int) -> Float[Array, "point latent"]:
        """Latents of the geodesic between two meshes of a split; it takes seconds when first asked for."""
        return self._cached_geodesic(split, start, end)

    def _read_sample(self, split: str, index: int) -> Sample:
        found, coefficients = self._read(split, index)
        latent = self.codec.encode(coefficients[None])
        vertices, label = found.vertices, f"{split} {index}: {found.identity}, {found.file}, frame {found.frame}"
        if vertices is None:
            vertices = shapes(self.codec, coefficients[None], len(coefficients))[0]
            label += f" (its original is not kept: this is what {len(coefficients):,} modes hold of it)"
        return Sample(vertices, coefficients, latent[0], self.codec.decode(latent)[0], found.identity, label)

    def _read(self, split: str, index: int) -> tuple[Example, Float[np.ndarray, "freq 3"]]:
        """A mesh of the dataset, and the coefficients that the network uses. Raises ValueError as `mesh` does."""
        found = example(self.data, split, index)
        coefficients = np.asarray(found.coefficients[: self.run.config.model.modes], np.float32)
        if not np.isfinite(coefficients).all():
            raise ValueError(f"{self.data.path}: mesh {index} of split {split} has values that are not finite")
        return found, coefficients

    def _find_geodesic(self, split: str, start: int, end: int) -> Array:
        ends = self.mesh(split, start).latent, self.mesh(split, end).latent
        found = interpolate.codec_geodesic(self.codec, *ends, num_points=GEODESIC_POINTS)
        return found.latents.block_until_ready()


class Gallery(NamedTuple):
    """The runs to choose from: a function that lists their names, and one that loads the run of a name."""

    names: Callable[[], list[str]]
    load: Callable[[str], Subject]


class Layer(NamedTuple):
    """A mesh that is shown.

    Attributes:
      vertices: metres.
      errors_mm: errors that colour the mesh; None for a plain one.
      opacity: 0 to 1.
      column: its place in the row.
    """

    name: str
    vertices: Float[np.ndarray, "vertex 3"]
    errors_mm: Float[np.ndarray, "vertex"] | None = None
    opacity: float = 1.0
    column: int = 0


class Picture(NamedTuple):
    """What a choice shows.

    Attributes:
      layers: the meshes; the first is the one that the others are compared with.
      measured: what the distances are: "error", "from the start" or "between the paths".
      mean_mm, max_mm: distances over vertices.
      origin: labels of the samples.
    """

    layers: list[Layer]
    measured: str
    mean_mm: float
    max_mm: float
    origin: list[str]


def clamp(choice: Choice, subject: Subject) -> Choice:
    """The nearest choice that this run and its dataset allow."""
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


def compose(subject: Subject, choice: Choice) -> Picture:
    """The picture of a choice that the subject allows (see `clamp`)."""
    if choice.show == "interpolation":
        return _compose_interpolation(subject, choice)
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


def _compose_interpolation(subject: Subject, choice: Choice) -> Picture:
    start, end = (subject.mesh(choice.split, i) for i in (choice.start, choice.end))
    amounts = np.array([choice.amount], np.float32)
    if choice.method == "geodesic":
        latent = interpolate.spline(subject.geodesic(choice.split, choice.start, choice.end), amounts)
    else:
        between = interpolate.spherical if choice.method == "spherical" else interpolate.straight
        swapped = choice.method == "identity"  # the pose of the first mesh with the identity of the last
        last = probing.swap(subject.separation, start.latent, end.latent) if swapped else end.latent
        latent = between(start.latent, last, amounts)
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
    return Picture(layers, "between the paths", *_distances(moved, straight), [start.label, end.label])


def pairs(subject: Subject, split: str) -> dict[str, tuple[int, int]]:
    """Pairs of meshes of a split that show something when they are interpolated, by what they show.

    They are chosen by their latents, among up to 256 meshes spread over the split, and the first may be the pair of
    the published viewer, on the published data.
    """
    count = len(subject.data.splits[split])
    rows = evenly_spaced(count, NUM_PAIRED)
    found: dict[str, tuple[int, int]] = {"published, figure 11": PUBLISHED_PAIR} if max(PUBLISHED_PAIR) < count else {}
    samples = [example(subject.data, split, row) for row in rows]
    modes = subject.run.config.model.modes
    latents = subject.codec.encode(np.stack([sample.coefficients[:modes] for sample in samples]))
    apart = np.linalg.norm(latents[:, None] - latents[None], axis=-1)
    owners = np.array([sample.identity for sample in samples], object)
    same = owners[:, None] == owners[None]
    for name, distances in (
        ("most different", apart),
        ("most different of one identity", np.where(same, apart, -1)),
        ("most alike of two identities", np.where(same, -np.inf, -apart)),
    ):
        start, end = np.unravel_index(np.argmax(distances), distances.shape)
        if start != end:
            found[name] = rows[start], rows[end]
    return found


def _distances(vertices: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Mean and maximum over vertices, mm."""
    distances = np.asarray(vertex_errors_mm(vertices, other))
    return float(distances.mean()), float(distances.max())


def shapes(
    codec: Codec, coefficients: Float[Array | np.ndarray, "mesh freq 3"], modes: int
) -> Float[np.ndarray, "mesh vertex 3"]:
    """Vertices in metres of the first `modes` coefficients; the others are set to 0, so that one program serves all."""
    return np.asarray(_shapes(codec, coefficients, modes))


@jax.jit
def _shapes(codec: Codec, coefficients: Array, modes: Array) -> Array:
    kept = (jnp.arange(coefficients.shape[1]) < modes)[None, :, None]
    return spectral.reconstruct(codec.require_basis(), jnp.where(kept, coefficients, 0))


def first_mesh(data: Data, split: str, identity: str) -> int:
    """The index of a mesh of an identity. Raises ValueError where there is none.

    Where the meshes of a split are sorted by identity, counting finds it; otherwise all meshes are read.
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
    """Number of meshes of each identity of a split."""
    return data.metadata["identities"][split]


def options(subject: Subject) -> dict[str, str]:
    """The options of a run, its dataset and its epoch, as text."""
    config = subject.run.config
    given = {**vars(config.model), **vars(config.train)}
    named = {key.replace("_", " "): f"{value:,}" if type(value) is int else str(value) for key, value in given.items()}
    return {"data": str(subject.data.path), "epoch": f"{subject.run.epoch:,}"} | named


def places(picture: Picture, box: Float[np.ndarray, "2 3"]) -> list[float]:
    """Position of each layer along x, metres: a row centred at 0, in which meshes do not overlap."""
    columns = [layer.column for layer in picture.layers]
    pitch = 1.1 * float(box[1, 0] - box[0, 0])
    return [pitch * (column - max(columns) / 2) for column in columns]


def eye(
    picture: Picture, box: Float[np.ndarray, "2 3"], fov: float, aspect: float
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Position of a camera that sees the whole row, and the point it looks at, metres; `fov` is the vertical angle."""
    middle, size = box.mean(axis=0), box[1] - box[0]
    width = max(places(picture, box)) * 2 + 1.1 * size[0]
    half = max(1.15 * size[1], width / aspect) / 2
    return middle + np.array([0, 0.1 * size[1], half / np.tan(fov / 2) + size[2] / 2]), middle
