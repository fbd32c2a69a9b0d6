"""Training a run folder: create or resume it, train, and write its log, snapshots and checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from spectral_jax.basis import spectral
from spectral_jax.data.dataset import Data
from spectral_jax.data.open import open_data
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.network.config import ModelConfig, Network
from spectral_jax.runs import checkpoint, run
from spectral_jax.runs.logs import RunLog
from spectral_jax.runs.run import Run, RunConfig
from spectral_jax.runs.snapshots import Snapshots
from spectral_jax.training import devices, loop, smoothness
from spectral_jax.training.batches import FitData, num_steps
from spectral_jax.training.config import RECIPES, Placement, Storage
from spectral_jax.training.loop import TrainingUpdate
from spectral_jax.training.placement import fit_principal, read_fit_data
from spectral_jax.training.state import TrainingProgress

OnEpoch = Callable[[int, dict[str, float]], None]  # called with the number of an epoch and its figures by name
CHECKPOINT_SECONDS = 600  # between checkpoints at most, however long the epochs take


def train(
    data: Data | str | Path,
    folder: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    placement: Literal["auto"] | Placement = "auto",
    storage: Storage = "float32",
    pictures: int = 0,
    max_hours: float | None = None,
    patience: int | None = None,
    on_epoch: OnEpoch | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> Run:
    """Create or resume a run folder, train it to its last epoch and load it: `train("demo", "runs/mine", epochs=24)`.

    `data` is an opened dataset or what `open_data` takes. `options` are fields of ModelConfig and TrainConfig; their
    defaults are the network's recipe (`spectral_jax.training.config.RECIPES`). With `resume`, only `epochs` may differ
    from the run's own. `max_hours`, `patience` and `on_epoch` are those of `train_run`. Raises ValueError for an
    unknown option, a folder that exists (or does not, with `resume`), or unsuitable data; FloatingPointError when the
    loss is not finite.
    """
    if not resume:
        run.check_free(folder, overwrite)
    opened = data if isinstance(data, Data) else open_data(data, progress)
    source = "demo" if data == "demo" else str(opened.path.resolve())
    start = run.load_config(folder) if resume else default_config(opened, source, options.get("network", "sae-lp"))
    config = with_options(dataclasses.replace(start, data=source), options)
    reading = {"placement": placement, "storage": storage, "progress": progress}
    with opened_run(folder, config, opened, resume=resume, overwrite=overwrite, **reading) as fit_data:
        limits = {"max_hours": max_hours, "patience": patience, "on_epoch": on_epoch}
        for _ in train_run(folder, fit_data, storage=storage, pictures=pictures, progress=progress, **limits):
            pass
    return run.load_run(folder)


def default_config(data: Data, source: str, network: Network = "sae-lp") -> RunConfig:
    """The recipe of a network, with as many modes as the dataset has."""
    model = ModelConfig(modes=min(ModelConfig.modes, data.basis.num_modes), network=network)
    return RunConfig(model, RECIPES[network], source)


def with_options(config: RunConfig, options: dict[str, Any]) -> RunConfig:
    """The configuration with other values for fields of its network or its training."""
    model, training = ({field.name for field in dataclasses.fields(part)} for part in (config.model, config.train))
    if unknown := sorted(options.keys() - model - training):
        raise ValueError(f"unknown option {unknown[0]}; available: {', '.join(sorted(model | training))}")
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **{name: options[name] for name in model & options.keys()}),
        train=dataclasses.replace(config.train, **{name: options[name] for name in training & options.keys()}),
    )


@contextlib.contextmanager
def opened_run(
    folder: str | Path,
    config: RunConfig,
    data: Data,
    *,
    resume: bool = False,
    overwrite: bool = False,
    placement: Literal["auto"] | Placement = "auto",
    storage: Storage = "float32",
    progress: Progress = SILENT,
) -> Iterator[FitData]:
    """Create a run folder, or resume it, and lock it while the context lasts; yields its data, ready for `train_run`.

    Raises ValueError before anything is written when the folder or the data do not suit the configuration. Of several
    processes, all call this and the main one writes.
    """
    if resume:
        check_options(folder, config)
        run.check_basis(folder, data.basis, f"that of {data.path}")
    else:
        run.check_free(folder, overwrite)
    constants = run.load_constants(folder, config.model) if resume else None
    if config.model.network == "residual" and constants is None:
        model, training, constants = fit_principal(data, config.model, config.train, progress)
        config = dataclasses.replace(config, model=model, train=training)
    fit_data = read_fit_data(data, config.model, config.train, placement, storage, progress, constants)
    with run.lock_run(folder) if devices.is_main() else contextlib.nullcontext():
        if devices.is_main() and resume:
            run.save_config(Path(folder), config, data.path)
        elif devices.is_main():
            basis = spectral.truncate(data.basis, config.model.modes)
            run.create(folder, config, basis, overwrite, data.path, constants)
        devices.wait_for_all("run folder")
        yield fit_data


def check_options(folder: str | Path, config: RunConfig) -> None:
    """Raise ValueError when an option differs from the run's own; the number of epochs and the data may differ."""
    stored = run.load_config(folder)
    for ours, theirs in ((config.model, stored.model), (config.train, stored.train)):
        for name, value in dataclasses.asdict(theirs).items():
            if name != "epochs" and getattr(ours, name) != value:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"{folder} was made with {option} {value}, not {getattr(ours, name)}: create another run"
                )


def train_run(
    folder: str | Path,
    data: FitData,
    *,
    storage: Storage = "float32",
    pictures: int = 0,
    step_losses: bool = False,
    max_hours: float | None = None,
    patience: int | None = None,
    on_epoch: OnEpoch | None = None,
    progress: Progress = SILENT,
) -> Iterator[TrainingUpdate]:
    """Train a run folder from its newest checkpoint, or from the start, to its last epoch; yields about once a second.

    Logs every epoch. Writes the checkpoint `last` at every validation and every ten minutes, and `best` at the lowest
    validation error. When `progress.should_stop()`, it writes `last` and ends. With `pictures`, TensorBoard gets
    pictures of that number of test meshes, and histograms of latents, at ever fewer validations; with `step_losses`,
    the loss of every step. Of several processes the main one writes.

    It also ends after `max_hours` from this call, and after `patience` epochs without a lower validation error; a run
    that ended so is resumed like any other. `on_epoch` is called with the number and the figures of every epoch, on the
    main process; what it raises ends training, after `last` is written. Raises ValueError when another process trains
    the run, and for limits that are not positive.
    """
    for name, limit in (("max_hours", max_hours), ("patience", patience)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} must be above 0, not {limit}")
    folder, main, started = Path(folder), devices.is_main(), time.monotonic()
    until = started + 3600 * max_hours if max_hours else math.inf
    config = run.load_config(folder)
    kept = checkpoint.restore(folder / "last", config.model, config.train) if checkpoint.find(folder / "last") else None
    epoch, best_mm = (kept.epoch, kept.best_mm) if kept else (0, None)
    best = checkpoint.find(folder / "best")
    best_epoch = int(best.name.split(".")[0]) if best else 0
    bar = _Bar(progress, config.train.epochs, num_steps(data.num_meshes, config.train.batch_size))
    constants = run.load_constants(folder, config.model)
    snapshots = Snapshots(config.model, run.load_basis(folder), data, pictures, epoch, constants)
    saved_at = time.monotonic()
    try:
        with (
            run.lock_run(folder) if main else contextlib.nullcontext(),
            RunLog(folder, epoch) if main else contextlib.nullcontext() as log,
        ):
            bar.show(kept, "compiling")
            on_step = log.write_step if log and step_losses else None
            fixed = smoothness.with_metric(constants, run.load_basis(folder), config.model, config.train)
            options = {"storage": storage, "constants": fixed, "on_step": on_step}
            for update in loop.fit(config.model, config.train, data, kept, **options):
                position = update.position
                validated = any("spatial_validation_loss" in figures for figures in update.figures.values())
                late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
                if position.best_mm != best_mm:
                    best_epoch = position.epoch
                stale = validated and position.epoch - best_epoch >= (patience or math.inf)
                over = stale or time.monotonic() > until
                stopping, late = devices.max_over_processes(int(progress.should_stop() or over), int(late))
                if log is not None:
                    log.write(update.figures)
                    if validated and snapshots.due(position.epoch):
                        log.show(position.epoch, *snapshots.draw(position))
                if position.best_mm != best_mm:
                    best_mm = position.best_mm
                    checkpoint.save(folder / "best", position)
                if validated or stopping or late:
                    checkpoint.save(folder / "last", position)
                    kept, saved_at = position, time.monotonic()
                if on_epoch and main:
                    try:
                        for number, figures in update.figures.items():
                            on_epoch(number, figures)
                    except BaseException:
                        if kept is not position:
                            checkpoint.save(folder / "last", position)
                        raise
                bar.show_update(update)
                yield update
                if stopping:
                    break
    except (FloatingPointError, MemoryError, OSError, RuntimeError, ValueError) as error:
        if kept:
            steps = f" and {kept.step} steps" if kept.step else ""
            error.add_note(f"the checkpoint after {kept.epoch} epochs{steps} is kept")
        raise
    devices.wait_for_all("trained")


class _Bar:
    """Reports training as one task, counted in steps, with the latest figures as its note."""

    def __init__(self, progress: Progress, epochs: int, steps: int):
        self._progress, self._epochs, self._steps = progress, epochs, steps
        self._loss = self._validation = ""

    def show(self, position: TrainingProgress | None, note: str) -> None:
        epoch, step = (position.epoch, position.step) if position else (0, 0)
        note = f"epoch {min(epoch + 1, self._epochs):,}/{self._epochs:,}  {note}"
        self._progress.update("training", epoch * self._steps + step, self._epochs * self._steps, note)

    def show_update(self, update: TrainingUpdate) -> None:
        for figures in update.figures.values():
            if "spectral_train_loss" in figures:
                self._loss = f"loss {figures['spectral_train_loss']:.2e}  "
            if "spatial_validation_loss" in figures:
                self._validation = f"{figures['spatial_validation_loss']:.2f} mm  "
        speed = f"{update.meshes_per_second:,.0f} meshes/s" if update.meshes_per_second else "compiling"
        self.show(update.position, f"{self._loss}{self._validation}{speed}")
