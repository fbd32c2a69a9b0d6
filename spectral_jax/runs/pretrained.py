"""The trained network that the package brings, of the demo bodies.

Its file depends on no basis: it holds the mean and the principal directions as vertices, not as coefficients. The demo
body has a repeated eigenvalue, whose modes differ from machine to machine; this way it works with those of any.
"""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from spectral_jax.basis import formats, spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.bodies.smplh import demo_body_path, load_body
from spectral_jax.data.dataset import BASIS_FILE
from spectral_jax.data.recipes import DEMO_DATA, DemoRecipe
from spectral_jax.files import atomic, options, safe_files
from spectral_jax.network.config import ModelConfig
from spectral_jax.training.config import TrainConfig

NAME = "demo"  # what a RUN argument calls it
PARAMS, METADATA = "params/", "metadata"
MOST_BYTES = 1 << 26  # limit of the arrays


class Pretrained(NamedTuple):
    """The parts of a run (see `spectral_jax.runs.run.Run`)."""

    model: ModelConfig
    train: TrainConfig
    epoch: int
    params: Any
    constants: dict[str, np.ndarray]
    basis: SpectralBasis


def path() -> Path:
    """The file of the network."""
    return Path(str(files("spectral_jax") / "assets" / "demo_network.npz"))


def save(file: Path, trained: Pretrained) -> None:
    """Write a residual network in float16, its mean and directions as vertices, atomically."""
    modes = np.asarray(trained.basis.modes)[:, : trained.model.modes]
    shapes = {name: modes @ np.asarray(trained.constants[name]) for name in ("mean", "directions")}  # (..., vertex, 3)
    arrays = {PARAMS + name: value for name, value in flatten_dict(trained.params, sep="/").items()}
    arrays |= {**trained.constants, **shapes}
    record = {"model": dataclasses.asdict(trained.model), "train": dataclasses.asdict(trained.train)}
    members: dict[str, Any] = {name: np.asarray(value, np.float16) for name, value in arrays.items()}
    members[METADATA] = np.array(json.dumps(record | {"epoch": trained.epoch}))
    with atomic.replacing(file) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **members)


def load(file: Path | None = None) -> Pretrained:
    """Read the network for the basis of data/demo, or if that is absent or of another mesh, for the demo recipe's.

    It gets as many modes as the basis has. Computing a basis takes about a second, and the cache keeps it.
    """
    with safe_files.open_npz(file or path(), MOST_BYTES) as archive:
        record = safe_files.parse_json(str(archive[METADATA]), METADATA)
        arrays = {name: archive[name].astype(np.float32) for name in archive if name != METADATA}
    basis = _basis()
    constants = {name: value for name, value in arrays.items() if not name.startswith(PARAMS)}
    for name in ("mean", "directions"):
        constants[name] = np.asarray(spectral.project(basis, constants[name]))
    params = unflatten_dict({n.removeprefix(PARAMS): v for n, v in arrays.items() if n.startswith(PARAMS)}, sep="/")
    model = dataclasses.replace(options.fill(ModelConfig(), record["model"]), modes=basis.num_modes)
    return Pretrained(model, options.fill(TrainConfig(), record["train"]), record["epoch"], params, constants, basis)


def _basis() -> SpectralBasis:
    """The basis of the demo data."""
    body, recipe = load_body(demo_body_path()), DemoRecipe()
    if (DEMO_DATA / BASIS_FILE).is_file():
        basis = spectral.load(DEMO_DATA / BASIS_FILE)
        if basis.operator == "graph" and basis.num_vertices == body.num_vertices:
            return basis
    return formats.cached(body.faces, body.num_vertices, recipe.modes)
