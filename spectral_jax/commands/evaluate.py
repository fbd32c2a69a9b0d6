"""`spectral-jax eval`."""

from __future__ import annotations

import dataclasses
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


@dataclass(frozen=True)
class Eval:
    """Evaluate a run: its errors in mm, compared with the basis alone, the mean shape and PCA on the same meshes."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    data: str | None = None
    """The dataset (default: the one the run was trained on)."""
    split: str = "test"
    """The split to evaluate."""
    checkpoint: Checkpoint = None
    """The newest checkpoint (last) or the one with the lowest validation error (best) (default: last for SAE-LP, best
    for the residual network)."""
    measures: bool = False
    """Also measure the network and PCA as shape models: compactness, generalisation and specificity."""
    json: Path | None = None
    """Also write the errors to this JSON file."""

    def __call__(self) -> None:
        from spectral_jax.runs import evaluate, shape_model

        opened = open_run(self.run, self.data, self.checkpoint)
        with Bars() as bars:
            summary = evaluate.evaluate(opened.run, opened.data, self.split, bars)
        print_summary(summary, opened.run, opened.data.path, self.split)
        record = dataclasses.asdict(summary)
        if self.measures:
            with Bars() as bars:
                models = shape_model.measure_run(opened, self.split, bars)
            print_measures(models, opened.run.config.model.latent_size)
            record["shape_models"] = dataclasses.asdict(models)
        if self.json:
            atomic.write_json(self.json, record)


def print_summary(summary: Summary, run: Run, data_path: Path, split: str) -> None:
    """Print an evaluation as a table, and on standard error a warning where the basis is probably a wrong one."""
    from spectral_jax.runs import evaluate

    table = Table(title=f"{run.path} (epoch {run.epoch}) on {data_path}, {split} split, {summary.count:,} meshes")
    for name in ("mm", "mean", "median", "std", "min", "max"):
        table.add_column(name, justify="left" if name == "mm" else "right")
    statistics = (summary.mean_mm, summary.median_mm, summary.std_mm, summary.min_mm, summary.max_mm)
    table.add_row(f"network, latent {run.config.model.latent_size}", *(f"{mm:.2f}" for mm in statistics), style="bold")
    table.add_row(f"PCA, {run.config.model.latent_size} components", f"{summary.pca_mm:.2f}")
    table.add_row("mean shape", f"{summary.mean_shape_mm:.2f}")
    table.add_row(f"basis alone, {run.config.model.modes:,} modes", f"{summary.truncation_mm:.2f}")
    Console().print(table)
    if warning := evaluate.basis_warning(summary):
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
