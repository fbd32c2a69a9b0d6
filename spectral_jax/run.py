"""Run folders: config.json, basis.npz, checkpoints `last` and `best`, logs; making, continuing and loading them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from spectral_jax import basis as spectral
from spectral_jax import checkpoint, train
from spectral_jax.basis import SpectralBasis
from spectral_jax.logs import RunLog
from spectral_jax.model import ModelConfig, SpectralAutoencoder
from spectral_jax.train import FitData, Progress, TrainConfig

SCHEMA = 1
CONFIG_FILE, BASIS_FILE = "config.json", "basis.npz"


@dataclass(frozen=True)
class RunConfig:
    """All that a run was told: the network, the training, the data folder."""

    model: ModelConfig
    train: TrainConfig
    data: str


@dataclass(frozen=True)
class Run:
    """A trained network ready for use: `run.model.apply({"params": run.params}, x, method="encode")`."""

    path: Path
    model: SpectralAutoencoder
    params: Any
    basis: SpectralBasis
    config: RunConfig
    epoch: int


def save_config(folder: Path, config: RunConfig) -> None:
    """Write config.json with the versions that made it."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    record = {
        "schema": SCHEMA,
        **dataclasses.asdict(config),
        "versions": versions,
        "device": jax.devices()[0].device_kind,
    }
    partial = folder / (CONFIG_FILE + ".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial, folder / CONFIG_FILE)


def load_config(folder: str | Path) -> RunConfig:
    """Read a run's config.json. Raises ValueError naming the file for anything missing, unknown or too new in it."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: not a run folder ({CONFIG_FILE} is missing)")
    try:
        record = json.loads(path.read_text())
        if record["schema"] > SCHEMA:
            raise ValueError(f"written by a newer version (schema {record['schema']}, this version reads {SCHEMA})")
        return RunConfig(ModelConfig(**record["model"]), TrainConfig(**record["train"]), record["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_free(folder: str | Path, overwrite: bool = False) -> None:
    """Raise ValueError when the folder holds anything, unless `overwrite` and what it holds is a run."""
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not overwrite:
            raise ValueError(f"{folder} exists already: --resume continues it, --overwrite replaces it")
        if not (folder / CONFIG_FILE).is_file():
            raise ValueError(f"{folder} is not a run folder ({CONFIG_FILE} is missing): not overwritten")


def create(folder: str | Path, config: RunConfig, basis: SpectralBasis, overwrite: bool = False) -> Path:
    """Make a new run folder. Raises ValueError as `check_free` does."""
    folder = Path(folder)
    check_free(folder, overwrite)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spectral.save(folder / BASIS_FILE, basis)
    save_config(folder, config)
    return folder


def check_basis(folder: str | Path, basis: SpectralBasis, name: str) -> None:
    """Raise ValueError unless `basis` is the run's; a run that came without one takes it."""
    path = Path(folder) / BASIS_FILE
    if path.is_file():
        spectral.check_same(spectral.load(path), basis, (f"the basis of {folder}", name))
    else:
        spectral.save(path, spectral.truncate(basis, load_config(folder).model.modes))


def load_run(path: str | Path, which: Literal["last", "best"] = "last") -> Run:
    """Load a trained run. Raises ValueError naming the file when the folder is not a run or has no checkpoint."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such run folder")
    config = load_config(path)
    restored = checkpoint.restore(path / which, config.model, config.train)
    if not (path / BASIS_FILE).is_file():
        raise ValueError(
            f"{path} has no {BASIS_FILE}: give the dataset's with `spectral-jax convert ... --data DATA` (or import)"
        )
    basis = spectral.load(path / BASIS_FILE)
    params = jax.device_put(restored.state.params)
    return Run(path, SpectralAutoencoder(config.model), params, basis, config, restored.epoch)


def train_run(
    folder: str | Path,
    data: FitData,
    on_start: Callable[[int], None] = lambda epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Train a run folder from its newest checkpoint, or from the start, to its last epoch, yielding after each.

    Logs every epoch; checkpoints `last` at every validation and `best` at the lowest validation error. `on_start` is
    told how many epochs are done; when `should_stop()` is true after an epoch, that epoch is checkpointed and is the
    last.
    """
    folder = Path(folder)
    config = load_config(folder)
    position, best_mm, done = {}, None, 0
    if (folder / "last").is_dir() and any((folder / "last").iterdir()):
        restored = checkpoint.restore(folder / "last", config.model, config.train)
        best_mm, done = restored.best_mm, restored.epoch
        position = {"state": restored.state, "plateau": restored.plateau, "validation_mm": restored.validation_mm}
    on_start(done)
    with RunLog(folder, done) as log:
        for progress in train.fit(config.model, config.train, data, epochs_done=done, **position):
            log.write(progress.epoch, progress.figures)
            stopping = should_stop()
            mm = progress.figures.get("spatial_validation_loss")
            if mm is not None and (best_mm is None or mm < best_mm):
                best_mm = mm
                checkpoint.save(folder / "best", progress, best_mm)
            if mm is not None or stopping:
                checkpoint.save(folder / "last", progress, best_mm)
            yield progress
            if stopping:
                return
