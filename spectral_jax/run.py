"""Run folders: config.json, basis.npz, checkpoints `last` and `best`, logs; making, continuing and loading them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from spectral_jax import basis as spectral
from spectral_jax import checkpoint, devices, fitting, options, plain_files
from spectral_jax.basis import SpectralBasis
from spectral_jax.feed import Storage
from spectral_jax.fitting import FitData, Progress
from spectral_jax.logs import RunLog
from spectral_jax.model import ModelConfig, SpectralAutoencoder
from spectral_jax.train import Position, TrainConfig

SCHEMA = 1
CHECKPOINT_SECONDS = 600  # at most between checkpoints, whatever the epochs take
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
    record = plain_files.read_json(path)
    try:
        options.check_schema(record, SCHEMA)
        if not isinstance(data := record.get("data"), str):
            raise ValueError(f"data is {data!r}, which is no str")
        model = options.fill(ModelConfig(), record.get("model"))
        return RunConfig(model, options.fill(TrainConfig(), record.get("train")), data)
    except ValueError as error:
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
    on_start: Callable[[Position | None], None] = lambda position: None,
    should_stop: Callable[[], bool] = lambda: False,
    storage: Storage = "float32",
) -> Iterator[Progress]:
    """Train a run folder from its newest checkpoint, or from the start, to its last epoch; yields about once a second.

    Logs every epoch; checkpoints `last` at every validation and every ten minutes, and `best` at the lowest validation
    error. `on_start` is told the position that training starts from, if any; when `should_stop()` is true after a
    dispatch, the position is checkpointed and training ends. Of several processes the main one writes.
    """
    folder, main = Path(folder), devices.is_main()
    config = load_config(folder)
    position, best_mm = None, None
    if (folder / "last").is_dir() and any((folder / "last").iterdir()):
        position = checkpoint.restore(folder / "last", config.model, config.train)
        best_mm = position.best_mm
    on_start(position)
    saved = time.monotonic()
    with RunLog(folder, position.epoch if position else 0) if main else contextlib.nullcontext() as log:
        for progress in fitting.fit(config.model, config.train, data, position, storage=storage):
            position = progress.position
            late = time.monotonic() - saved > CHECKPOINT_SECONDS
            stopping, late = devices.largest(int(should_stop()), int(late))
            if log is not None:
                for epoch, figures in progress.figures.items():
                    log.write(epoch, figures)
            if position.best_mm != best_mm:
                best_mm = position.best_mm
                checkpoint.save(folder / "best", position)
            validated = any("spatial_validation_loss" in figures for figures in progress.figures.values())
            if validated or stopping or late:
                checkpoint.save(folder / "last", position)
                saved = time.monotonic()
            yield progress
            if stopping:
                break
    devices.wait_for_all("trained")
