"""The command line: one record per command, its fields are its options; train.py and eval.py are the same code."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from spectral_jax.model import Activation, ModelConfig
from spectral_jax.train import Schedule, TrainConfig

DEMO_DATA, DEMO_RUN = Path("data/demo"), Path("runs/demo")
# The short recipe of the demo; the published one is the default of `train`.
DEMO_TRAINING = TrainConfig(epochs=40, batch_size=16, learning_rate=1e-3, schedule="cosine", validate_every=5)
console = Console(stderr=True)


@dataclass(frozen=True)
class Demo:
    """Build the demo data, train on it, evaluate: the whole system in a few minutes on a laptop."""

    overwrite: bool = False
    """Start again from nothing instead of continuing what is there."""

    def __call__(self) -> None:
        ensure_demo_data(self.overwrite)
        resume = (DEMO_RUN / "config.json").is_file() and not self.overwrite
        Train(run=DEMO_RUN, **dataclasses.asdict(DEMO_TRAINING), resume=resume, overwrite=self.overwrite)()
        Eval(DEMO_RUN)()


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
    schedule: Schedule = TrainConfig.schedule
    """The published plateau rule, or warm-up and cosine for short runs of known length."""
    validate_every: int = TrainConfig.validate_every
    """Epochs between validations and checkpoints."""
    seed: int = TrainConfig.seed
    """Seed of the initial parameters and of the shuffling."""
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

    def __call__(self) -> None:
        from spectral_jax import basis, run

        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")
        model = ModelConfig(self.modes or ModelConfig.modes, self.latent_size, self.conv_size, self.activation)
        training = TrainConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)})
        folder = self.run or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
        if not self.resume:
            run.check_free(folder, self.overwrite)
        data = open_data(self.data)
        if self.modes is None:
            model = dataclasses.replace(model, modes=min(model.modes, data.basis.num_modes))
        config = run.RunConfig(model, training, self.data)
        if self.resume:
            check_continues(folder, config)
        fit_data = read_fit_data(data, config)
        if self.resume:
            run.save_config(folder, config)
        else:
            run.create(folder, config, basis.truncate(data.basis, model.modes), self.overwrite)
        train(folder, config, fit_data)


@dataclass(frozen=True)
class Eval:
    """Evaluate a run: errors in mm, beside the basis alone, the mean shape and PCA on the same meshes."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    data: str | None = None
    """A prepared dataset folder or demo (default: the one the run was trained on)."""
    split: str = "test"
    """Which split to evaluate."""
    checkpoint: Literal["last", "best"] = "last"
    """The newest checkpoint, or the one with the lowest validation error."""
    json: Path | None = None
    """Also write the figures to this JSON file."""

    def __call__(self) -> None:
        from spectral_jax import dataset, evaluate, run

        loaded = run.load_run(self.run, self.checkpoint)
        data = open_data(self.data or loaded.config.data)
        num_modes = loaded.config.model.modes
        train_split = dataset.read_split(data, "train", num_modes, track)
        split = train_split if self.split == "train" else dataset.read_split(data, self.split, num_modes, track)
        summary = evaluate.evaluate(loaded, data.basis, train_split, split)
        print_summary(summary, loaded, data.path, self.split)
        if self.json:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            self.json.write_text(json.dumps(summary._asdict(), indent=1) + "\n")


@dataclass(frozen=True)
class BasisCompute:
    """Compute the lowest eigenmodes of a mesh's graph Laplacian and save them."""

    mesh: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MESH")]
    """Any mesh file trimesh reads (.obj, .ply, .off, .stl, ...)."""
    out: Path
    """The .npz file to write."""
    modes: int | None = None
    """How many modes (default: as many as there are vertices)."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax import basis, mesh

        if self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists already; --overwrite replaces it")
        loaded = mesh.read_mesh(self.mesh)
        with console.status(f"computing modes of {len(loaded.vertices)} vertices"):
            computed = basis.compute(loaded.faces, len(loaded.vertices), self.modes)
        basis.save(self.out, computed)
        print(f"{self.out}: {computed.num_modes} modes of {computed.num_vertices} vertices")


@dataclass(frozen=True)
class BasisCheck:
    """Check a basis file: its arrays, its orthonormality, and whether it is the basis of a mesh."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .npz file."""
    mesh: Path | None = None
    """A mesh file whose connectivity must be the basis's."""

    def __call__(self) -> None:
        from spectral_jax import basis, mesh

        loaded = basis.load(self.file)
        if self.mesh:
            other = mesh.read_mesh(self.mesh)
            found = mesh.fingerprint(other.faces, len(other.vertices))
            if found != loaded.fingerprint:
                raise ValueError(
                    f"{self.file} is for {loaded.num_vertices} vertices of connectivity {loaded.fingerprint[:12]}, "
                    f"{self.mesh} has {len(other.vertices)} of {found[:12]}"
                )
        print(f"{self.file}: {loaded.num_modes} modes of {loaded.num_vertices} vertices, {loaded.fingerprint[:12]}, fine")


@dataclass(frozen=True)
class DatasetDemo:
    """Build the demo dataset: free (CC0) human bodies in synthetic motion, subjects disjoint between the splits."""

    out: Path = DEMO_DATA
    """The folder to make."""
    vertices: Literal[1229, 12272] = 1229
    """Vertices of the body."""
    modes: int = 1024
    """Spectral modes kept."""
    seed: int = 0
    """Seed of the subjects and their motions."""
    overwrite: bool = False
    """Replace the folder."""

    def __call__(self) -> None:
        from spectral_jax import recipes

        path = recipes.demo(self.out, self.vertices, self.modes, self.seed, self.overwrite, track)
        DatasetInfo(str(path))()


@dataclass(frozen=True)
class DatasetInfo:
    """Say what a dataset holds."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A prepared dataset folder, or the word demo."""

    def __call__(self) -> None:
        data = open_data(self.data)
        table = Table(title=f"{data.path}: {data.basis.num_vertices:,} vertices, {data.basis.num_modes:,} modes")
        table.add_column("split")
        table.add_column("meshes", justify="right")
        table.add_column("identities", justify="right")
        for name, records in data.splits.items():
            table.add_row(name, f"{len(records):,}", f"{len(data.metadata['identities'][name]):,}")
        Console().print(table)


COMMANDS = {
    "demo": Demo,
    "train": Train,
    "eval": Eval,
    "basis": {"compute": BasisCompute, "check": BasisCheck},
    "dataset": {"demo": DatasetDemo, "info": DatasetInfo},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a user's mistake, 1 for a failure, 130 for Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        parse(argv)()
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 1
    except (ValueError, OSError, FloatingPointError) as error:
        if debug:
            raise
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1 if isinstance(error, FloatingPointError) else 2
    return 0


def parse(argv: list[str]):
    """The command record that `argv` asks for; the words before a leaf command choose the group."""
    commands, prog = COMMANDS, "spectral-jax"
    while argv and isinstance(commands.get(argv[0]), dict):
        commands, prog, argv = commands[argv[0]], f"{prog} {argv[0]}", argv[1:]

    def group(name):
        def stub(): ...

        stub.__doc__ = f"Group: {', '.join(commands[name])}."
        return stub

    leaves = {name: group(name) if isinstance(leaf, dict) else leaf for name, leaf in commands.items()}
    description = "Learning on registered 3D meshes in the spectral domain. --debug shows a traceback on errors."
    config = (tyro.conf.FlagCreatePairsOff,)
    command = tyro.extras.subcommand_cli_from_dict(
        leaves, prog=prog, description=description, args=argv or ["--help"], config=config
    )
    if isinstance(command, Train) and command.resume:
        return tyro.cli(Train, prog=f"{prog} train", args=argv[1:], default=stored_options(command.run), config=config)
    return command


def stored_options(folder: Path | None) -> Train:
    """The options a run folder was made with: the defaults of those not given when it is continued."""
    from spectral_jax import run

    if folder is None:
        raise ValueError("--resume needs --run, the folder to continue")
    config = run.load_config(folder)
    return Train(
        config.data, folder, **dataclasses.asdict(config.train), **dataclasses.asdict(config.model), resume=True
    )


def check_continues(folder: Path, config) -> None:
    """Raise ValueError naming the options in which `config` differs from the run's own, --epochs and --data apart."""
    from spectral_jax import run

    stored = run.load_config(folder)
    for ours, theirs in ((config.model, stored.model), (config.train, stored.train)):
        for name, value in dataclasses.asdict(theirs).items():
            if name != "epochs" and getattr(ours, name) != value:
                option = "--" + name.replace("_", "-")
                raise ValueError(f"{folder} was made with {option} {value}, not {getattr(ours, name)}: make another run")


def open_data(source: str):
    """The dataset a DATA argument names; the word demo names data/demo, built when absent."""
    from spectral_jax import dataset

    if source == "demo":
        ensure_demo_data()
        source = str(DEMO_DATA)
    return dataset.open_data(source)


def ensure_demo_data(overwrite: bool = False) -> None:
    """Build data/demo unless it is there."""
    if overwrite or not DEMO_DATA.exists():
        DatasetDemo(overwrite=overwrite)()


def read_fit_data(data, config):
    """Both splits in memory as training needs them."""
    from spectral_jax import dataset
    from spectral_jax.train import FitData

    modes = config.model.modes
    train_split = dataset.read_split(data, "train", modes, track)
    test_split = dataset.read_split(data, "test", modes, track)
    if config.train.batch_size > len(train_split.coefficients):
        raise ValueError(
            f"batch size {config.train.batch_size} is larger than the train split, {len(train_split.coefficients)} meshes"
        )
    return FitData(train_split.coefficients, data.basis.modes[:, :modes], test_split.coefficients, test_split.vertices)


def train(folder: Path, config, fit_data) -> None:
    """Train a run folder with a progress bar; SIGINT and SIGTERM finish the epoch, save and exit 130 or 143."""
    from spectral_jax import run

    received: list[int] = []

    def stop(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)
        console.print("finishing this epoch, then saving (again to stop at once)")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    columns = (
        TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[line]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    try:
        with Progress(*columns, console=console, speed_estimate_period=600) as bar:
            task = bar.add_task("training", total=config.train.epochs, line="compiling", start=False)

            def on_start(done):
                bar.update(task, completed=done)
                bar.start_task(task)

            validation = ""
            for progress in run.train_run(folder, fit_data, on_start, lambda: bool(received)):
                figures = progress.figures
                if "spatial_validation_loss" in figures:
                    validation = f"validation {figures['spatial_validation_loss']:.2f} mm"
                line = (
                    f"loss {figures['spectral_train_loss']:.3e}  {validation}  rate {figures['learning_rate']:.3g}  "
                    f"{figures['meshes_per_second']:,.0f} meshes/s"
                )
                bar.update(task, completed=progress.epoch, line=line)
                if "spatial_validation_loss" in figures:
                    bar.console.print(f"epoch {progress.epoch:>5}  {line}", highlight=False)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        console.print(f"saved; continue with: train.py --run {folder} --resume --data {config.data}", soft_wrap=True)
        raise SystemExit(128 + received[0])
    console.print(f"trained {config.train.epochs} epochs: {folder}", soft_wrap=True)


def track(iterable: Iterable, description: str) -> Iterator:
    """Iterate with a rich progress bar."""
    from rich.progress import track as rich_track

    return rich_track(iterable, description, console=console, transient=True)


def print_summary(summary, run, data_path: Path, split: str) -> None:
    """The evaluation as a table on standard output."""
    table = Table(title=f"{run.path} (epoch {run.epoch}) on {data_path}, {split} split, {summary.count:,} meshes")
    for name in ("mm", "mean", "median", "std", "min", "max"):
        table.add_column(name, justify="left" if name == "mm" else "right")
    statistics = [f"{value:.2f}" for value in summary[:5]]
    table.add_row(f"network, latent {run.config.model.latent_size}", *statistics, style="bold")
    table.add_row(f"PCA, {run.config.model.latent_size} components", f"{summary.pca_mm:.2f}")
    table.add_row("mean shape", f"{summary.mean_shape_mm:.2f}")
    table.add_row(f"basis alone, {run.config.model.modes:,} modes", f"{summary.truncation_mm:.2f}")
    Console().print(table)


def run_and_exit() -> None:
    """Entry point of the `spectral-jax` script."""
    sys.exit(main())


if __name__ == "__main__":
    run_and_exit()
