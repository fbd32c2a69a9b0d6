"""`spectral-jax eval`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars, console
from spectral_jax.commands.network import Checkpoint, open_run
from spectral_jax.files import atomic

if TYPE_CHECKING:
    from spectral_jax.data.dataset import Data
    from spectral_jax.runs.evaluate import Summary
    from spectral_jax.runs.run import Run
    from spectral_jax.runs.shape_model import ShapeModels


class Result(NamedTuple):
    """The evaluation of a run on a dataset; the train split of `baselines`, if any, gave mean shape and PCA."""

    run: Run
    data: Data
    summary: Summary
    baselines: Data | None


@dataclass(frozen=True)
class Eval:
    """Evaluate runs: their errors in mm, and those of PCA, the mean shape and the basis alone on the same meshes.

    PCA and the mean shape are fitted to the train split that the run was trained on.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, or the word demo: the network that comes with the package."""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="DATA")] = ()
    """The dataset (default: the one the run was trained on). Given several times, a table of all runs on all of them
    follows."""
    split: str = "test"
    """The split to evaluate."""
    checkpoint: Checkpoint = None
    """The newest checkpoint (last) or the one with the lowest validation error (best) (default: last for SAE-LP, best
    for the residual network)."""
    compare: tuple[Path, ...] = ()
    """Other run folders to evaluate on the same meshes, as rows of the same table."""
    measures: bool = False
    """Also measure the network and PCA as shape models: compactness, generalisation and specificity."""
    vertex_errors: bool = False
    """Also print mean, standard deviation and median over all vertices, and the mean after rigid alignment."""
    joints: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also print the mean error of joints (MPJPE): a body file, or a .npy file (joint, vertex) that gives them."""
    json: Path | None = None
    """Also write the errors to this JSON file."""

    def __call__(self) -> None:
        if self.measures and len(self.data) > 1:
            raise ValueError(f"--measures takes one dataset, not {len(self.data)}")
        regressor = None
        if self.joints:  # before anything is evaluated
            from spectral_jax.bodies.smplh import read_joint_regressor

            regressor = read_joint_regressor(self.joints)
        rows = [self._evaluate(data) for data in self.data or (None,)]
        records = []
        for results in rows:
            first, *others = results
            where = first.run, first.data.path, self.split
            print_summary(first.summary, *where, [(other.run, other.summary) for other in others])
            for line in baseline_notes(results):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            records.append(dataclasses.asdict(first.summary))
            if self.vertex_errors or self.joints:
                records[-1]["vertex_errors"] = self._measure_vertices(results, regressor)
            if others:
                records[-1]["compared"] = {str(other.run.path): dataclasses.asdict(other.summary) for other in others}
        if len(rows) > 1:
            print_matrix(rows)
            record = {str(results[0].data.path): record for results, record in zip(rows, records, strict=True)}
        else:
            (record,) = records
        if self.measures:
            from spectral_jax.runs import opened, shape_model

            ((first, *_),) = rows
            with Bars() as bars:
                models = shape_model.measure_run(opened.OpenedRun(first.run, first.data), self.split, bars)
            print_measures(models, first.run.config.model.latent_size)
            record["shape_models"] = dataclasses.asdict(models)
        if self.json:
            atomic.write_json(self.json, record)

    def _evaluate(self, data: str | None) -> list[Result]:
        """Evaluate all runs on one dataset."""
        from spectral_jax.runs import evaluate, opened

        first, results = open_run(self.run, data, self.checkpoint), []
        with Bars() as bars:
            for each in (first, *(opened.open_run(run, first.data, self.checkpoint, bars) for run in self.compare)):
                baselines = evaluate.find_baselines(each)
                summary = evaluate.evaluate(each.run, each.data, self.split, bars, baselines)
                results.append(Result(each.run, each.data, summary, baselines))
        return results

    def _measure_vertices(self, results: Sequence[Result], regressor: Any) -> dict[str, dict[str, float | None]]:
        """Measure and print the errors over all vertices of each run."""
        from spectral_jax.runs import evaluate, opened, vertex_errors

        table, found = Table("over all vertices, mm", title=f"{results[0].data.path}, {self.split} split"), {}
        titles = ("mean", "std", "median", "rigidly aligned", *(["joints"] if self.joints else []))
        for title in titles:
            table.add_column(title, justify="right")
        names = evaluate.titles([result.run for result in results])
        with Bars() as bars:
            for name, result in zip(names, results, strict=True):
                errors = vertex_errors.measure(opened.OpenedRun(result.run, result.data), self.split, regressor, bars)
                found[str(result.run.path)] = errors._asdict()
                table.add_row(name, *(_millimetres(mm) for mm in errors[: len(titles)]))
        Console().print(table)
        return found


def baseline_notes(results: Sequence[Result]) -> Iterator[str]:
    """Where the mean shape and PCA come from, unless it is the train split beside the meshes."""
    evaluated = results[0].data.path
    for path in dict.fromkeys(result.baselines and result.baselines.path for result in results):
        if path is None:
            yield f"note: {evaluated} has no train split, hence no mean shape and no PCA to compare with"
        elif path.resolve() != evaluated.resolve():
            yield f"note: mean shape and PCA are those of the train split of {path}"


def print_matrix(rows: Sequence[Sequence[Result]]) -> None:
    """Print the mean errors of all runs, and of PCA by the train split of each, on several datasets as a table."""
    from spectral_jax.runs import evaluate

    table = Table("mean error, mm", title="all runs on all datasets")
    for results in rows:
        table.add_column(str(results[0].data.path), justify="right")
    for name, *results in zip(evaluate.titles([result.run for result in rows[0]]), *rows, strict=True):
        size = results[0].run.config.model.latent_size
        table.add_row(name, *(f"{result.summary.mean_mm:.2f}" for result in results), style="bold")
        table.add_row(f"PCA, {size} components", *(_millimetres(result.summary.pca_mm) for result in results))
    Console().print(table)


def _millimetres(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def print_summary(
    summary: Summary, run: Run, data_path: Path, split: str, others: Sequence[tuple[Run, Summary]] = ()
) -> None:
    """Print the evaluation of a run, and of others on the same meshes, as a table.

    On standard error, say how checkpoints were chosen, and where the basis is probably a wrong one.
    """
    from spectral_jax.runs import evaluate

    summaries = [(run, summary), *others]
    names = evaluate.titles([run for run, _ in summaries])
    runs = ", ".join(f"{run.path} (epoch {run.epoch})" for run, _ in summaries)
    table = Table(title=f"{runs} on {data_path}, {split} split, {summary.count:,} meshes")
    for name in ("mm", "mean", "median", "std", "min", "max"):
        table.add_column(name, justify="left" if name == "mm" else "right")
    baselines: dict[str, float | None] = {}
    for name, (run, found) in zip(names, summaries, strict=True):
        statistics = (found.mean_mm, found.median_mm, found.std_mm, found.min_mm, found.max_mm)
        table.add_row(name, *(f"{mm:.2f}" for mm in statistics), style="bold")
        baselines[f"PCA, {run.config.model.latent_size} components"] = found.pca_mm
    baselines["mean shape"] = summary.mean_shape_mm
    for run, found in summaries:
        baselines[f"basis alone, {run.config.model.modes:,} modes"] = found.truncation_mm
    for name, mm in baselines.items():
        if mm is not None:
            table.add_row(name, f"{mm:.2f}")
    Console().print(table)
    for run, found in summaries:
        if note := evaluate.selection_note(run):
            console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
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
