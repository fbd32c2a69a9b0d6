"""Run folders: config.json, basis.npz, checkpoints `last` and `best`, logs; how to create, check and load them."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import atomic, options, safe_files
from spectral_jax.files.locks import LOCK_FILE, locked
from spectral_jax.network.autoencoder import SpectralAutoencoder
from spectral_jax.network.codec import NO_BASIS
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import checkpoint, provenance
from spectral_jax.training.config import TrainConfig

SCHEMA = 1
CONFIG_FILE = "config.json"
BASIS_FILE = "basis.npz"
PARTIAL_FILE = f"{CONFIG_FILE}.partial"


@dataclass(frozen=True)
class RunConfig:
    """The options of a run: the network, the training, and the dataset as the DATA argument names it."""

    model: ModelConfig
    train: TrainConfig
    data: str


@dataclass(frozen=True)
class Run:
    """A trained network ready for use: `run.model.apply({"params": run.params}, x, method="encode")`."""

    path: Path
    model: SpectralAutoencoder
    params: Any
    basis: SpectralBasis | None
    """SpectralBasis with at least the network's modes; None for a checkpoint that was converted without a dataset."""
    config: RunConfig
    epoch: int

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
    folder: str | Path, config: RunConfig, basis: SpectralBasis, overwrite: bool = False, data: Path | None = None
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
    return folder


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


def load_run(path: str | Path, which: Literal["last", "best"] = "last") -> Run:
    """Load a trained run. Raises ValueError naming the file when the folder is not a run or has no checkpoint."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such run folder")
    config = load_config(path)
    restored = checkpoint.restore(path / which, config.model, config.train)
    params = jax.device_put(restored.state.params)
    return Run(path, SpectralAutoencoder(config.model), params, load_basis(path), config, restored.epoch)
