"""Run folders: config.json, basis.npz, checkpoints `last` and `best`, logs; making, continuing and loading them."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import atomic, options, safe_files
from spectral_jax.files.locks import LOCK_FILE, locked
from spectral_jax.network.autoencoder import ModelConfig, SpectralAutoencoder
from spectral_jax.runs import checkpoint, provenance
from spectral_jax.runs.logs import RunLog
from spectral_jax.training import devices, loop
from spectral_jax.training.batches import FitData
from spectral_jax.training.config import Storage, TrainConfig
from spectral_jax.training.loop import TrainingUpdate
from spectral_jax.training.state import TrainingProgress

SCHEMA = 1
CHECKPOINT_SECONDS = 600  # at most between checkpoints, whatever the epochs take
SHOW_AGAIN = 1.25  # times the epochs at the last time: some 40 times in 10,000 epochs
CONFIG_FILE, BASIS_FILE = "config.json", "basis.npz"
PARTIAL_FILE = f"{CONFIG_FILE}.partial"


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


def save_config(folder: Path, config: RunConfig, data: str | Path | None = None) -> None:
    """Write config.json; to its history go the time, versions, revision, devices and fingerprint of the data here."""
    path = folder / CONFIG_FILE
    history = _history(safe_files.read_json(path)) if path.is_file() else []
    record = {"schema": SCHEMA, **dataclasses.asdict(config), "history": [*history, provenance.record(data)]}
    atomic.write_json(path, record)


def _history(record: dict[str, Any]) -> list[Any]:
    history = record.get("history")
    return history if isinstance(history, list) else []


def load_history(folder: str | Path) -> list[dict[str, Any]]:
    """What config.json tells of every start of a run, oldest first."""
    return [entry for entry in _history(safe_files.read_json(Path(folder) / CONFIG_FILE)) if isinstance(entry, dict)]


def load_config(folder: str | Path) -> RunConfig:
    """Read a run's config.json. Raises ValueError naming the file for anything missing, unknown or too new in it."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: not a run folder ({CONFIG_FILE} is missing)")
    record = safe_files.read_json(path)
    try:
        options.check_schema(record, SCHEMA)
        if not isinstance(data := record.get("data"), str):
            raise ValueError(f"data is {data!r}, which is no str")
        model = options.fill(ModelConfig(), record.get("model"))
        return RunConfig(model, options.fill(TrainConfig(), record.get("train")), data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_free(folder: str | Path, overwrite: bool = False) -> None:
    """Raise ValueError when the folder holds anything, unless `overwrite` and what it holds is a run.

    What a process leaves that was killed while it made the folder is nothing.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= {LOCK_FILE, PARTIAL_FILE}):
        if not overwrite:
            raise ValueError(f"{folder} exists already: --resume continues it, --overwrite replaces it")
        if not (folder / CONFIG_FILE).is_file():
            raise ValueError(f"{folder} is not a run folder ({CONFIG_FILE} is missing): not overwritten")


def lock_run(folder: str | Path) -> contextlib.AbstractContextManager[None]:
    """Keep a run folder to this process. Raises ValueError when it is another's; one that crashed holds nothing."""
    return locked(Path(folder), f"{folder}: another process is training this run")


def create(
    folder: str | Path, config: RunConfig, basis: SpectralBasis, overwrite: bool = False, data: Path | None = None
) -> Path:
    """Make a new run folder. Raises ValueError as `check_free` does. Killed at any moment, it can be made again."""
    folder = Path(folder)
    check_free(folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG_FILE):  # without it it would be no run
        if old.is_dir():
            hidden = folder / f".{old.name.removeprefix('.')}"
            if old != hidden:
                shutil.rmtree(hidden, ignore_errors=True)
            shutil.rmtree(old.rename(hidden))  # half of a checkpoint is never in a checkpoint's place
        elif old.name != LOCK_FILE:
            old.unlink()
    save_config(folder, config, data)
    spectral.save(folder / BASIS_FILE, basis)
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
    on_start: Callable[[TrainingProgress | None], None] = lambda position: None,
    should_stop: Callable[[], bool] = lambda: False,
    storage: Storage = "float32",
    pictures: int = 0,
) -> Iterator[TrainingUpdate]:
    """Train a run folder from its newest checkpoint, or from the start, to its last epoch; yields about once a second.

    Logs every epoch; checkpoints `last` at every validation and every ten minutes, and `best` at the lowest validation
    error. `on_start` is told the position that training starts from, if any; when `should_stop()` is true after a
    dispatch, the position is checkpointed and training ends. With `pictures`, TensorBoard gets those of so many test
    meshes, and histograms of latents, at some validations, ever rarer ones. Of several processes the main one writes.
    Raises ValueError when another process trains the run.
    """
    folder, main = Path(folder), devices.is_main()
    config = load_config(folder)
    position = kept = None
    if checkpoint.find(folder / "last"):
        position = kept = checkpoint.restore(folder / "last", config.model, config.train)
    best_mm = position.best_mm if position else None
    on_start(position)
    basis = spectral.load(folder / BASIS_FILE) if (folder / BASIS_FILE).is_file() else None
    shown = position.epoch if position else 0
    saved = time.monotonic()
    try:
        with (
            lock_run(folder) if main else contextlib.nullcontext(),
            RunLog(folder, position.epoch if position else 0) if main else contextlib.nullcontext() as log,
        ):
            for progress in loop.fit(config.model, config.train, data, position, storage=storage):
                position = progress.position
                late = time.monotonic() - saved > CHECKPOINT_SECONDS
                stopping, late = devices.max_over_processes(int(should_stop()), int(late))
                validated = any("spatial_validation_loss" in figures for figures in progress.figures.values())
                if log is not None:
                    for epoch, figures in progress.figures.items():
                        log.write(epoch, figures)
                    if pictures and validated and basis is not None and position.epoch >= shown * SHOW_AGAIN:
                        from spectral_jax.runs import snapshots

                        shown = position.epoch
                        log.show(shown, *snapshots.show(config.model, position.state.params, basis, data, pictures))
                if position.best_mm != best_mm:
                    best_mm = position.best_mm
                    checkpoint.save(folder / "best", position)
                if validated or stopping or late:
                    checkpoint.save(folder / "last", position)
                    kept, saved = position, time.monotonic()
                yield progress
                if stopping:
                    break
    except (FloatingPointError, OSError, ValueError) as error:
        if kept:
            steps = f" and {kept.step} steps" if kept.step else ""
            error.add_note(f"the checkpoint after {kept.epoch} epochs{steps} is kept")
        raise
    devices.wait_for_all("trained")
