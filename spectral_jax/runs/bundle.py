"""A trained network as a single file, .npz or .safetensors: parameters by name, options, a signature of its basis."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float

import spectral_jax
from spectral_jax import extras
from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import atomic, options, safe_files
from spectral_jax.geometry.mesh import Connectivity, check_connectivity
from spectral_jax.network import networks
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import checkpoint
from spectral_jax.runs import run as runs
from spectral_jax.runs.run import Run, RunConfig
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.schedule import Plateau
from spectral_jax.training.state import TrainingProgress, TrainState

SCHEMA = 1
# Entries of a file beside the parameters.
METADATA = "metadata"
CONSTANTS = "constants/"  # before the names of a residual network's constants
SIGNATURE = "basis_mark"
SIGNATURE_TOLERANCE = 0.05  # between rounding, below 0.001, and a flipped or rotated mode, about 1
MOST_BYTES = 1 << 30  # limit of a file's size, and of its arrays


class Release(NamedTuple):
    """The contents of a release.

    Attributes:
      params: parameters on the host.
      model, train: options.
      epoch: epochs trained.
      connectivity: fingerprint of the mesh.
      basis_signature: tells whether a basis is the one it was trained on.
      versions: of the packages that wrote it.
      constants: of a residual network; None for SAE-LP.
    """

    params: dict[str, Any]
    model: ModelConfig
    train: TrainConfig
    epoch: int
    connectivity: str
    basis_signature: Float[np.ndarray, "4 freq"]
    versions: dict[str, str]
    constants: dict[str, np.ndarray] | None = None


def basis_signature(basis: SpectralBasis, num_modes: int) -> Float[np.ndarray, "4 freq"]:
    """Four weighted sums over each of the first modes, float32, which tell bases apart.

    The weights are frac((v + 1)^2 sqrt(p)) for p = 2, 3, 5, 7, shifted and scaled to mean 0 and variance 1. They follow
    no symmetry of a mesh. A flipped or rotated mode changes its sums by about 1, rounding by far less than 0.001.
    """
    squares = np.arange(1, basis.num_vertices + 1, dtype=np.float64) ** 2
    weights = np.sqrt(12) * (np.sqrt([[2.0], [3.0], [5.0], [7.0]]) * squares[None] % 1.0 - 0.5)
    return (weights @ np.asarray(basis.modes[:, :num_modes], np.float64)).astype(np.float32)


def save_release(path: str | Path, run: Run) -> None:
    """Write a run as one .npz or .safetensors file, atomically and without pickle.

    Raises ValueError for another suffix, and for .safetensors if that package is not installed.
    """
    path = Path(path)
    names = ("jax", "flax", "numpy")
    record = {
        "schema": SCHEMA,
        "model": dataclasses.asdict(run.config.model),
        "train": dataclasses.asdict(run.config.train),
        "epoch": run.epoch,
        "connectivity": run.require_basis().fingerprint,
        "versions": {"spectral_jax": spectral_jax.__version__} | {n: importlib.metadata.version(n) for n in names},
    }
    arrays: dict[str, Any] = {
        name: np.ascontiguousarray(value) for name, value in flatten_dict(run.params, sep="/").items()
    }
    arrays |= {CONSTANTS + name: np.asarray(value) for name, value in (run.constants or {}).items()}
    arrays[SIGNATURE] = basis_signature(run.require_basis(), run.config.model.modes)
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path}: a release is a .npz or .safetensors file")
    safetensors = _safetensors(path) if path.suffix == ".safetensors" else None
    with atomic.replacing(path) as partial, partial.open("wb") as file:
        if safetensors is None:
            members: dict[str, Any] = {**arrays, METADATA: np.array(json.dumps(record))}
            np.savez(file, **members)
        else:
            file.write(safetensors.save(arrays, {METADATA: json.dumps(record)}))


def load_release(path: str | Path) -> Release:
    """Read a release, and check it.

    Raises ValueError naming the file when it is unreadable, from a newer version, or not the parameters of its
    own options. The error lists all arrays that are missing, unexpected, wrongly shaped or not finite.
    """
    path = Path(path)
    safe_files.check_size(path, MOST_BYTES)
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path}: a release is a .npz or .safetensors file")
    text, arrays = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    try:
        record = safe_files.parse_json(text, METADATA)
        options.check_schema(record, SCHEMA)
        model = options.fill(ModelConfig(), record.get("model"))
        train = options.fill(TrainConfig(), record.get("train"))
        epoch, connectivity, versions = (record.get(name) for name in ("epoch", "connectivity", "versions"))
        if type(epoch) is not int or not 0 <= epoch < 1 << 31:
            raise ValueError(f"epoch is {epoch!r}, expected an int from 0 to {(1 << 31) - 1}")
        if not isinstance(connectivity, str) or not isinstance(versions, dict):
            raise ValueError(f"connectivity is {connectivity!r}, versions are {versions!r}; expected a str and a dict")
    except ValueError as error:
        raise ValueError(f"{path}: not a release ({error})") from error
    if offenders := runs.check_arrays(arrays, _array_shapes(model)):
        raise ValueError(f"{path}: not the parameters of its network: {'; '.join(offenders)}")
    signature = arrays.pop(SIGNATURE)
    constants = {n.removeprefix(CONSTANTS): arrays.pop(n) for n in list(arrays) if n.startswith(CONSTANTS)} or None
    params = unflatten_dict(arrays, sep="/")
    return Release(params, model, train, epoch, connectivity, signature, versions, constants)


def import_release(path: str | Path, target: str | Path, basis: SpectralBasis | None = None, data: str = "") -> Release:
    """Make the run folder `target` from a release, with the basis if one is given; `data` is the basis's dataset.

    If the run is trained further, Adam's moments start at zero. Raises ValueError as `load_release` does, when the
    target exists, or when the network was trained on another basis.
    """
    path, target = Path(path), Path(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} exists already")
    release = load_release(path)
    if basis is not None:
        _check_basis(path, release, basis)
    adam = optax.scale_by_adam().init(jax.tree.map(np.asarray, release.params))
    state = TrainState(release.params, adam, np.zeros((), np.int32))
    target.mkdir(parents=True, exist_ok=True)
    checkpoint.save(target / "last", TrainingProgress(state, Plateau(release.train.learning_rate), release.epoch))
    if basis is not None:
        spectral.save(target / runs.BASIS_FILE, spectral.truncate(basis, release.model.modes))
    if release.constants is not None:
        runs.save_constants(target, release.constants)
    runs.save_config(target, RunConfig(release.model, release.train, data))
    return release


def _check_basis(path: Path, release: Release, basis: SpectralBasis) -> None:
    """Raise ValueError unless the release was trained on the basis."""
    modes = release.model.modes
    check_connectivity(Connectivity(release.connectivity), basis.connectivity, (f"{path}: the network", "the basis"))
    if basis.num_modes < modes:
        raise ValueError(f"{path}: the network has {modes} modes, the basis only {basis.num_modes}")
    deviation = np.abs(basis_signature(basis, modes) - release.basis_signature).max(axis=0)
    different = deviation > SIGNATURE_TOLERANCE
    if different.any():
        raise ValueError(
            f"{path}: trained on another basis of this connectivity ({different.sum()} of {modes} modes differ, the "
            f"first is mode {int(np.argmax(different))}): {spectral.REMEDY}"
        )


def _array_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a release's arrays by name."""
    leaves = jax.tree.leaves_with_path(jax.eval_shape(lambda: networks.init_params(model, jax.random.key(0))))
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
    shapes |= {CONSTANTS + name: shape for name, shape in networks.constant_shapes(model).items()}
    return {**shapes, SIGNATURE: (4, model.modes)}


def _read_npz(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The metadata and the arrays."""
    try:
        with safe_files.open_npz(path, MOST_BYTES) as file:
            if METADATA not in file:
                raise ValueError(f"{METADATA} is missing")
            return str(file[METADATA]), {name: file[name] for name in file if name != METADATA}
    except ValueError as error:
        raise ValueError(f"{path}: not a release ({error})") from error


def _read_safetensors(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The metadata and the arrays."""
    _safetensors(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {})[METADATA], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError as error:
        raise ValueError(f"{path}: not a release ({METADATA} is missing)") from error
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable .safetensors file ({error})") from error


def _safetensors(path: Path) -> ModuleType:
    """The optional package's functions for NumPy arrays."""
    return extras.require("safetensors.numpy", "safetensors", f"writing or reading {path}")
