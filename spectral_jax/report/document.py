"""The report of a run as one HTML page that needs nothing else; it may hold names of any kind: all are escaped."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Float

from spectral_jax.data.dataset import Data
from spectral_jax.geometry.metrics import summarise
from spectral_jax.paths import interpolate
from spectral_jax.report import plots
from spectral_jax.report.measurements import ReportData
from spectral_jax.runs import evaluate
from spectral_jax.runs.run import Run

VALUE = 300  # characters shown of a value
STARTS = 4  # of a run
PANELS = {
    "errors": ("How errors are spread", "Test meshes by their error."),
    "regions": ("Where on the body", "Mean error of the vertices that move with these joints."),
    "identities": ("Whose meshes", "Mean error of the meshes of each identity, the 20 worst where there are more."),
    "bands": (
        "At which frequency",
        "Amplitude of the meshes in each octave of modes, and of the error. Where the two meet, nothing is kept.",
    ),
    "latents": (
        "Latent space",
        "Test meshes by identity, behind them the train split; principal components with their share of the variance.",
    ),
    "curves": (
        "By epoch",
        "Loss: mean squared error of coefficients. Validation: on the test split.",
    ),
}


def page(
    run: Run,
    data: Data,
    identities: Sequence[str],
    regions: Sequence[str],
    findings: ReportData,
    log: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    written: Mapping[str, Any],
) -> str:
    """The page of what was found of a run on the test split of its data, whose meshes have these identities.

    `regions` names the regions of the findings, `config` is what config.json holds, `written` what made the page.
    """
    from plotly.offline import get_plotlyjs
    from plotly.utils import PlotlyJSONEncoder

    mesh_mm = findings.mesh_mm
    baselines = (float(mesh_mm[i].mean()) for i in (3, 2, 1))
    summary = evaluate.Summary(*summarise(mesh_mm[0]), len(identities), *baselines)
    figures = _figures(identities, regions, findings, log)
    content = {"figures": {name: figure.to_dict() for name, figure in figures.items()}}
    content |= _meshes(np.asarray(run.basis.faces), findings)
    assets = files("spectral_jax") / "assets"
    template, style, script = ((assets / f"report.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    warning = evaluate.basis_warning(summary)
    return Template(template).substitute(
        style=style,
        script=script,
        plotly=get_plotlyjs(),
        content=json.dumps(content, cls=PlotlyJSONEncoder).replace("<", "\\u003c"),
        title=escape(_short(run.path.resolve().name)),
        lead=_lead(run, data, len(set(identities))),
        error=f"{summary.mean_mm:.3g}" if summary.mean_mm < 10 else f"{summary.mean_mm:.1f}",
        verdict=_verdict(summary, run.config.model.latent_size),
        warning=f'<p class="warning">{escape(warning)}</p>' if warning else "",
        summary=_summary(run, mesh_mm),
        shown=_shown(data, findings),
        limit=f"{_limit_mm(findings):g}",
        figures="".join(_panel(name) for name in ("errors", "regions", "identities", "bands") if name in figures),
        latents=_panel("latents"),
        ends=" to ".join(escape(_label(data, row)) for row in findings.path_rows),
        training=_panel("curves") if log else "<p>There is no log: this network was converted or imported.</p>",
        facts=_facts(run, data, config, written),
    )


def _panel(name: str) -> str:
    """A figure with its heading."""
    heading, caption = PANELS[name]
    return (
        f'<figure class="card"><figcaption><h3>{heading}</h3><p>{caption}</p></figcaption>'
        f'<div class="plot" data-figure="{name}" role="img" aria-label="{heading}"></div></figure>'
    )


def _figures(
    identities: Sequence[str], regions: Sequence[str], findings: ReportData, log: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The plotly figures of the page by name."""
    network_mm, pca_mm = findings.mesh_mm[:2]
    names, owners = np.unique(np.array(identities, object), return_inverse=True)
    counts = np.bincount(owners)
    of_identity = [np.bincount(owners, mm) / counts for mm in (network_mm, pca_mm)]
    limit_mm = _limit_mm(findings)
    figures = {
        "errors": plots.histogram({"network": network_mm, "PCA": pca_mm}),
        "identities": plots.groups(names.tolist(), *of_identity),
        "bands": plots.bands(findings.counts, findings.band_mm),
        "latents": _scatter(identities, findings),
        "shown": plots.scene(*_box(findings.shown, findings.shown_decoded), limit_mm),
        "way": plots.scene(*_box(findings.path_ends, findings.path), limit_mm),
    }
    if regions:
        figures["regions"] = plots.groups(regions, *findings.region_mm[:2])
    if log:
        figures["curves"] = plots.curves(log)
    return figures


def _scatter(identities: Sequence[str], findings: ReportData) -> Any:
    """Latents along their two widest principal directions; there is one where a latent is one number."""
    latents, train = findings.latents, findings.train_latents
    directions, deviations = (np.asarray(x) for x in interpolate.principal_directions(np.concatenate([latents, train])))
    axes = np.zeros((2, latents.shape[1]), np.float32)
    axes[: len(directions)] = directions[:2]
    variance = np.pad(deviations**2, (0, 2))
    shares = 100 * variance[:2] / (variance.sum() or 1)
    points, train_points = ((x - train.mean(axis=0)) @ axes.T for x in (latents, train))
    rows = findings.latent_rows
    return plots.scatter(points, train_points, np.array(identities, object)[rows].tolist(), rows, shares)


def _meshes(faces: np.ndarray, findings: ReportData) -> dict[str, Any]:
    """Faces, once, and all meshes shown, as the page's script reads them."""
    kind = "u2" if faces.max() < 1 << 16 else "u4"
    shown = zip(findings.shown, findings.shown_decoded, _shown_mm(findings), strict=True)
    return {
        "faces": {"kind": kind, "bytes": _base64(faces.T.astype(f"<{kind}"))},
        "shown": [{"original": _packed(x.T), "decoded": _packed(y.T), "errors": _packed(mm)} for x, y, mm in shown],
        "path": [_packed(x.T) for x in findings.path],
        "ends": [_packed(x.T) for x in findings.path_ends],
    }


def _packed(array: Float[np.ndarray, "..."]) -> dict[str, Any]:
    """Numbers as 16-bit multiples of a step: coordinates of a body to 0.03 mm."""
    step = float(np.abs(array).max()) / 32767 or 1.0
    return {"step": step, "bytes": _base64(np.rint(array / step).astype("<i2"))}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _shown_mm(findings: ReportData) -> Float[np.ndarray, "3 vertex"]:
    """Errors of the vertices of the meshes shown, mm."""
    return 1000 * np.linalg.norm(findings.shown_decoded - findings.shown, axis=-1)


def _limit_mm(findings: ReportData) -> float:
    """A round error, mm, that at most one in twenty of the vertices shown goes beyond."""
    most = float(np.quantile(_shown_mm(findings), 0.95)) or 1.0
    step = 10 ** math.floor(math.log10(most)) / 2
    return math.ceil(most / step) * step


def _box(*meshes: Float[np.ndarray, "_ vertex 3"]) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the box, metres, that holds all meshes."""
    vertices = np.concatenate(meshes)
    return vertices.min(axis=(0, 1)), vertices.max(axis=(0, 1))


def _lead(run: Run, data: Data, identities: int) -> str:
    """What was trained and tested, in a sentence."""
    known = data.metadata["identities"]
    new = not known["train"].keys() & known["test"].keys()
    model, meshes = run.config.model, [_plural(len(data.splits[name]), "mesh", "meshes") for name in ("train", "test")]
    return (
        f"{model.modes:,} spectral modes of {run.basis.num_vertices:,} vertices in "
        f"{_plural(model.latent_size, 'number')}, after {_plural(run.epoch, 'epoch')} on {meshes[0]}. Tested on "
        f"{meshes[1]} of {_plural(identities, 'identity', 'identities')}{', none of them trained on' if new else ''}."
    )


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _verdict(summary: evaluate.Summary, latent_size: int) -> str:
    """The network beside PCA, in a sentence."""
    share = 100 * (summary.mean_mm / summary.pca_mm - 1) if summary.pca_mm else 0.0
    than = f"{abs(share):.0f}\u00a0% {'less' if share < 0 else 'more'} than" if abs(share) >= 0.5 else "as much as"
    return f"mean distance of a vertex from where it should be, {than} PCA with {_plural(latent_size, 'number')} leaves"


def _summary(run: Run, mesh_mm: Float[np.ndarray, "method mesh"]) -> str:
    """The rows of the table: statistics over meshes of each method."""
    model = run.config.model
    labels = (
        f"Network, latent {model.latent_size}",
        f"PCA, {_plural(model.latent_size, 'component')}",
        "Mean shape",
        f"Basis alone, {_plural(model.modes, 'mode')}",
    )
    rows = zip(labels, map(summarise, mesh_mm), strict=True)
    return "".join(
        f'<tr><th scope="row">{label}</th>{"".join(f"<td>{mm:.2f}</td>" for mm in statistics)}</tr>'
        for label, statistics in rows
    )


def _shown(data: Data, findings: ReportData) -> str:
    """The three meshes: a place for each and what it is."""
    return "".join(
        f'<figure class="card"><div class="scene" data-shown="{i}" role="img" aria-label="{name} mesh"></div>'
        f"<figcaption><h3>{name} <b>{findings.mesh_mm[0, row]:.1f} mm</b></h3><p>{escape(_label(data, row))}</p>"
        "</figcaption></figure>"
        for i, (name, row) in enumerate(zip(("Best", "Median", "Worst"), findings.shown_rows, strict=True))
    )


def _label(data: Data, row: int) -> str:
    """Which mesh of the test split that is."""
    example = data.splits["test"][row]
    return f"mesh {row}, {_short(example.identity)}, {_short(example.file)}, frame {example.frame}"


def _short(value: Any) -> str:
    """A value as text, on one line and not too long."""
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    shown = "".join(c if c.isprintable() else " " for c in shown)
    return shown if len(shown) <= VALUE else shown[: VALUE - 1] + "…"


def _facts(run: Run, data: Data, config: Mapping[str, Any], written: Mapping[str, Any]) -> str:
    """Tables of where all this comes from: the dataset, config.json section by section, and what made the page."""
    metadata = data.metadata
    dataset = {
        "folder": str(data.path),
        **metadata.get("source", {}),
        "vertices": f"{run.basis.num_vertices:,}",
        "modes": f"{data.basis.num_modes:,} of the {data.basis.operator} operator",
        "connectivity": run.basis.fingerprint,
    }
    for name, records in data.splits.items():
        owners = _plural(len(metadata["identities"][name]), "identity", "identities")
        dataset[f"{name} split"] = f"{_plural(len(records), 'mesh', 'meshes')} of {owners}"
    plain = {name: value for name, value in config.items() if not isinstance(value, dict | list)}
    tables = [("Dataset", dataset), ("Run", {"folder": str(run.path), "epoch": run.epoch, **plain})]
    for name, value in config.items():
        if isinstance(value, dict):
            tables.append((name, value))
        elif isinstance(value, list):  # one record for each start, of which the last ones are shown
            parts = [(f"{name} {number}", part) for number, part in enumerate(value, 1)]
            tables += [(title, part if isinstance(part, dict) else {"": part}) for title, part in parts[-STARTS:]]
    return "".join(_table(title, _rows(record)) for title, record in [*tables, ("This page", written)])


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of a record and of those in it, without empty ones."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _rows(value)
        elif value not in (None, ""):
            yield name, value


def _table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """A table of names and values."""
    cells = (f'<tr><th scope="row">{escape(_short(k))}</th><td>{escape(_short(v))}</td></tr>' for k, v in rows)
    return f'<div class="facts"><h3>{escape(_short(title))}</h3><table>{"".join(cells)}</table></div>'
