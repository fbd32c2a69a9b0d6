"""`spectral-jax eval`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars, console
from spectral_jax.commands.network import Checkpoint, open_run
from spectral_jax.files import atomic

if TYPE_CHECKING:
    from spectral_jax.runs.evaluate import Summary
    from spectral_jax.runs.run import Run
    from spectral_jax.runs.shape_model import ShapeModels

TITLES = {"sae-lp": "SAE-LP", "residual": "residual network"}


@dataclass(frozen=True)
class Eval:
    """Evaluate runs: their errors in mm, and those of PCA, the mean shape and the basis alone on the same meshes."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    data: str | None = None
    """The dataset (default: the one the run was trained on)."""
    split: str = "test"
    """The split to evaluate."""
    checkpoint: Checkpoint = None
    """The newest checkpoint (last) or the one with the lowest validation error (best) (default: last for SAE-LP, best
    for the residual network)."""
    compare: tuple[Path, ...] = ()
    """Other run folders to evaluate on the same meshes, as rows of the same table."""
    measures: bool = False
    """Also measure the network and PCA as shape models: compactness, generalisation and specificity."""
    json: Path | None = None
    """Also write the errors to this JSON file."""

    def __call__(self) -> None:
        from spectral_jax.runs import evaluate, opened, shape_model

        first = open_run(self.run, self.data, self.checkpoint)
        summaries = []
        with Bars() as bars:
            for each in (first, *(opened.open_run(run, first.data, self.checkpoint, bars) for run in self.compare)):
                summaries.append((each.run, evaluate.evaluate(each.run, each.data, self.split, bars)))
        (_, summary), *others = summaries
        print_summary(summary, first.run, first.data.path, self.split, others)
        record = dataclasses.asdict(summary)
        if others:
            record["compared"] = {str(run.path): dataclasses.asdict(other) for run, other in others}
        if self.measures:
            with Bars() as bars:
                models = shape_model.measure_run(first, self.split, bars)
            print_measures(models, first.run.config.model.latent_size)
            record["shape_models"] = dataclasses.asdict(models)
        if self.json:
            atomic.write_json(self.json, record)


def print_summary(
    summary: Summary, run: Run, data_path: Path, split: str, others: Sequence[tuple[Run, Summary]] = ()
) -> None:
    """Print the evaluation of a run, and of others on the same meshes, as a table.

    On standard error, say how checkpoints were chosen, and where the basis is probably a wrong one.
    """
    from spectral_jax.runs import evaluate

    summaries = [(run, summary), *others]
    runs = ", ".join(f"{run.path} (epoch {run.epoch})" for run, _ in summaries)
    table = Table(title=f"{runs} on {data_path}, {split} split, {summary.count:,} meshes")
    for name in ("mm", "mean", "median", "std", "min", "max"):
        table.add_column(name, justify="left" if name == "mm" else "right")
    baselines = {}
    for run, found in summaries:
        model = run.config.model
        statistics = (found.mean_mm, found.median_mm, found.std_mm, found.min_mm, found.max_mm)
        name = f"{TITLES[model.network]}, latent {model.latent_size}"
        alike = [other for other, _ in summaries if other.config.model == model]
        where = f"\n{run.path}, epoch {run.epoch}" if len(alike) > 1 else ""
        table.add_row(name + where, *(f"{mm:.2f}" for mm in statistics), style="bold")
        baselines[f"PCA, {model.latent_size} components"] = found.pca_mm
    baselines["mean shape"] = summary.mean_shape_mm
    for run, found in summaries:
        baselines[f"basis alone, {run.config.model.modes:,} modes"] = found.truncation_mm
    for name, mm in baselines.items():
        table.add_row(name, f"{mm:.2f}")
    Console().print(table)
    for run, found in summaries:
        if run.checkpoint == "best":
            held = run.config.train.holdout
            chosen_on = f"{held} identities held out of the train split" if held else "the test split"
            note = f"note: {run.path} is its best checkpoint, chosen by its error on {chosen_on}"
            console.print(note, markup=False, highlight=False, soft_wrap=True)
        if warning := evaluate.basis_warning(found):
            console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def print_measures(models: ShapeModels, latent_size: int) -> None:
    """Print the measures of the network and of PCA of equal size as a table."""
    table = Table(title="measures of the shape models")
    table.add_column("")
    table.add_column(f"network, latent {latent_size}", justify="right")
    table.add_column(f"PCA, {latent_size} components", justify="right")
    both = (models.network, models.pca)
    table.add_row("compactness, %", *(f"{100 * found.compactness:.2f}" for found in both))
    table.add_row("generalisation, mm", *(f"{found.generalisation_mm:.2f}" for found in both))
    table.add_row("specificity, one Gaussian, mm", *(f"{found.specificity_mm:.2f}" for found in both))
    table.add_row("specificity, mixture, mm", *(f"{found.mixture_specificity_mm:.2f}" for found in both))
    Console().print(table)
