"""`spectral-jax dataset info`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import track
from spectral_jax.commands.dataset import open_data, show_counts
from spectral_jax.files import atomic


@dataclass(frozen=True)
class DatasetInfo:
    """Show what a dataset holds and how many modes its meshes need: errors and energy by number of modes."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A prepared dataset folder, a folder in a published layout, or the word demo."""
    meshes: int = 256
    """Number of meshes to measure in each split, evenly spaced."""
    json: Path | None = None
    """Also write the figures to this JSON file."""
    plot: Path | None = None
    """Also plot the figures on this .html page, which opens offline."""

    def __call__(self) -> None:
        from spectral_jax.basis import spectrum

        if self.meshes < 1:
            raise ValueError(f"--meshes must be at least 1, not {self.meshes}")
        if self.plot and self.plot.suffix != ".html":
            raise ValueError(f"--plot writes an .html page, not {self.plot}")
        data = open_data(self.data)
        show_counts(data)
        num_modes = data.basis.num_modes
        train, _ = read_sample(data, "train", self.meshes)
        test, vertices = read_sample(data, "test", self.meshes)
        original = None if vertices is None else (test, vertices)
        curve = spectrum.measure(data.basis, spectrum.curve_counts(num_modes), train, original)
        table = spectrum.coarsen(curve, spectrum.table_counts(num_modes))
        figures = {
            "path": str(data.path),
            "num_vertices": data.basis.num_vertices,
            "num_modes": num_modes,
            "source": data.metadata["source"],
            "meshes": {name: len(records) for name, records in data.splits.items()},
            "identities": {name: len(data.metadata["identities"][name]) for name in data.splits},
            "constant_modes": int(spectrum.constant_modes(data.basis).sum()),
            "energies_of": {"split": "train", "meshes": len(train)},
            "errors_of": None if original is None else {"split": "test", "meshes": len(test)},
            "table": columns(table, data.basis.num_vertices),
            "curve": columns(curve, data.basis.num_vertices),
        }
        print_tables(table, figures)
        if self.json:
            atomic.write_json(self.json, figures)
        if self.plot:
            figure = draw(curve, spectrum.coarsen(curve, spectrum.octave_counts(num_modes)), figures)
            atomic.write_text(self.plot, figure.to_html(include_plotlyjs=True))


def read_sample(data, split: str, count: int):
    """Coefficients, and vertices if the split has them, of up to `count` meshes evenly spaced in a split."""
    import numpy as np

    from spectral_jax.geometry.sampling import evenly_spaced

    records = data.records(split)
    examples = [records[i] for i in track(evenly_spaced(len(records), count), f"reading {split}")]
    coefficients = np.stack([example.coefficients for example in examples])
    if not np.isfinite(coefficients).all():
        raise ValueError(f"{data.path}: split {split} has values that are not finite")
    if any(example.vertices is None for example in examples):
        return coefficients, None
    return coefficients, np.stack([example.vertices for example in examples])


def columns(spectrum, num_vertices: int) -> dict[str, Any]:
    """A spectrum as columns for JSON; a band goes from band_first up to, but not including, modes."""
    return {
        "modes": list(spectrum.counts),
        "modes_percent": [100 * count / num_vertices for count in spectrum.counts],
        "mean_mm": None if spectrum.mean_mm is None else spectrum.mean_mm.tolist(),
        "max_mm": None if spectrum.max_mm is None else spectrum.max_mm.tolist(),
        "energy_left_out_percent": spectrum.left_out_percent.tolist(),
        "band_first": [0, *spectrum.counts[:-1]],
        "band_energy_percent": spectrum.energy_percent.tolist(),
        "band_rms_amplitude_mm": spectrum.amplitude_mm.tolist(),
    }


def print_tables(spectrum, figures: dict[str, Any]) -> None:
    """Print what the first modes leave out, what each band holds, and which meshes were measured."""
    kept, bands = Table(), Table()
    measured = ["mean\nerror, mm", "worst\nmesh, mm"] if figures["errors_of"] else []
    for name in ("modes", f"% of all\n{figures['num_vertices']:,}", *measured, "energy\nleft out, %"):
        kept.add_column(name, justify="right")
    kept.add_column("error" if measured else "energy left out")
    for name in ("band of modes", "energy, %", "rms amplitude, mm"):
        bands.add_column(name, justify="right")
    left_out = spectrum.left_out_percent
    lengths = spectrum.mean_mm if measured else left_out
    for i, (first, count) in enumerate(pairwise((0, *spectrum.counts))):
        errors = (f"{mm[i]:.2f}" for mm in (spectrum.mean_mm, spectrum.max_mm) if mm is not None)
        bar = Bar(lengths.max() or 1, 0, lengths[i], width=16)
        percent = 100 * count / figures["num_vertices"]
        kept.add_row(f"{count:,}", f"{percent:.1f}", *errors, f"{left_out[i]:.4f}", bar)
        energy, amplitude = spectrum.energy_percent[i], spectrum.amplitude_mm[i]
        bands.add_row(f"{first}-{count - 1}", f"{energy:.4f}", f"{amplitude:.2f}")

    def sample(split, meshes):
        return f"{meshes:,} of {figures['meshes'][split]:,} {split} meshes"

    console = Console()
    console.print(kept)
    if figures["errors_of"]:
        print(f"error: distance of vertices to their reconstruction from the modes, {sample(**figures['errors_of'])}")
    else:
        print("no errors: the test split has no original vertices to compare with")
    console.print(bands)
    print(
        f"energy: sum of squared coefficients, 100 % in the {figures['num_modes']:,} modes of the dataset, "
        f"{sample(**figures['energies_of'])}"
    )
    if constant := figures["constant_modes"]:
        print(f"energy and amplitude are without constant modes ({constant} here): position, not shape")


def draw(curve, octaves, figures: dict[str, Any]):
    """Plot the truncation error by number of modes and, below it, the rms amplitude of each octave."""
    import numpy as np
    from plotly.subplots import make_subplots

    from spectral_jax.report.plots import mode_axis

    title = "How many modes does {path} need? ({num_modes:,} modes of {num_vertices:,} vertices)".format(**figures)
    rows = 2 if figures["errors_of"] else 1
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    if figures["errors_of"]:
        for name, mm, dash in (("mean over meshes", curve.mean_mm, "solid"), ("worst mesh", curve.max_mm, "dot")):
            figure.add_scatter(
                x=curve.counts,
                y=np.where(mm > 1e-3, mm, np.nan),  # the rounding error of all modes would stretch the axis
                name=name,
                mode="lines+markers",
                line={"dash": dash, "color": "#1f5fa8"},
                hovertemplate="%{x} modes: %{y:.3g} mm",
                row=1,
                col=1,
            )
        figure.update_yaxes(title="truncation error (mm)", row=1, col=1)
    first, count = np.array((0, *octaves.counts[:-1])), np.array(octaves.counts)
    figure.add_bar(
        x=first[1:],
        y=octaves.amplitude_mm[1:],
        offset=0,
        width=(count - first)[1:],
        customdata=count[1:] - 1,
        name="amplitude",
        showlegend=False,
        marker={"color": "#8fb4dc", "line": {"color": "white", "width": 2}},
        hovertemplate="modes %{x}-%{customdata}: %{y:.3g} mm",
        row=rows,
        col=1,
    )
    figure.update_yaxes(title="rms amplitude of the octave (mm)", row=rows, col=1)
    figure.update_xaxes(title="number of modes", row=rows, col=1)
    figure.update_xaxes(**mode_axis(figures["num_modes"]))
    figure.update_yaxes(type="log", tickvals=np.outer(10.0 ** np.arange(-4, 5), (1, 2, 5)).ravel(), tickformat="~g")
    figure.update_layout(title=title, template="plotly_white", legend={"x": 1, "xanchor": "right", "y": 1})
    return figure
