"""`spectral-jax eval`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars, console
from spectral_jax.commands.dataset import open_data


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
        from spectral_jax.basis import spectral
        from spectral_jax.data import dataset
        from spectral_jax.runs import evaluate, run

        loaded = run.load_run(self.run, self.checkpoint)
        source = self.data or loaded.config.data
        if not source:
            raise ValueError(f"{self.run} does not know its dataset: name it with --data")
        data = open_data(source)
        spectral.check_same(loaded.basis, data.basis, (f"the basis of {self.run}", f"that of {data.path}"))
        num_modes = loaded.config.model.modes
        with Bars() as bars:
            split = train_split = dataset.read_split(data, "train", num_modes, progress=bars)
            if self.split != "train":
                split = dataset.read_split(data, self.split, num_modes, progress=bars)
        summary = evaluate.evaluate(loaded, data.basis, train_split, split)
        print_summary(summary, loaded, data.path, self.split)
        if self.json:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            self.json.write_text(json.dumps(dataclasses.asdict(summary), indent=1) + "\n")


def print_summary(summary, run, data_path: Path, split: str) -> None:
    """The evaluation as a table on standard output, and on standard error what is suspicious about it."""
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
