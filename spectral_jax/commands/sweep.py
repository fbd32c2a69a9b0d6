"""`spectral-jax sweep`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars
from spectral_jax.commands.dataset import data_source, open_data
from spectral_jax.files import atomic
from spectral_jax.files.progress import Progress
from spectral_jax.network.config import OF_SAE_LP, Activation, ModelConfig, Network, Pooling, PoolingMatrices
from spectral_jax.training.config import RECIPES, Schedule, TrainConfig

if TYPE_CHECKING:
    from spectral_jax.data.dataset import Data

SHAPE = ("network", *OF_SAE_LP)  # options of the network that all of a sweep share
OF_TRAINING = ("epochs", "batch_size", "beta2", "schedule", "validate_every")  # those of its training


@dataclass(frozen=True)
class Sweep:
    """Train many networks and plot their error against the latent size, next to that of PCA.

    All seeds and learning rates train at once on one device; latent sizes and numbers of modes train one after the
    other. Run the same command again to continue an interrupted sweep, or to add sizes to it.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """The folder to write sweep.json and sweep.html to."""
    data: str = "demo"
    """A prepared dataset folder, a dataset of the PyTorch systems, or the word demo."""
    network: Network = "sae-lp"
    """sae-lp, by default with a short recipe. residual: with its own (`train --network residual --help`)."""
    latent_sizes: tuple[int, ...] = (8, 16, 32, 64)
    """Numbers of values in a latent vector."""
    modes: tuple[int, ...] = ()
    """Numbers of spectral modes (default: 4096, or all modes of the dataset if it has fewer)."""
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
    seeds: tuple[int, ...] = (TrainConfig.seed,)
    """Seeds of the initial parameters and of the order of the meshes."""
    learning_rates: tuple[float, ...] = (3e-3,)
    """Adam's learning rates: initial rates of the plateau schedule, or peaks of the cosine schedule."""
    epochs: int = 24
    """Number of passes over the train split."""
    batch_size: int = TrainConfig.batch_size
    """Number of meshes in a step."""
    beta2: float = 0.95
    """Decay rate of Adam's running mean of squared gradients; the mean covers about 1 / (1 - beta2) steps."""
    schedule: Schedule = "cosine"
    """How the learning rate changes: the published plateau rule, or a warm-up and a cosine to zero for short runs."""
    validate_every: int = TrainConfig.validate_every
    """Number of epochs between validations."""

    def __call__(self) -> None:
        config = TrainConfig(loss=RECIPES[self.network].loss, **{name: getattr(self, name) for name in OF_TRAINING})
        for rate in self.learning_rates:
            dataclasses.replace(config, learning_rate=rate)  # raises ValueError for an unusable rate
        shape = {name: getattr(self, name) for name in SHAPE}
        ModelConfig(**shape)  # raises ValueError for a shape that no network has
        data = open_data(self.data)
        options = {name: getattr(self, name) for name in (*OF_TRAINING, *SHAPE, "seeds", "learning_rates")}
        record = load(self.out / "sweep.json", {"data": data_source(self.data, data), **options})
        counts = self.modes or (min(ModelConfig.modes, data.basis.num_modes),)
        if data.records("test")[0].vertices is None:
            raise ValueError(f"{data.path}: the test split has no original vertices to measure errors against")
        if config.batch_size > (count := len(data.records("train"))):
            raise ValueError(f"batch size {config.batch_size} is larger than the train split, {count} meshes")
        self.out.mkdir(parents=True, exist_ok=True)
        done = {(network["modes"], network["latent_size"]) for network in record["networks"]}
        for modes in counts:
            sizes = [size for size in self.latent_sizes if (modes, size) not in done]
            if sizes:
                for network in self._train(data, config, [ModelConfig(modes, size, **shape) for size in sizes]):
                    record["networks"].append(network)
                    atomic.write_json(self.out / "sweep.json", record)
        print_table(record)
        draw(self.out / "sweep.html", record)

    def _train(self, data: Data, config: TrainConfig, models: Sequence[ModelConfig]) -> Iterator[dict[str, Any]]:
        """Train networks that differ in their latent size; yields the record of each."""
        from spectral_jax.training import placement, sweep

        with Bars() as bars:
            errors = baselines(data, models, bars)
            constants = None
            if self.network == "residual":  # the directions are those of the meshes, whatever the latent size
                fitted, config, constants = placement.fit_principal(data, models[0], config, bars)
                models = [dataclasses.replace(model, directions=fitted.directions) for model in models]
            fit_data = placement.read_fit_data(data, models[0], config, "device", progress=bars, constants=constants)
            for model in models:
                options = {"seeds": self.seeds, "rates": self.learning_rates, "constants": constants}
                trials = sweep.sweep(model, config, fit_data, **options, progress=bars)
                yield {
                    "modes": model.modes,
                    "latent_size": model.latent_size,
                    **errors[model.latent_size],
                    "error_mm": min((t.error_mm for t in trials if math.isfinite(t.error_mm)), default=None),
                    "trials": [
                        t._asdict() | {"validations_mm": [mm if math.isfinite(mm) else None for mm in t.validations_mm]}
                        for t in trials
                    ],
                }


def with_recipe(sweep: Sweep) -> Sweep:
    """The same sweep with its network's own recipe."""
    recipe = RECIPES[sweep.network]
    options: dict[str, Any] = {name: getattr(recipe, name) for name in OF_TRAINING}
    return dataclasses.replace(sweep, learning_rates=(recipe.learning_rate,), **options)


def load(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Read the record of a sweep so far, if any. Raises ValueError when it was made with other options."""
    options = plain(options)
    if not path.is_file():
        return {**options, "networks": []}
    try:
        before = plain({name: getattr(ModelConfig, name) for name in SHAPE})  # earlier versions had no such options
        record = before | json.loads(path.read_text())
        found = {name: record[name] for name in options}
        record["networks"] = list(record["networks"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a sweep's record ({error})") from error
    for name, value in options.items():
        if found[name] != value:
            raise ValueError(
                f"{path}: this sweep has {name.replace('_', ' ')} {found[name]}, not {value}; use another --out"
            )
    return record


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON gives them back: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def baselines(data: Data, models: Sequence[ModelConfig], progress: Progress) -> dict[int, dict[str, float]]:
    """Errors of PCA with as many components, of the mean shape and of the basis alone, mm, for each latent size.

    They are those of the meshes that the networks are validated on.
    """
    from spectral_jax.basis import spectral
    from spectral_jax.data.coefficients import LazyCoefficients
    from spectral_jax.data.dataset import Split
    from spectral_jax.network import principal
    from spectral_jax.runs import evaluate
    from spectral_jax.training.placement import validation_meshes

    modes, sizes = models[0].modes, [model.latent_size for model in models]
    train = LazyCoefficients(data, "train", modes, progress)
    fitted = principal.fit(train, max(sizes), tolerance=evaluate.BASELINE_TOLERANCE)
    sizes_of_pca = [0, *(min(size, len(fitted.components)) for size in sizes)]
    batches = evaluate.read_batches(Split(*validation_meshes(data, models[0]), []), modes, progress)
    basis = spectral.truncate(data.basis, modes)
    truncation, mean_shape, *pca = evaluate.baseline_errors_mm(basis, fitted, batches, sizes_of_pca)
    common = {"mean_shape_mm": mean_shape, "truncation_mm": truncation}
    return {size: {"pca_mm": error_mm, **common} for size, error_mm in zip(sizes, pca, strict=True)}


def print_table(record: dict[str, Any]) -> None:
    """Print one row for each network: its lowest error, the learning rate of that trial, and the baselines."""
    table = Table(title=f"error on the test split of {record['data']} after {record['epochs']} epochs, mm")
    for name in ("modes", "latent size", "network", "learning rate", "PCA", "mean shape", "basis alone"):
        table.add_column(name, justify="right")
    for n in record["networks"]:
        finished = [t for t in n["trials"] if t["validations_mm"][-1] is not None]
        best = min(finished, key=lambda t: t["validations_mm"][-1], default=None)
        found = (f"{n['error_mm']:.2f}", f"{best['learning_rate']:.2g}") if best else ("diverged", "")
        others = (f"{n[name]:.2f}" for name in ("pca_mm", "mean_shape_mm", "truncation_mm"))
        table.add_row(f"{n['modes']:,}", str(n["latent_size"]), *found, *others)
    Console().print(table)


def draw(path: Path, record: dict[str, Any]) -> None:
    """Write a page that plots the error against the latent size, one curve for each number of modes."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for modes in sorted({n["modes"] for n in record["networks"]}):
        own = sorted((n for n in record["networks"] if n["modes"] == modes), key=lambda n: n["latent_size"])
        sizes = [n["latent_size"] for n in own]
        for name, key, dash in (
            ("network", "error_mm", "solid"),
            ("PCA", "pca_mm", "dash"),
            ("basis", "truncation_mm", "dot"),
        ):
            figure.add_scatter(
                x=sizes,
                y=[n[key] for n in own],
                name=f"{name}, {modes:,} modes",
                line={"dash": dash},
                mode="lines+markers",
            )
    figure.update_xaxes(
        title="latent size", type="log", tickvals=sorted({n["latent_size"] for n in record["networks"]})
    )
    figure.update_yaxes(title="mean vertex error on the test split (mm)", rangemode="tozero")
    figure.update_layout(template="plotly_white", title=f"{record['data']}, {record['epochs']} epochs")
    figure.write_html(path, include_plotlyjs=True)
