"""Datasets of your own registered meshes: split into train and test, placed, and projected."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from spectral_jax.basis.spectral import Unused
from spectral_jax.data import projection, writer
from spectral_jax.data.projection import Projector, Row
from spectral_jax.data.recipes import MeshRecipe
from spectral_jax.data.writer import Source
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry import sequences
from spectral_jax.geometry.mesh import Connectivity, Mesh
from spectral_jax.geometry.sequences import Item

BATCH_VERTICES = 3_000_000  # vertices of a batch, at most
SLICE = 100  # consecutive frames, whose end is for testing when split by slice
PLURALS = {"identity": "identities", "sequence": "sequences", "file": "files", "mesh": "meshes", "slice": "meshes"}
LARGE = 10.0  # metres: a larger mesh is probably in another unit
SHOWN = 5  # connectivities that an error lists, and files of each


def build(recipe: MeshRecipe, progress: Progress = SILENT) -> Path:
    """Build a dataset from a folder of registered meshes and return the dataset's folder.

    `spectral_jax.geometry.sequences` lists the formats. Raises ValueError naming the first mesh that does not fit the
    template, and the files of each connectivity.
    """
    writer.check_replaceable(recipe.out, recipe.overwrite)
    if recipe.largest_group and recipe.template:
        raise ValueError(f"--largest-group chooses a connectivity, and so does --template {recipe.template}: give one")
    items, others = sequences.find(recipe.folder, recipe.max_file_bytes), []
    if recipe.largest_group:
        items, *smaller = sequences.connectivities(items, progress).values()
        others = sorted(item.name for group in smaller for item in group)
    parts = split_items(items, recipe)
    raw = sequences.read_template(items, recipe.template, recipe.max_file_bytes)
    used = used_vertices(raw, recipe)
    placement: dict[str, Any] = {"center": recipe.center, "scale": recipe.scale, "up": recipe.up}
    faces = np.searchsorted(used, raw.faces).astype(np.int32)
    template = Mesh(sequences.normalise(raw.vertices[None, used], **placement)[0], faces)
    if (size := float(np.ptp(template.vertices, axis=0).max())) > LARGE:
        advice = "for files in centimetres --scale is 0.01, in millimetres 0.001"
        warnings.warn(
            f"{recipe.folder}: with --scale {recipe.scale:g}, meshes are {size:,.0f} m large; {advice}", stacklevel=2
        )
    basis = replace(projection.choose_basis(template, recipe, progress), unused=unused_vertices(raw, used, placement))
    batch_size = int(np.clip(BATCH_VERTICES // len(template.vertices), 1, projection.BATCH))
    projector = Projector(basis, lambda kind, vertices: vertices, batch_size)
    if recipe.align != "none":  # the template is placed already
        placement["align"] = recipe.align
    sources, onto = {}, placement | {"template": template.vertices}
    for split in ("train", "test"):
        meshes = PlacedMeshes(parts[split], raw, used, onto, recipe.folder.absolute().name)
        sources[split] = meshes.source(projector, keep_vertices=split == "test")
    metadata = {"recipe": "meshes", "folder": str(recipe.folder), **placement}
    metadata |= {"split_by": recipe.split_by, "unused": len(parts["unused"])}
    if basis.unused is not None:
        metadata["unused_vertices"] = basis.unused.indices.tolist()
    if others:
        metadata["other_connectivities"] = others
    overwrite = recipe.overwrite
    try:
        return writer.write(recipe.out, basis, template, sources, metadata, overwrite=overwrite, progress=progress)
    except sequences.OtherConnectivity as error:
        groups = sequences.connectivities(items, progress)
        raise ValueError(f"{error}{describe(groups)}") from error


def describe(groups: dict[Connectivity, list[Item]]) -> str:
    """Which items have which connectivity, and what to do, as the end of an error; "" if they all have the same."""
    if len(groups) == 1:
        return ""
    listed = []
    for found, items in list(groups.items())[:SHOWN]:
        names = ", ".join(item.name for item in items[:SHOWN]) + ", ..." * (len(items) > SHOWN)
        listed.append(f"{len(items)} of {found.num_vertices} vertices ({names})")
    more = f"; and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    count = sum(map(len, groups.values()))
    return (
        f". The {count} meshes have {len(groups)} connectivities: {'; '.join(listed)}{more}. --largest-group takes the "
        "first of these groups; to use all, register them to one template (README, Your own meshes)"
    )


def used_vertices(mesh: Mesh, recipe: MeshRecipe) -> Int[np.ndarray, "used"]:
    """The vertices that belong to a face, ascending. Raises ValueError for others, unless the recipe drops them."""
    used, count = np.unique(mesh.faces), len(mesh.vertices)
    if len(used) < count and not recipe.drop_unused:
        first = np.setdiff1d(np.arange(count), used)[0]
        found = f"{count - len(used)} of {count} vertices belong to no face, the first is {first}"
        raise ValueError(f"{recipe.template or recipe.folder}: {found}; --drop-unused leaves them out")
    return used


def unused_vertices(mesh: Mesh, used: Int[np.ndarray, "used"], placement: dict[str, Any]) -> Unused | None:
    """The vertices of a mesh that are not used, placed as those that are; None if all are used."""
    indices = np.setdiff1d(np.arange(len(mesh.vertices)), used).astype(np.int32)
    if not len(indices):
        return None
    not_centred: dict[str, Any] = {**placement, "center": "none"}
    turned = sequences.normalise(mesh.vertices[None], **not_centred)[0]
    centred = sequences.normalise(mesh.vertices[None, used], **placement)[0]
    return Unused(indices, turned[indices] + (centred[0] - turned[used[0]]))


@dataclass(frozen=True)
class PlacedMeshes:
    """The meshes of a split.

    Attributes:
      items: files and sequences, in order.
      template: the mesh that all must fit, in the files' units.
      used: the vertices that are kept.
      placement: the arguments of `sequences.normalise`.
      dataset: the label that all examples get.
    """

    items: list[Item]
    template: Mesh
    used: Int[np.ndarray, "used"]
    placement: dict[str, Any]
    dataset: str

    def source(self, projector: Projector, keep_vertices: bool) -> Source:
        """The examples of the meshes, as the writer takes them."""
        names = [item.name for item in self.items]
        version = writer.file_version(sorted({item.path for item in self.items}))
        return Source(names, lambda start: projector.examples(self.rows(start), keep_vertices), version)

    def rows(self, start: int) -> Iterator[tuple[int, Row]]:
        """The placed vertices of the meshes from item `start` on."""
        for index in range(start, len(self.items)):
            item = self.items[index]
            for frame, placed in sequences.read_placed(item, self.template, self.used, self.placement):
                yield index, Row("mesh", (placed,), (item.identity, self.dataset, item.name, frame, ""))


def split_items(items: list[Item], recipe: MeshRecipe) -> dict[str, list[Item]]:
    """The items of "train", "test" and "unused", as the recipe's train, test, fraction, split_by and seed say.

    If patterns name only one split, all others are in the other. Without patterns, the test split gets the last
    identities, sequences or files in alphabetical order; random items when split by mesh (a sequence in one file stays
    whole); or the end of every hundred consecutive frames when split by slice. Raises ValueError for patterns that
    match nothing or overlap, and for a split that would be empty.
    """
    by, fraction = recipe.split_by, recipe.fraction
    names = [_group(item, by) for item in items]
    groups = sorted(set(names))
    if recipe.train or recipe.test:
        if by in ("mesh", "slice"):
            patterns = ", ".join(recipe.train + recipe.test)
            raise ValueError(f"--train and --test name identities, sequences or files: {patterns} cannot split by {by}")
        train, test = (_matching(groups, patterns, by) for patterns in (recipe.train, recipe.test))
        if train & test:
            raise ValueError(f"{by} {min(train & test)} matches both a pattern for train and one for test")
        train = train if recipe.train else set(groups) - test
        test = test if recipe.test else set(groups) - train
    elif not 0 < fraction < 1:
        raise ValueError(f"the fraction for test is {fraction}, expected above 0 and below 1")
    elif by == "slice":
        frames: dict[str, list[str]] = {}
        for item in items:
            frames.setdefault(_sequence(item), []).append(item.name)
        last = SLICE - math.ceil(round(fraction * SLICE, 9))
        test = {name for found in frames.values() for i, name in enumerate(found) if i % SLICE >= last}
        train = set(groups) - test
    else:
        if by == "mesh":
            np.random.default_rng(recipe.seed).shuffle(groups)
        count = math.ceil(round(fraction * len(groups), 9))  # 0.07 * 100 is a little more than 7
        test = set(groups[max(1, len(groups) - count) :])
        train = set(groups) - test
    if not (train and test):
        full, empty = ("train", "test") if train else ("test", "train")
        what = f"the only {by}" if len(groups) == 1 else f"all {len(groups)} {PLURALS[by]}"
        advice = "" if by == "mesh" else "; split by mesh instead"
        raise ValueError(f"nothing is left for {empty}: {full} gets {what}, {', '.join(groups[:10])}{advice}")
    parts: dict[str, list[Item]] = {"train": [], "test": [], "unused": []}
    for item, name in zip(items, names, strict=True):
        parts["train" if name in train else "test" if name in test else "unused"].append(item)
    return parts


def _group(item: Item, by: str) -> str:
    """What an item belongs to, and what is in one split as a whole."""
    return item.identity if by == "identity" else _sequence(item) if by == "sequence" else item.name


def _sequence(item: Item) -> str:
    """The sequence of an item: itself if its file may hold several meshes, else the folder that it is in."""
    several = item.key or item.path.suffix.lower() in (".npy", ".npz")
    return item.name if several else Path(item.name).parent.as_posix()


def _matching(names: list[str], patterns: tuple[str, ...], kind: str) -> set[str]:
    """Names that equal a pattern, or match it as a file name would."""
    found: set[str] = set()
    for pattern in patterns:
        matches = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not matches:
            some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ValueError(f"no {kind} matches {pattern!r}, available ({len(names)}): {some}")
        found |= matches
    return found
