"""Run folders: config.json, basis.npz, checkpoints `last` and `best`, logs; how to create, check and load them."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import atomic, options, safe_files
from spectral_jax.files.locks import LOCK_FILE, locked
from spectral_jax.network import networks
from spectral_jax.network.codec import NO_BASIS
from spectral_jax.network.config import ModelConfig
from spectral_jax.network.networks import Network
from spectral_jax.runs import checkpoint, pretrained, provenance
from spectral_jax.training.config import TrainConfig

SCHEMA = 1
CONFIG_FILE = "config.json"
BASIS_FILE = "basis.npz"
CONSTANTS_FILE = "constants.npz"
CONSTANTS_BYTES = 1 << 30  # limit
PARTIAL_FILE = f"{CONFIG_FILE}.partial"


@dataclass(frozen=True)
class RunConfig:
    """The options of a run: the network, the training, and the dataset as the DATA argument names it."""

    model: ModelConfig
    train: TrainConfig
    data: str


@dataclass(frozen=True)
class Run:
    """A trained network ready for use: `run.model.apply(run.variables, x, method="encode")`."""

    path: Path
    model: Network
    params: Any
    basis: SpectralBasis | None
    """SpectralBasis with at least the network's modes; None for a checkpoint that was converted without a dataset."""
    config: RunConfig
    epoch: int
    constants: Any = None
    """What training does not change: mean, principal directions and scales of a residual network; None for SAE-LP."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint it is: the newest, or the one with the lowest validation error."""

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and constants, as the module's `apply` takes them."""
        return networks.variables(self.params, self.constants)

    def require_basis(self) -> SpectralBasis:
        """The basis. Raises ValueError when there is none."""
        if self.basis is None:
            raise ValueError(f"{self.path} {NO_BASIS}")
        return self.basis


def save_config(folder: Path, config: RunConfig, data: str | Path | None = None) -> None:
    """Write config.json, and append the provenance of this start to its history."""
    path = folder / CONFIG_FILE
    history = _history(safe_files.read_json(path)) if path.is_file() else []
    record = {"schema": SCHEMA, **dataclasses.asdict(config), "history": [*history, provenance.record(data)]}
    atomic.write_json(path, record)


def _history(record: dict[str, Any]) -> list[Any]:
    history = record.get("history")
    return history if isinstance(history, list) else []


def load_history(folder: str | Path) -> list[dict[str, Any]]:
    """The provenance of every start of a run, oldest first."""
    return [entry for entry in _history(safe_files.read_json(Path(folder) / CONFIG_FILE)) if isinstance(entry, dict)]


def data_changed(folder: str | Path) -> bool:
    """Whether the data of the latest start differ from those of the start before it."""
    known = [entry["data_fingerprint"] for entry in load_history(folder) if entry.get("data_fingerprint")]
    return len(known) > 1 and known[-1] != known[-2]


def load_config(folder: str | Path) -> RunConfig:
    """Read a run's config.json. Raises ValueError naming the file for anything missing, unknown or too new in it."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: not a run folder ({CONFIG_FILE} is missing)")
    record = safe_files.read_json(path)
    try:
        options.check_schema(record, SCHEMA)
        if not isinstance(data := record.get("data"), str):
            raise ValueError(f"data is {data!r}, expected a str")
        model = options.fill(ModelConfig(), record.get("model"))
        return RunConfig(model, options.fill(TrainConfig(), record.get("train")), data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_free(folder: str | Path, overwrite: bool = False) -> None:
    """Raise ValueError unless the folder is empty or absent, or is a run and `overwrite` is true.

    Leftovers of an interrupted creation count as empty.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= {LOCK_FILE, PARTIAL_FILE}):
        if not overwrite:
            raise ValueError(f"{folder} exists already: --resume continues it, --overwrite replaces it")
        if not (folder / CONFIG_FILE).is_file():
            raise ValueError(f"{folder} is not a run folder ({CONFIG_FILE} is missing): not overwritten")


def lock_run(folder: str | Path) -> contextlib.AbstractContextManager[None]:
    """Lock a run folder for this process. Raises ValueError while another process, still alive, holds the lock."""
    return locked(Path(folder), f"{folder}: another process is training this run")


def create(
    folder: str | Path,
    config: RunConfig,
    basis: SpectralBasis,
    overwrite: bool = False,
    data: Path | None = None,
    constants: Any = None,
) -> Path:
    """Create a run folder. Raises ValueError as `check_free` does. An interrupted creation can be repeated."""
    folder = Path(folder)
    check_free(folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG_FILE):  # last: it marks a run
        if old.is_dir():
            hidden = folder / f".{old.name.removeprefix('.')}"
            if old != hidden:
                shutil.rmtree(hidden, ignore_errors=True)
            shutil.rmtree(old.rename(hidden))  # a half-deleted checkpoint never bears a checkpoint's name
        elif old.name != LOCK_FILE:
            old.unlink()
    save_config(folder, config, data)
    spectral.save(folder / BASIS_FILE, basis)
    if constants is not None:
        save_constants(folder, constants)
    return folder


def save_constants(folder: Path, constants: Any) -> None:
    """Write the constants of a residual network to the run folder."""
    with atomic.replacing(folder / CONSTANTS_FILE) as partial, partial.open("wb") as file:
        np.savez(file, **constants)


def load_constants(folder: str | Path, config: ModelConfig) -> dict[str, np.ndarray] | None:
    """The constants of a run's network; None for SAE-LP. Raises ValueError naming the file and what is wrong in it."""
    if config.network == "sae-lp":
        return None
    path = Path(folder) / CONSTANTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: {CONSTANTS_FILE} of its residual network is missing")
    with safe_files.open_npz(path, CONSTANTS_BYTES) as file:
        found = {name: file[name] for name in file}
    if offenders := check_arrays(found, networks.constant_shapes(config)):
        raise ValueError(f"{path}: not the constants of its network: {'; '.join(offenders)}")
    return found


def check_arrays(found: dict[str, np.ndarray], wanted: dict[str, tuple[int, ...]]) -> list[str]:
    """A line for every array that is missing, unexpected, wrongly shaped, not float32 or not finite."""
    offenders = [f"{name} {wanted[name]} is missing" for name in sorted(wanted.keys() - found.keys())]
    offenders += [f"{name} {found[name].shape} is unexpected" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        array = found[name]
        if array.shape != wanted[name] or array.dtype != np.float32:
            offenders.append(f"{name} is {array.dtype} {array.shape}, not float32 {wanted[name]}")
        elif not np.isfinite(array).all():
            offenders.append(f"{name} has {np.count_nonzero(~np.isfinite(array))} values that are not finite")
    return offenders


def load_basis(folder: str | Path) -> SpectralBasis | None:
    """A run's basis; None for a checkpoint that was converted without a dataset."""
    path = Path(folder) / BASIS_FILE
    return spectral.load(path) if path.is_file() else None


def check_basis(folder: str | Path, basis: SpectralBasis, name: str) -> None:
    """Raise ValueError unless `basis`, which messages call `name`, is the run's; a run without one takes it."""
    own = load_basis(folder)
    if own is not None:
        spectral.check_same(own, basis, (f"the basis of {folder}", name))
    else:
        spectral.save(Path(folder) / BASIS_FILE, spectral.truncate(basis, load_config(folder).model.modes))


def load_run(path: str | Path, which: Literal["last", "best"] | None = None) -> Run:
    """Load a trained run: its newest checkpoint, or the one with the lowest validation error.

    By default, SAE-LP's newest, as published, and the residual network's best, which is never worse than PCA. "demo" is
    the network that comes with the package, unless there is a folder of that name. Raises ValueError naming the file
    when the folder is not a run or has no checkpoint.
    """
    path = Path(path)
    if path == Path(pretrained.NAME) and not path.exists():
        found = pretrained.load()
        params, constants = jax.device_put((found.params, found.constants))
        config = RunConfig(found.model, found.train, "demo")
        return Run(path, networks.build(found.model), params, found.basis, config, found.epoch, constants, "best")
    if not path.is_dir():
        raise ValueError(f"{path}: no such run folder")
    config = load_config(path)
    if which is None:
        which = "best" if config.model.network == "residual" and checkpoint.find(path / "best") else "last"
    restored = checkpoint.restore(path / which, config.model, config.train)
    constants = load_constants(path, config.model)
    params, on_device = jax.device_put((restored.state.params, constants))
    network = networks.build(config.model)
    return Run(path, network, params, load_basis(path), config, restored.epoch, on_device, which)
