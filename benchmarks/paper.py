"""The tables and figures of a paper on the data at hand, as one HTML page.

    python benchmarks/paper.py                             # the demo dataset
    python benchmarks/paper.py --quick                     # a try: two sizes, two epochs, a minute or two on the demo
    python benchmarks/paper.py --data data/mine --epochs 200 --holdout 4 --out papers/mine

SAE-LP, SAE-LP whose pooling is not learned (averages of neighbouring frequencies) and the residual network, beside PCA:
the error on the test split against the latent size and against the number of modes, with the floor that leaving out
modes sets, and a table of errors over all vertices, trained parameters and seconds of training. SAE-LP is trained by
the demo's short recipe, the residual network by its own; `--epochs` applies to all. Each network is a run folder under
`--out`: the same command continues what was interrupted, and networks of other sizes join those that are there. Without
`--holdout`, the best checkpoint is chosen by its error on the test split; a paper should hold identities of the train
split out for this.
"""

import argparse
import dataclasses
import html
from pathlib import Path
from typing import Any, NamedTuple

import jax
import plotly.graph_objects as go
from machine import announce, record, save, table

import spectral_jax as sj
from spectral_jax.commands.console import Bars
from spectral_jax.commands.train import DEMO_TRAINING
from spectral_jax.data.dataset import Data
from spectral_jax.files import atomic
from spectral_jax.files.progress import Progress
from spectral_jax.network.autoencoder import MATRICES
from spectral_jax.runs import logs, vertex_errors
from spectral_jax.runs.opened import open_run
from spectral_jax.training.config import RECIPES, TrainConfig

SHORT = TrainConfig(**vars(DEMO_TRAINING))
METHODS: dict[str, tuple[dict[str, Any], TrainConfig]] = {
    "SAE-LP": ({"network": "sae-lp"}, SHORT),
    "SAE-LP, average pooling": ({"network": "sae-lp", "pooling_matrices": "average"}, SHORT),
    "residual": ({"network": "residual"}, RECIPES["residual"]),
}
COLOURS = {"SAE-LP": "#1f5faa", "SAE-LP, average pooling": "#7aa6d8", "residual": "#2e8b57"}
COLOURS |= {"PCA": "#c25a11", "modes alone": "#777777"}
COLUMNS = ("method", "modes", "latent", "mean", "median", "std", "PCA", "modes alone", "parameters", "seconds")
STYLE = "body{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto}td,th{padding:.2em .8em;text-align:right}"


class Row(NamedTuple):
    """The figures of one network; errors in mm: mean, median and standard deviation over all vertices of the split."""

    method: str
    modes: int
    latent: int
    mean: float
    median: float
    std: float
    pca: float | None
    truncation: float
    parameters: int
    seconds: float


def measure(method: str, modes: int, latent: int, data: Data, options: argparse.Namespace, progress: Progress) -> Row:
    """Train a network, or continue, and evaluate its best checkpoint."""
    model, recipe = METHODS[method]
    epochs = options.epochs or recipe.epochs
    training = dataclasses.replace(
        recipe,
        epochs=epochs,
        batch_size=min(recipe.batch_size, len(data.records("train"))),
        validate_every=min(recipe.validate_every, epochs),
        holdout=options.holdout,
    )
    folder = options.out / f"{method.replace(', ', '-').replace(' ', '-').lower()}-{modes}-{latent}"
    given = {**model, **dataclasses.asdict(training), "modes": modes, "latent_size": latent}
    resume = (folder / "config.json").is_file()
    if resume:
        del given["batch_size"]  # the run has its own, which may be that of fewer meshes
    run = sj.train(data, folder, resume=resume, progress=progress, **given)
    summary = sj.evaluate(run, data, progress=progress)
    errors = vertex_errors.measure(open_run(run, data), progress=progress)
    fixed = MATRICES if "pooling_matrices" in model else ()
    trained = {name: leaves for name, leaves in run.params.items() if not name.startswith(fixed)}
    return Row(
        method,
        modes,
        latent,
        *(errors.mean_mm, errors.median_mm, errors.std_mm, summary.pca_mm, summary.truncation_mm),
        sum(leaf.size for leaf in jax.tree.leaves(trained)),
        sum(line.get("epoch_time", 0.0) for line in logs.read_log(folder)),
    )


def figure(rows: list[Row], across: str, title: str) -> go.Figure:
    """Errors against a column of the rows: a curve for each method, PCA and the modes alone."""
    drawn, rows = go.Figure(), sorted(rows, key=lambda row: getattr(row, across))
    curves = {method: [(getattr(row, across), row.mean) for row in rows if row.method == method] for method in METHODS}
    of_all = {getattr(row, across): row for row in rows}
    curves["PCA"] = [(x, row.pca) for x, row in of_all.items()]
    curves["modes alone"] = [(x, row.truncation) for x, row in of_all.items()]
    for name, points in curves.items():
        line = {"color": COLOURS[name], "dash": "solid" if name in METHODS else "dot"}
        drawn.add_scatter(x=[p[0] for p in points], y=[p[1] for p in points], name=name, line=line)
    ticks = list(of_all)
    drawn.update_xaxes(title=title, type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    drawn.update_yaxes(title="mean vertex error, mm", rangemode="tozero")
    return drawn.update_layout(template="plotly_white", height=420, margin={"t": 30})


def cells(row: Row) -> list[str]:
    """A row as text."""
    errors = ["-" if mm is None else f"{mm:.2f}" for mm in row[3:8]]
    return [row.method, f"{row.modes:,}", str(row.latent), *errors, f"{row.parameters:,}", f"{row.seconds:.0f}"]


def page(data: Data, rows: list[Row], latent: int, options: argparse.Namespace) -> str:
    """The page, which opens offline."""
    most, counts = max(row.modes for row in rows), {name: len(data.records(name)) for name in ("train", "test")}
    chosen = f"{options.holdout} identities of the train split" if options.holdout else "the test split"
    epochs = ", ".join(f"{name} {options.epochs or recipe.epochs}" for name, (_, recipe) in METHODS.items())
    about = (
        f"{options.data}: {data.basis.num_vertices:,} vertices, {counts['train']:,} train and {counts['test']:,} test "
        f"meshes. Epochs: {epochs}. Each network is its best checkpoint by the error on {chosen}."
    )
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row)) + "</tr>" for row in rows)
    sizes = figure([row for row in rows if row.modes == most], "latent", "latent size")
    modes = figure([row for row in rows if row.latent == latent], "modes", "number of modes")
    machine = ", ".join(f"{name} {value}" for name, value in record().items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Errors</title><style>{STYLE}</style>'
        f"<h1>Errors on the test split</h1><p>{html.escape(about)}</p>"
        f"<h2>Latent size, {most:,} modes</h2>{sizes.to_html(full_html=False, include_plotlyjs=True)}"
        f"<h2>Number of modes, latent size {latent}</h2>{modes.to_html(full_html=False, include_plotlyjs=False)}"
        f"<h2>All networks</h2><p>Errors in mm over all vertices of all test meshes; PCA has as many components as the "
        f"network latents. Parameters that are trained; seconds of the epochs.</p>"
        f"<table><tr>{''.join(f'<th>{name}</th>' for name in COLUMNS)}</tr>{lines}</table>"
        f"<p>{html.escape(machine)}</p></html>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="a dataset, or the word demo")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of the runs and of paper.html")
    parser.add_argument("--latent-sizes", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--modes", type=int, nargs="+", help="default: all of the dataset, a half, a quarter, ...")
    parser.add_argument("--epochs", type=int, help="default: those of the recipes")
    parser.add_argument("--holdout", type=int, default=0, help="identities of the train split to choose checkpoints by")
    parser.add_argument("--quick", action="store_true", help="two latent sizes, two numbers of modes, two epochs")
    options = parser.parse_args()
    data = sj.open_data(options.data)
    most = min(sj.ModelConfig.modes, data.basis.num_modes)
    if options.quick:
        most = min(most, 128)
        options.latent_sizes, options.modes, options.epochs = [4, 16], [max(1, most // 4), most], options.epochs or 2
    modes = sorted(set(options.modes or [max(1, most >> halvings) for halvings in range(4)]))
    sizes = sorted(set(options.latent_sizes))
    latent = sizes[len(sizes) // 2]
    cases = [(modes[-1], size) for size in sizes] + [(count, latent) for count in modes[:-1]]
    announce()
    row, rows = table(f"Errors on the test split, mm, of {options.data}", f"{'method':>24}", *COLUMNS[1:]), []
    for method in METHODS:
        for count, size in cases:
            with Bars() as bars:
                rows.append(measure(method, count, size, data, options, bars))
            row(*cells(rows[-1]))
    save(options.out / "paper.json", {"data": str(options.data), "rows": [found._asdict() for found in rows]})
    atomic.write_text(options.out / "paper.html", page(data, rows, latent, options))
    print(options.out / "paper.html")


if __name__ == "__main__":
    main()
