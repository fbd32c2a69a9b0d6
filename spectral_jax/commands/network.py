"""A trained network with its dataset, as the commands that experiment with it need them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectral_jax.commands.console import track
from spectral_jax.commands.dataset import open_data

NEAREST = 256  # test meshes that those of a path are compared with


class Network(NamedTuple):
    """A trained run with its dataset, and compiled: its codec, geodesics of so many points."""

    run: Any
    data: Any
    codec: Any
    geodesic: Callable


def open_network(folder: Path, source: str | None) -> Network:
    """A run and its dataset, whose connectivity and modes must be the run's."""
    import jax

    from spectral_jax.basis import spectral
    from spectral_jax.network.codec import Codec, decode_batch
    from spectral_jax.paths import interpolate
    from spectral_jax.runs import run

    loaded = run.load_run(folder)
    source = source or loaded.config.data
    if not source:
        raise ValueError(f"{folder} does not know its dataset: name it with --data")
    data = open_data(source)
    spectral.check_same(loaded.basis, data.basis, (f"the basis of {folder}", f"that of {data.path}"))

    def geodesic(codec, start, end, num_points):
        return interpolate.geodesic(partial(decode_batch, codec), start, end, num_points)

    codec = Codec.of(loaded)
    return Network(loaded, data, codec, partial(jax.jit(geodesic, static_argnames="num_points"), codec))


def read_mesh(text: str, network: Network, split: str) -> np.ndarray:
    """Coefficients (freq, 3) of a mesh of the split, or of a mesh file."""
    from spectral_jax.basis import spectral
    from spectral_jax.geometry import mesh

    modes = network.run.config.model.modes
    if text.isdecimal():
        records = network.data.records(split)
        if int(text) >= len(records):
            raise ValueError(f"{network.data.path}: mesh {text} of split {split}, which has {len(records)}")
        return records[int(text)].coefficients[:modes]
    loaded = mesh.read_mesh(text)
    found = mesh.fingerprint(loaded.faces, len(loaded.vertices))
    if found != network.run.basis.fingerprint:
        raise ValueError(
            f"{text} has {len(loaded.vertices)} vertices and connectivity {found[:12]}, {network.run.path} has "
            f"{network.run.basis.num_vertices} and {network.run.basis.fingerprint[:12]}"
        )
    return np.asarray(spectral.project(network.run.basis, loaded.vertices))[:modes]


class ReferenceMeshes(NamedTuple):
    """What a path is measured against: meshes of the split, and the spread of their latents."""

    indices: list[int]
    vertices: np.ndarray
    spread: float


def read_others(network: Network, split: str) -> ReferenceMeshes:
    """Meshes spread over a split, as far as the network's modes hold them."""
    from spectral_jax.basis import spectral

    records, modes = network.data.records(split), network.run.config.model.modes
    chosen = np.unique(np.linspace(0, len(records) - 1, NEAREST).astype(int)).tolist()
    coefficients = np.stack([records[i].coefficients[:modes] for i in track(chosen, f"reading {split}")])
    latents = network.codec.encode(coefficients)
    spread = float(np.sqrt(np.square(latents - latents.mean(axis=0)).sum(axis=1).mean()))
    return ReferenceMeshes(chosen, np.asarray(spectral.reconstruct(network.run.basis, coefficients)), spread)
