"""The plotly figures of a report; colours are variables of the page's style sheet, which has a light and a dark set."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from spectral_jax.geometry import colours
from spectral_jax.report.measurements import Bands
from spectral_jax.runs.shape_model import Measures, ShapeModels

NETWORK, PCA, GREY, INK, RULE = (f"var(--{name})" for name in ("network", "pca", "grey", "ink", "rule"))
HOVER = {"bgcolor": "var(--card)", "bordercolor": RULE, "font": {"color": INK}}
SERIES = [f"var(--series-{i})" for i in range(8)]
MAX_CHARACTERS = 28  # of a name
MAX_GROUPS = 20  # identities or regions in a figure
MAX_POINTS = 2000  # of a curve
NUM_BINS = 24  # of the histogram
TICKS = [digit * 10.0**exponent for exponent in range(-4, 5) for digit in (1, 2, 5)]  # of a logarithmic axis
FINE_TICKS = [digit * 10.0**exponent for exponent in range(-4, 5) for digit in (1, 1.5, 2, 3, 4, 5, 6, 8)]


def text(name: str) -> str:
    """A name as a plotly label: escaped, because plotly renders some HTML, and short enough for an axis."""
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return html.escape(name if len(name) <= MAX_CHARACTERS else name[: MAX_CHARACTERS - 1] + "…", quote=False)


def curves(log: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Losses, validation error and learning rate by epoch; a panel for each that the log has."""
    panels = {
        "Loss": {"spectral_train_loss": ("train", NETWORK), "spectral_validation_loss": ("validation", PCA)},
        "Validation error, mm": {"spatial_validation_loss": ("validation error, mm", PCA)},
        "Learning rate": {"learning_rate": ("learning rate", GREY)},
    }
    found = {name: _column(log, name) for lines in panels.values() for name in lines}
    titles = [title for title, lines in panels.items() if any(found[name].size for name in lines)]
    rows = max(1, len(titles))
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.1, subplot_titles=titles)
    for row, title in enumerate(titles, 1):
        for name, (label, colour) in panels[title].items():
            x, y = found[name]
            figure.add_scatter(
                x=x,
                y=y,
                name=label,
                mode="lines+markers" if len(x) < 40 else "lines",
                line={"color": colour, "width": 2},
                marker={"size": 5},
                showlegend=title == "Loss",
                hovertemplate="%{y:.3g}",
                row=row,
                col=1,
            )
        axis = {"type": "log", "tickformat": ".0e", "dtick": 1} if title == "Loss" else {"rangemode": "tozero"}
        figure.update_yaxes(**{"nticks": 5, "tickformat": "~g", **axis}, row=row, col=1)
    figure.update_annotations(x=0, xanchor="left", yshift=4, font={"color": INK, "size": 13})
    figure.update_xaxes(title="epoch", row=rows, col=1)
    return _plain(figure, hovermode="x unified", legend={"x": 1, "xanchor": "right", "y": 1})


def _column(log: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Epochs and values (2, point) of a column of a log where it holds numbers, thinned to MAX_POINTS."""
    rows = [(line["epoch"], line.get(name)) for line in log]
    found = [row for row in rows if all(isinstance(n, int | float) and abs(n) < 1e300 for n in row)]
    return np.array(found[:: -(-len(found) // MAX_POINTS) or 1], np.float64).reshape(-1, 2).T


def histogram(mesh_mm: Mapping[str, Float[np.ndarray, "mesh"]]) -> go.Figure:
    """Number of meshes by error, for the network and PCA."""
    edges = np.histogram_bin_edges(np.concatenate([*mesh_mm.values()]), bins=NUM_BINS)
    figure = go.Figure()
    for (name, errors), colour in zip(mesh_mm.items(), (NETWORK, PCA), strict=True):
        counts = np.histogram(errors, edges)[0]
        figure.add_scatter(
            x=np.repeat(edges, 2),
            y=np.pad(np.repeat(counts, 2), 1),
            name=f"{name}, mean {errors.mean():.1f} mm",
            mode="lines",
            line={"color": colour, "width": 2},
            fill="tozeroy" if colour == NETWORK else None,
            fillcolor="var(--network-pale)",
            hoverinfo="skip",
        )
    figure.update_xaxes(title="error of a mesh, mm", rangemode="tozero")
    figure.update_yaxes(title="meshes", rangemode="tozero", nticks=6)
    return _plain(figure)


def groups(
    names: Sequence[str], network_mm: Float[np.ndarray, "group"], pca_mm: Float[np.ndarray, "group"]
) -> go.Figure:
    """Mean errors of regions or identities, the largest at the top; a line joins network and PCA."""
    order = np.argsort(network_mm)[-MAX_GROUPS:]
    rows = np.arange(len(order))
    figure = go.Figure()
    joined = np.stack([network_mm[order], pca_mm[order], np.full(len(order), np.nan)], axis=1).ravel()
    figure.add_scatter(
        x=joined,
        y=np.repeat(rows, 3),
        mode="lines",
        line={"color": RULE, "width": 4},
        hoverinfo="skip",
        showlegend=False,
    )
    labels = [text(name) for name in np.array(names, object)[order]]
    for name, mm, colour, symbol in (("network", network_mm, NETWORK, "circle"), ("PCA", pca_mm, PCA, "circle-open")):
        figure.add_scatter(
            x=mm[order],
            y=rows,
            name=name,
            mode="markers",
            marker={"color": colour, "size": 10, "symbol": symbol, "line": {"color": colour, "width": 2}},
            customdata=labels,
            hovertemplate="%{customdata}: %{x:.1f} mm",
        )
    figure.update_xaxes(title="mean vertex error, mm", rangemode="tozero")
    figure.update_yaxes(tickvals=rows, ticktext=labels, showgrid=False, range=[-0.6, len(order) - 0.4])
    return _plain(figure)


def bands(found: Bands) -> go.Figure:
    """Amplitude of the meshes in each octave of modes, and of the errors of the network and PCA."""
    first, last = np.array(found.ends[:-1], int), np.array(found.ends[1:], int)  # without mode 0, the position
    figure = go.Figure()
    shown = (found.meshes_mm, found.network_mm, found.pca_mm)
    meshes_mm, network_mm, pca_mm = (np.where(mm > 0, mm, np.nan)[1:] for mm in shown)
    names = [f"mode {a}" if a == b - 1 else f"modes {a} to {b - 1}" for a, b in zip(first, last, strict=True)]
    figure.add_bar(
        x=first,
        y=meshes_mm,
        offset=0,
        width=last - first,
        name="the meshes",
        marker={"color": "var(--bar)", "line": {"color": "var(--card)", "width": 2}},
        customdata=names,
        hovertemplate="%{customdata}: %{y:.3g} mm",
    )
    for name, mm, colour, dash in (("network's error", network_mm, NETWORK, "solid"), ("PCA's", pca_mm, PCA, "dot")):
        figure.add_scatter(
            x=np.sqrt(first * last.astype(np.float64)),
            y=mm,
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 7},
            customdata=names,
            hovertemplate="%{customdata}: %{y:.3g} mm",
        )
    figure.update_xaxes(title="mode, low to high frequency", **mode_axis(found.ends[-1]))
    figure.update_yaxes(title="rms amplitude, mm", type="log", tickvals=10.0 ** np.arange(-4, 5), tickformat="~g")
    return _plain(figure)


def shape_models(names: Sequence[str], measured: Sequence[ShapeModels]) -> dict[str, go.Figure]:
    """Measures of networks and of PCA as figures: compactness and generalisation against size, and specificity.

    The curves and the specificity of PCA are those of the first.
    """
    first, labels = measured[0], [text(name) for name in names]
    colours_of_networks = SERIES[:1] + SERIES[2:]  # without that of PCA
    lost = _against_size(first.sizes, [100 * (1 - share) for share in first.pca_compactness], "variance lost, %")
    errors = _against_size(first.sizes, first.pca_generalisation_mm, "mean vertex error, mm")
    for i, (label, found) in enumerate(zip(labels, measured, strict=True)):
        marker = {"color": colours_of_networks[i % len(colours_of_networks)], "size": 11, "symbol": i}
        for figure, value in ((lost, 100 * (1 - found.network.compactness)), (errors, found.network.generalisation_mm)):
            figure.add_scatter(
                x=[found.latent_size], y=[value], name=label, mode="markers", marker=marker, hovertemplate="%{y:.4g}"
            )
    return {
        "compactness": lost,
        "generalisation": errors,
        "specificity": _specificity([*labels, "PCA"], [*(found.network for found in measured), first.pca]),
    }


def _against_size(sizes: Sequence[int], values: Sequence[float], title: str) -> go.Figure:
    """A curve of PCA against its number of components."""
    figure = go.Figure()
    line = {"color": PCA, "width": 2}
    figure.add_scatter(x=sizes, y=values, name="PCA", mode="lines+markers", line=line, hovertemplate="%{y:.4g}")
    figure.update_xaxes(title="latent size", type="log", tickvals=sizes, ticktext=[str(size) for size in sizes])
    ticks = FINE_TICKS if max(values) < 10 * min(values) else TICKS
    figure.update_yaxes(title=title, type="log", tickvals=ticks, tickformat="~g")
    return _plain(figure)


def _specificity(labels: Sequence[str], measured: Sequence[Measures]) -> go.Figure:
    """Specificity of models as bars, the first at the top."""
    figure, rows = go.Figure(), np.arange(len(labels))[::-1]
    drawn = {
        "one Gaussian": ([found.specificity_mm for found in measured], "var(--bar)"),
        "mixture": ([found.mixture_specificity_mm for found in measured], NETWORK),
    }
    for i, (name, (values, colour)) in enumerate(drawn.items()):
        bars = {"orientation": "h", "width": 0.36, "offset": 0.02 - 0.38 * i, "marker": {"color": colour}}
        figure.add_bar(
            x=values, y=rows, name=name, customdata=labels, hovertemplate="%{customdata}: %{x:.1f} mm", **bars
        )
    figure.update_xaxes(title="distance, mm", rangemode="tozero")
    figure.update_yaxes(tickvals=rows, ticktext=labels, showgrid=False, range=[-0.6, len(labels) - 0.4])
    return _plain(figure)


def scatter(
    points: Float[np.ndarray, "point 2"],
    train_points: Float[np.ndarray, "other 2"],
    identities: Sequence[str],
    rows: Int[np.ndarray, "point"],
    shares: Float[np.ndarray, "2"],
) -> go.Figure:
    """Latents along two components, coloured by identity, the train split behind; `shares` of variance in per cent."""
    figure = go.Figure()

    def add(points, name, colour, size, **options):
        figure.add_scatter(
            x=points[:, 0].astype(np.float32),
            y=points[:, 1].astype(np.float32),
            name=name,
            mode="markers",
            marker={"color": colour, "size": size, "line": {"width": 0}},
            **options,
        )

    add(train_points, "train split", "var(--faint)", 4, hoverinfo="skip")
    names, owners = np.unique(np.array(identities, object), return_inverse=True)
    named = names if len(names) <= len(SERIES) else names[: len(SERIES) - 1]
    for i in range(min(len(names), len(named) + 1)):
        chosen = owners == i if i < len(named) else owners >= i
        label = text(names[i]) if i < len(named) else f"{len(names) - i} others"
        template = "mesh %{customdata}<extra>%{fullData.name}</extra>"
        add(points[chosen], label, SERIES[i], 5, customdata=rows[chosen], hovertemplate=template)
    first, second = (f"component {k + 1} ({share:.0f} %)" for k, share in enumerate(shares))
    figure.update_xaxes(title=first, zeroline=False, nticks=6)
    figure.update_yaxes(title=second, zeroline=False, nticks=6, scaleanchor="x")
    return _plain(figure, legend={"itemsizing": "constant"})


def scene(low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"], most_mm: float) -> go.Figure:
    """An empty 3D scene of a box (metres, y up) seen from the front, with the colour scale of errors up to `most_mm`.

    The page's script fills in meshes and moves the camera, at unit distance here, so that the box fills the view.
    """
    size = np.maximum(high - low, 1e-3 * (high - low).max() or 1.0)
    axes = {"visible": False, "showspikes": False}
    figure = go.Figure(
        go.Mesh3d(
            cmin=0,
            cmax=most_mm,
            colorscale=[[stop, f"var(--error-{i})"] for i, stop in enumerate(colours.STOPS)],
            showscale=False,
            lighting={"ambient": 0.42, "diffuse": 0.75, "specular": 0.08, "roughness": 0.7, "fresnel": 0.1},
            lightposition={"x": -4000, "y": 5000, "z": 5000},
            hovertemplate="%{intensity:.1f} mm<extra></extra>",
        )
    )
    ranges = zip("xyz", low.tolist(), high.tolist(), strict=True)
    figure.update_layout(
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        hoverlabel=HOVER,
        scene={
            **{f"{axis}axis": {**axes, "range": [a, b]} for axis, a, b in ranges},
            "aspectmode": "manual",
            "aspectratio": dict(zip("xyz", (size / size.max()).tolist(), strict=True)),
            "camera": {"up": {"x": 0, "y": 1, "z": 0}, "eye": {"x": 0.35, "y": 0.1, "z": 0.93}},
            "dragmode": "orbit",
        },
    )
    return figure


def mode_axis(num_modes: int) -> dict[str, Any]:
    """The logarithmic axis of modes."""
    limits = [-0.05, math.log10(num_modes) + 0.05]
    return {"type": "log", "range": limits, "tickvals": 4 ** np.arange(8), "tickformat": ",d"}


def _plain(figure: go.Figure, **layout) -> go.Figure:
    """The figure in the style of the page: no frame, faint grid, legend above, dragging off."""
    axis = {"gridcolor": RULE, "linecolor": RULE, "zeroline": False, "fixedrange": True, "automargin": True}
    axis |= {"title_font_size": 13, "title_standoff": 8}
    figure.update_xaxes(**axis, showgrid=False, showline=True, ticks="outside", tickcolor=RULE)
    figure.update_yaxes(**axis)
    margin = {"l": 8, "r": 12, "t": 8, "b": 8, **layout.pop("margin", {})}
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", **layout.pop("legend", {})}
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
        hoverlabel=HOVER,
        margin=margin,
        legend=legend,
        **layout,
    )
    return figure
