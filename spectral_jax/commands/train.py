"""`spectral-jax train` and `spectral-jax demo`."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from spectral_jax.commands.console import console
from spectral_jax.commands.dataset import data_source, ensure_demo_data, open_data
from spectral_jax.commands.evaluate import Eval
from spectral_jax.commands.report import Report
from spectral_jax.network.autoencoder import Activation, ModelConfig
from spectral_jax.training.config import Placement, Precision, Schedule, Storage, TrainConfig

DEMO_RUN = Path("runs/demo")
# The short recipe of the demo; the published one is the default of `train`.
DEMO_TRAINING = TrainConfig(epochs=24, learning_rate=3e-3, beta2=0.95, schedule="cosine", validate_every=3)


@dataclass(frozen=True)
class Demo:
    """Build the demo data, train on it, evaluate, report: the whole system in a few minutes on a laptop."""

    overwrite: bool = False
    """Start again from nothing instead of continuing what is there."""

    def __call__(self) -> None:
        ensure_demo_data(self.overwrite)
        resume = (DEMO_RUN / "config.json").is_file() and not self.overwrite
        Train(run=DEMO_RUN, **dataclasses.asdict(DEMO_TRAINING), resume=resume, overwrite=self.overwrite)()
        Eval(DEMO_RUN)()
        Report(DEMO_RUN)()
        console.print(f"open it in a browser; to look closer: spectral-jax view {DEMO_RUN}", highlight=False)


@dataclass(frozen=True)
class Train:
    """Train a network; without options: the published recipe on the demo data."""

    data: str = "demo"
    """A prepared dataset folder, or the word demo (built in data/demo when absent)."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The run folder to make (default: runs/ and the time)."""
    epochs: int = TrainConfig.epochs
    """Passes over the train split."""
    batch_size: int = TrainConfig.batch_size
    """Meshes in a step; the smaller last batch is used."""
    learning_rate: float = TrainConfig.learning_rate
    """Adam's rate at the start, or the peak of the cosine."""
    beta2: float = TrainConfig.beta2
    """Decay of Adam's second moment; a short run learns faster with a short memory."""
    schedule: Schedule = TrainConfig.schedule
    """The published plateau rule, or warm-up and cosine for short runs of known length."""
    validate_every: int = TrainConfig.validate_every
    """Epochs between validations and checkpoints."""
    seed: int = TrainConfig.seed
    """Seed of the initial parameters and of the shuffling."""
    precision: Precision = TrainConfig.precision
    """Of the network's arithmetic: the device's default (TF32 on recent NVIDIA GPUs), full float32, or bfloat16."""
    clip_norm: float = TrainConfig.clip_norm
    """Norm that longer gradients are scaled down to; 0: none are."""
    skip_bad_steps: bool = TrainConfig.skip_bad_steps
    """Leave out a step whose loss or gradient is not finite, instead of ending there."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Spectral modes (default: 4096, or all the data has when fewer)."""
    latent_size: int = ModelConfig.latent_size
    """Numbers in a latent."""
    conv_size: int = ModelConfig.conv_size
    """Width of the convolutions along frequency, odd."""
    activation: Activation = ModelConfig.activation
    """Activation after every convolution but the last."""
    resume: bool = False
    """Continue the run folder: its options are kept, only --epochs may change."""
    overwrite: bool = False
    """Replace the run folder."""
    placement: Literal["auto"] | Placement = "auto"
    """Where the train split is kept: on the devices, in host memory, or on disk (default: the first where it fits)."""
    storage: Storage = "float32"
    """How the train split is kept: bf16 takes half the memory and loses digits."""
    pictures: int = 3
    """Test meshes drawn into TensorBoard now and then (with Pillow), beside histograms of latents; 0: neither."""
    deterministic: bool = False
    """Same seed, same GPU, same bytes: XLA's deterministic kernels alone, slower. CPUs need nothing for that."""
    distributed: bool = False
    """One of several processes that SLURM, Kubernetes or a cloud TPU has started (see docs/cluster.md)."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """One of several processes started by hand: where process 0 listens."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """How many processes there are."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Which of them this is, from 0."""

    def __call__(self) -> None:
        from spectral_jax.basis import spectral
        from spectral_jax.runs import run
        from spectral_jax.training import devices
        from spectral_jax.training.placement import read_fit_data

        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")
        if self.pictures < 0:
            raise ValueError(f"pictures must be at least 0, not {self.pictures}")
        if self.deterministic:
            devices.make_deterministic()
        if self.distributed or self.coordinator or self.num_processes is not None or self.process_id is not None:
            devices.initialise(self.coordinator, self.num_processes, self.process_id)
            console.quiet = not devices.is_main()
        modes = ModelConfig.modes if self.modes is None else self.modes
        model = ModelConfig(modes, self.latent_size, self.conv_size, self.activation)
        training = TrainConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)})
        folder = self.run or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
        if not self.resume:
            run.check_free(folder, self.overwrite)
        data = open_data(self.data)
        if self.modes is None:
            model = dataclasses.replace(model, modes=min(model.modes, data.basis.num_modes))
        config = run.RunConfig(model, training, data_source(self.data, data))
        if self.resume:
            check_continues(folder, config)
            run.check_basis(folder, data.basis, f"that of {data.path}")
        fit_data = read_fit_data(data, config.model, config.train, self.placement, self.storage)
        with run.lock_run(folder) if devices.is_main() else contextlib.nullcontext():
            if devices.is_main() and self.resume:
                run.save_config(folder, config, data.path)
                tell_other_data(folder)
            elif devices.is_main():
                run.create(folder, config, spectral.truncate(data.basis, model.modes), self.overwrite, data.path)
            devices.wait_for_all("run folder")
            train(folder, config, fit_data, self.storage, self.pictures)


def tell_other_data(folder: Path) -> None:
    """Say so when the data are not those that the run was last trained on."""
    from spectral_jax.runs import run

    known = [entry["data_fingerprint"] for entry in run.load_history(folder) if entry.get("data_fingerprint")]
    if len(known) > 1 and known[-1] != known[-2]:
        console.print(f"note: the data have changed since {folder} was last trained", soft_wrap=True)


def stored_options(folder: Path | None) -> Train:
    """The options a run folder was made with: the defaults of those not given when it is continued."""
    from spectral_jax.runs import run

    if folder is None:
        raise ValueError("--resume needs --run, the folder to continue")
    config = run.load_config(folder)
    return Train(config.data, folder, **dataclasses.asdict(config.train), **dataclasses.asdict(config.model))


def check_continues(folder: Path, config) -> None:
    """Raise ValueError naming the options in which `config` differs from the run's own, --epochs and --data apart."""
    from spectral_jax.runs import run

    stored = run.load_config(folder)
    for ours, theirs in ((config.model, stored.model), (config.train, stored.train)):
        for name, value in dataclasses.asdict(theirs).items():
            if name != "epochs" and getattr(ours, name) != value:
                option = "--" + name.replace("_", "-")
                raise ValueError(
                    f"{folder} was made with {option} {value}, not {getattr(ours, name)}: make another run"
                )


def train(folder: Path, config, fit_data, storage: Storage = "float32", pictures: int = 0) -> None:
    """Train a run folder with a progress bar; SIGINT and SIGTERM save where training is and exit 130 or 143."""
    from spectral_jax.runs import run
    from spectral_jax.training.batches import num_steps

    steps = num_steps(fit_data.num_meshes, config.train.batch_size)
    received: list[int] = []

    def stop(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)
        console.print("saving (again to stop at once)")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    columns = (
        TextColumn("epoch"), MofNCompleteColumn(), BarColumn(20), TextColumn("{task.fields[line]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    try:
        with Progress(*columns, console=console, speed_estimate_period=600, disable=not console.is_terminal) as bar:
            task = bar.add_task("training", total=config.train.epochs, line="compiling", start=False)

            def epochs(position):
                return position.epoch + position.step / steps if position else 0

            def on_start(position):
                bar.update(task, completed=epochs(position))
                bar.start_task(task)

            loss = validation = ""
            for progress in run.train_run(folder, fit_data, on_start, lambda: bool(received), storage, pictures):
                for epoch, figures in progress.figures.items():
                    loss = f"loss {figures['spectral_train_loss']:.2e}  "
                    if "spatial_validation_loss" in figures:
                        validation = f"{figures['spatial_validation_loss']:.2f} mm  "
                        line = (
                            f"epoch {epoch:>5}  {loss}{validation}rate {figures['learning_rate']:.2e}  "
                            f"{figures['meshes_per_second']:,.0f} meshes/s"
                        )
                        bar.console.print(line, highlight=False, soft_wrap=True)
                line = f"{loss}{validation}{progress.meshes_per_second:,.0f} meshes/s"
                bar.update(task, completed=epochs(progress.position), line=line)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        console.print(f"saved; continue with: train.py --run {folder} --resume --data {config.data}", soft_wrap=True)
        raise SystemExit(128 + received[0])
    console.print(f"trained {config.train.epochs} epochs: {folder}", soft_wrap=True)
