"""`spectral-jax train` and `spectral-jax demo`."""

from __future__ import annotations

import dataclasses
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars, console, shown_warnings
from spectral_jax.commands.dataset import data_source, ensure_demo_data, open_data
from spectral_jax.commands.evaluate import Eval
from spectral_jax.commands.report import Report
from spectral_jax.network.config import Activation, ModelConfig, Network, Pooling, PoolingMatrices
from spectral_jax.training.config import RECIPES, Placement, Storage, TrainConfig


@dataclass(frozen=True)
class TrainOptions(TrainConfig):
    """TrainConfig as the command line parses it; `Train` checks it, as tyro wraps a field's errors into a box."""

    def __post_init__(self):
        pass


DEMO_RUN = Path("runs/demo")
DEMO_RESIDUAL_RUN = Path("runs/demo-residual")
# The short recipe of the demo. The published recipe is the default of `train`.
DEMO_TRAINING = TrainOptions(epochs=24, learning_rate=3e-3, beta2=0.95, schedule="cosine", validate_every=3)


@dataclass(frozen=True)
class Demo:
    """Build the demo dataset, train both networks on it, evaluate and report: the whole system in a few minutes."""

    overwrite: bool = False
    """Start over and discard the existing run."""

    def __call__(self) -> None:
        ensure_demo_data(self.overwrite)
        for run, options in DEMO_RUNS.items():
            if (run / "config.json").is_file() and not self.overwrite:
                dataclasses.replace(stored_options(run), resume=True)()
            else:
                dataclasses.replace(options, run=run, overwrite=self.overwrite)()
        Eval(DEMO_RUN, compare=(DEMO_RESIDUAL_RUN,))()
        Report(DEMO_RUN, compare=(DEMO_RESIDUAL_RUN,))()
        console.print(f"open it in a browser; to look closer: spectral-jax view {DEMO_RESIDUAL_RUN}", highlight=False)


@dataclass(frozen=True)
class Train:
    """Train a network. Without options: the published recipe on the demo dataset."""

    data: str = "demo"
    """A prepared dataset folder, a dataset of the PyTorch systems, or the word demo (built in data/demo if absent)."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The run folder to create (default: a folder under runs/ named after the time)."""
    network: Network = "sae-lp"
    """sae-lp: the published network, by default with its published recipe. residual: PCA and what two small networks
    add to it; trained in seconds on principal scores, by a recipe of its own (`train --network residual --help`)."""
    training: tyro.conf.OmitArgPrefixes[TrainOptions] = TrainOptions()
    """How the network is trained."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of spectral modes (default: 4096, or all modes of the dataset if it has fewer)."""
    latent_size: int = ModelConfig.latent_size
    """Number of values in a latent vector."""
    conv_size: int = ModelConfig.conv_size
    """Width of the convolutions of SAE-LP along frequency, odd."""
    activation: Activation = ModelConfig.activation
    """Activation function of SAE-LP after every convolution except the last."""
    pooled: tuple[int, ...] = ModelConfig.pooled
    """Lengths along frequency after each pooling of SAE-LP: one for each layer of the encoder, in any order."""
    channels: tuple[int, ...] = ModelConfig.channels
    """Channels after each convolution of SAE-LP's encoder, as many as lengths; the decoder mirrors them."""
    pooling: Pooling = ModelConfig.pooling
    """Where SAE-LP's encoder pools in each layer. The decoder's layers begin with their pooling in either case."""
    pooling_matrices: PoolingMatrices = ModelConfig.pooling_matrices
    """How SAE-LP pools: by matrices that are trained, or by averages of neighbouring frequencies, to compare with."""
    directions: int = ModelConfig.directions
    """Principal directions of the residual network; fewer where there are fewer meshes."""
    hidden_size: int = ModelConfig.hidden_size
    """Width of the hidden layers of the residual network."""
    symmetric: tyro.conf.Suppress[bool] = False
    """Of a residual network that is resumed: whether --mirror made it symmetric."""
    resume: bool = False
    """Continue the run in --run. It keeps its options; only --epochs and --data may change."""
    overwrite: bool = False
    """Discard the run in --run and start over."""
    placement: Literal["auto"] | Placement = "auto"
    """Where the train split is kept. device: in the memory of each GPU, fastest. host: in main memory, copied to the
    device in blocks. stream: on disk, read again in every epoch. auto: the first of these with enough room."""
    storage: Storage = "float32"
    """Number format of the train split in memory. bf16 halves the memory and rounds every coefficient to two or three
    significant digits."""
    max_hours: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Stop after this time, counted from the start of this command, and save; --resume continues."""
    patience: Annotated[int | None, tyro.conf.arg(metavar="EPOCHS")] = None
    """Stop when the validation error has not fallen for this number of epochs, and save."""
    pictures: int = 3
    """Number of test meshes to draw for TensorBoard during training (needs Pillow). TensorBoard also gets histograms of
    the latents. 0 disables both."""
    step_losses: bool = False
    """Also write the loss of every step for TensorBoard, which slows short steps down."""
    profile: Annotated[int, tyro.conf.arg(metavar="STEPS")] = 0
    """Record what the devices do during so many steps, or a few more, once they run at full speed. Prints the slowest
    operations, and writes a trace for TensorBoard and Perfetto to the run folder."""
    deterministic: bool = False
    """Use only deterministic kernels: the same seed on the same GPU then gives the same bytes, more slowly. CPUs need
    no such option."""
    distributed: bool = False
    """Join the other processes that SLURM, Kubernetes or a cloud TPU has started (see docs/howto/cluster.md)."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """The address that process 0 listens on, for several processes started by hand."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """The number of these processes."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """The number of this process, from 0."""

    def __call__(self) -> None:
        from spectral_jax.runs import profiling, run, train
        from spectral_jax.training import devices
        from spectral_jax.training.batches import num_steps

        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")
        for name in ("pictures", "profile"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.deterministic:
            devices.make_deterministic()
        devices.use_graphs()
        if self.distributed or self.coordinator or self.num_processes is not None or self.process_id is not None:
            devices.initialise(self.coordinator, self.num_processes, self.process_id)
            console.quiet = not devices.is_main()
        training = TrainConfig(**vars(self.training))
        modes = ModelConfig.modes if self.modes is None else self.modes
        options: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(ModelConfig)}
        model = ModelConfig(**{**options, "modes": modes})
        folder = self.run or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
        if not self.resume:
            run.check_free(folder, self.overwrite)
        data = open_data(self.data)
        if self.modes is None:
            model = dataclasses.replace(model, modes=min(model.modes, data.basis.num_modes))
        config = run.RunConfig(model, training, data_source(self.data, data))
        start = {"resume": self.resume, "overwrite": self.overwrite, "placement": self.placement}
        with (
            Bars() as bars,
            shown_warnings(),
            train.opened_run(folder, config, data, **start, storage=self.storage, progress=bars) as fit_data,
            Signals(bars) as signals,
        ):
            if self.resume and run.data_changed(folder):
                console.print(f"note: the data have changed since {folder} was last trained", soft_wrap=True)
            options = {"storage": self.storage, "pictures": self.pictures, "step_losses": self.step_losses}
            options |= {"max_hours": self.max_hours, "patience": self.patience}
            updates = train.train_run(folder, fit_data, **options, progress=signals)
            if self.profile:
                steps = num_steps(fit_data.num_meshes, training.batch_size)
                updates = profiling.record(updates, folder / profiling.FOLDER, self.profile, steps)
            epoch = training.epochs  # where nothing is left to train
            for update in updates:
                print_validations(update)
                epoch = update.position.epoch
            if self.profile:
                print_operations(folder / profiling.FOLDER)
        how = f"train.py --run {folder} --resume --data {config.data}"
        if signals.received is not None:
            console.print(f"saved; resume with: {how}", soft_wrap=True)
            raise SystemExit(128 + signals.received)
        if epoch < training.epochs:
            done = f"stopped after {epoch} of {training.epochs} epochs"
            console.print(f"{done}, saved; resume with: {how}", soft_wrap=True)
            return
        console.print(f"trained {training.epochs} epochs: {folder}", soft_wrap=True)


class Signals:
    """Progress that SIGINT or SIGTERM asks to save and stop; a second signal stops at once."""

    def __init__(self, bars: Bars) -> None:
        self.received: int | None = None
        self._bars = bars
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        console.print("saving (interrupt again to stop at once)")

    def update(self, task: str, done: int, total: int | None = None, note: str = "") -> None:
        self._bars.update(task, done, total, note)

    def should_stop(self) -> bool:
        return self.received is not None


def print_validations(update: Any) -> None:
    """Print a line for each epoch of an update that ended with a validation."""
    for epoch, figures in update.figures.items():
        if "spatial_validation_loss" in figures:
            line = f"epoch {epoch:>5}  {figures['spatial_validation_loss']:.2f} mm"
            if epoch:
                line = (
                    f"epoch {epoch:>5}  loss {figures['spectral_train_loss']:.2e}  "
                    f"{figures['spatial_validation_loss']:.2f} mm  rate {figures['learning_rate']:.2e}  "
                    f"{figures['meshes_per_second']:,.0f} meshes/s"
                )
            console.print(line, highlight=False, soft_wrap=True)


def print_operations(folder: Path) -> None:
    """Print the slowest operations of a profile as a table."""
    from spectral_jax.runs import profiling

    operations = profiling.slowest(folder)
    if not operations:
        console.print("note: training ended before the profile began")
        return
    table = Table("operation", title="where the time went")
    for name in ("calls", "ms", "%"):
        table.add_column(name, justify="right")
    total = sum(operation.milliseconds for operation in operations)
    for operation in operations[:15]:
        share = 100 * operation.milliseconds / total
        table.add_row(operation.name, f"{operation.calls:,}", f"{operation.milliseconds:,.1f}", f"{share:.1f}")
    Console().print(table)
    print(f"{folder}: the whole trace, for `tensorboard --logdir` with its profile plugin")


def stored_options(folder: Path | None) -> Train:
    """The options that a run folder was made with: the defaults when it is resumed."""
    from spectral_jax.runs import run

    if folder is None:
        raise ValueError("--resume needs --run, the folder to resume")
    config = run.load_config(folder)
    training = TrainOptions(**vars(config.train))
    return Train(config.data, folder, training=training, **dataclasses.asdict(config.model))


def recipe_options(network: Network) -> Train:
    """The options of a network's own recipe: the defaults when it is trained."""
    return Train(network=network, training=TrainOptions(**vars(RECIPES[network])))


DEMO_RUNS = {
    DEMO_RUN: Train(training=DEMO_TRAINING),
    DEMO_RESIDUAL_RUN: dataclasses.replace(
        recipe_options("residual"),
        training=TrainOptions(**vars(dataclasses.replace(RECIPES["residual"], mirror=True))),
        hidden_size=512,
    ),
}
