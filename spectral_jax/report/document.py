"""The report of a run as one self-contained HTML page; every name in it is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Float

from spectral_jax.data.dataset import Data
from spectral_jax.geometry.metrics import summarise
from spectral_jax.network import principal
from spectral_jax.report import decoder, packing, plots
from spectral_jax.report.measurements import Latents, ReportData, ShownMeshes
from spectral_jax.runs import evaluate
from spectral_jax.runs.run import Run
from spectral_jax.runs.shape_model import ShapeModels

MAX_CHARACTERS = 300  # of a value in a table
SPARED = 250_000  # bytes of a page for its tables and scripts
MAX_STARTS = 4  # entries of a run's history in the tables: the latest
PANELS = {
    "errors": ("Distribution of errors", "Number of test meshes by error."),
    "regions": ("Errors by body region", "Mean error of the vertices that move with the region's joints."),
    "identities": ("Errors by identity", "Mean error of the meshes of each identity; of more than 20, the 20 worst."),
    "bands": (
        "Errors by frequency",
        "Amplitude of the meshes in each octave of modes, and of the error. Where the two meet, nothing is kept.",
    ),
    "latents": (
        "Latent space",
        "Test meshes by identity in front of the train split, along principal components with their share of variance.",
    ),
    "compactness": (
        "Compactness",
        "Share of the variance of the train split that is lost. Less is better.",
    ),
    "generalisation": ("Generalisation", "Error on test meshes of identities that are not in the train split."),
    "specificity": (
        "Specificity",
        "Distance of random meshes, from one Gaussian of the latents or a mixture, to the nearest train mesh.",
    ),
    "curves": ("Training curves", "Loss: mean squared error of coefficients. Validation: on the test split."),
}


@dataclass(frozen=True)
class Report:
    """All that a page tells.

    Attributes:
      identities: of the test meshes.
      regions: names of the body regions in `found`; empty without regions.
      found: measurements on the test split.
      log: the epochs of log.jsonl; empty for a network that was converted or imported.
      config: the content of config.json.
      provenance: when and with what the page was made.
      others: other runs and their errors on the same meshes.
      shape_models: measures of the run, then of the others; or a sentence that says why there are none.
    """

    run: Run
    data: Data
    identities: Sequence[str]
    regions: Sequence[str]
    found: ReportData
    log: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    others: Sequence[tuple[Run, evaluate.Summary]] = ()
    shape_models: Sequence[ShapeModels] | str = ()


def page(report: Report) -> str:
    """The report as HTML."""
    from plotly.offline import get_plotlyjs
    from plotly.utils import PlotlyJSONEncoder

    run, data, found = report.run, report.data, report.found
    summary = _summarise(found)
    figures = _figures(report)
    content = {"figures": {name: figure.to_dict() for name, figure in figures.items()}}
    content |= _meshes(np.asarray(run.require_basis().faces), found)
    content["move"] = decoder.sliders(run, found, [_short(name) for name in report.identities])
    content["move"]["source"] = _asset("decoder.js")
    plotly = get_plotlyjs()
    others = len(plotly) + len(json.dumps(content, cls=PlotlyJSONEncoder)) + SPARED
    live = decoder.pack(run, found, decoder.MOST_BYTES - others)
    content |= {"decoder": live and live.content}
    warning = evaluate.basis_warning(summary)
    no_log = "<p>No training log: this network was converted or imported.</p>"
    return Template(_asset("report.html")).substitute(
        style=_asset("report.css"),
        script="".join(_asset(f"{name}.js") for name in ("surface", "latents", "report")),
        plotly=plotly,
        content=json.dumps(content, cls=PlotlyJSONEncoder).replace("<", "\\u003c"),
        move=decoder.section(live, run),
        title=escape(_short(run.path.resolve().name)),
        lead=_lead(run, data, len(set(report.identities))),
        error=f"{summary.mean_mm:.3g}" if summary.mean_mm < 10 else f"{summary.mean_mm:.1f}",
        verdict=_verdict(summary, run.config.model.latent_size),
        warning=f'<p class="warning">{escape(warning)}</p>' if warning else "",
        summary=_summary_rows(report),
        notes=_notes(report),
        shown=_shown(data, found),
        limit=f"{_limit_mm(found.shown):g}",
        figures="".join(_panel(name) for name in ("errors", "regions", "identities", "bands") if name in figures),
        shape_models=_shape_models(figures, report.shape_models),
        latents=_panel("latents"),
        ends=" to ".join(escape(_label(data, row)) for row in found.path.rows),
        training=_panel("curves") if report.log else no_log,
        facts=_facts(report),
    )


def _asset(name: str) -> str:
    return (files("spectral_jax") / "assets" / name).read_text("utf-8")


def _summarise(found: ReportData) -> evaluate.Summary:
    """What `evaluate` would say."""
    errors = found.errors
    return evaluate.Summary(
        **summarise(errors.network.mesh_mm)._asdict(),
        count=len(errors.network.mesh_mm),
        truncation_mm=float(errors.basis_alone.mesh_mm.mean()),
        mean_shape_mm=float(errors.mean_shape.mesh_mm.mean()),
        pca_mm=float(errors.pca.mesh_mm.mean()),
    )


def _panel(name: str) -> str:
    """A figure with its heading."""
    heading, caption = PANELS[name]
    return (
        f'<figure class="card"><figcaption><h3>{heading}</h3><p>{caption}</p></figcaption>'
        f'<div class="plot" data-figure="{name}" role="img" aria-label="{heading}"></div></figure>'
    )


def _figures(report: Report) -> dict[str, Any]:
    """The plotly figures of the page by name."""
    found, network, pca = report.found, report.found.errors.network, report.found.errors.pca
    names, owners = np.unique(np.array(report.identities, object), return_inverse=True)
    counts = np.bincount(owners)
    network_mm, pca_mm = (np.bincount(owners, errors.mesh_mm) / counts for errors in (network, pca))
    limit_mm = _limit_mm(found.shown)
    figures = {
        "errors": plots.histogram({"network": network.mesh_mm, "PCA": pca.mesh_mm}),
        "identities": plots.groups(names.tolist(), network_mm, pca_mm),
        "bands": plots.bands(found.bands),
        "latents": _scatter(report.identities, found.latents),
        "shown": plots.scene(*_box(found.shown.original, found.shown.decoded), limit_mm),
        "way": plots.scene(*_box(found.path.ends, found.path.vertices), limit_mm),
    }
    if report.regions:
        figures["regions"] = plots.groups(report.regions, network.region_mm, pca.region_mm)
    if report.log:
        figures["curves"] = plots.curves(report.log)
    if report.shape_models and not isinstance(report.shape_models, str):
        figures |= plots.shape_models(_names(report), report.shape_models)
    return figures


def _names(report: Report) -> list[str]:
    """What the page calls the networks: the run's first."""
    if not report.others:
        return [f"Network, latent {report.run.config.model.latent_size}"]
    return evaluate.titles([report.run, *(run for run, _ in report.others)])


def _shape_models(figures: Mapping[str, Any], measured: Sequence[ShapeModels] | str) -> str:
    """The section on measures of shape models; empty when nothing was measured."""
    panels = "".join(_panel(name) for name in ("compactness", "generalisation", "specificity") if name in figures)
    reason = f"<p>Not measured: {escape(measured)}.</p>" if isinstance(measured, str) else ""
    heading = '<section id="model">\n<h2>As a shape model</h2>\n'
    return f'{heading}{reason}<div class="two">{panels}</div>\n</section>' if measured else ""


def _scatter(identities: Sequence[str], latents: Latents) -> Any:
    """Latents along their two leading principal components, or along one where a latent is one number."""
    together = np.concatenate([latents.test, latents.train])
    fitted = principal.fit(together, together.shape[1])
    axes = np.zeros((2, together.shape[1]), np.float32)
    axes[: len(fitted.components)] = fitted.components[:2]
    variance = np.pad(fitted.deviations**2, (0, 2))
    shares = 100 * variance[:2] / (variance.sum() or 1)
    points, train_points = ((x - latents.train.mean(axis=0)) @ axes.T for x in (latents.test, latents.train))
    owners = np.array(identities, object)[latents.rows].tolist()
    return plots.scatter(points, train_points, owners, latents.rows, shares)


def _meshes(faces: np.ndarray, found: ReportData) -> dict[str, Any]:
    """Faces, once, and all meshes shown, as the page's script reads them."""
    packed = packing.coordinates
    shown = zip(found.shown.original, found.shown.decoded, _shown_mm(found.shown), strict=True)
    return {
        "faces": packing.faces(faces),
        "shown": [{"original": packed(x.T), "decoded": packed(y.T), "errors": packed(mm)} for x, y, mm in shown],
        "path": [packed(x.T) for x in found.path.vertices],
        "ends": [packed(x.T) for x in found.path.ends],
    }


def _shown_mm(shown: ShownMeshes) -> Float[np.ndarray, "3 vertex"]:
    """Errors of the vertices of the meshes shown, mm."""
    return 1000 * np.linalg.norm(shown.decoded - shown.original, axis=-1)


def _limit_mm(shown: ShownMeshes) -> float:
    """A round error, mm, that at most one in twenty of the vertices shown exceeds: the end of the colour scale."""
    most = float(np.quantile(_shown_mm(shown), 0.95)) or 1.0
    step = 10 ** math.floor(math.log10(most)) / 2
    return math.ceil(most / step) * step


def _box(*meshes: Float[np.ndarray, "_ vertex 3"]) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the box, metres, that holds all meshes."""
    vertices = np.concatenate(meshes)
    return vertices.min(axis=(0, 1)), vertices.max(axis=(0, 1))


def _lead(run: Run, data: Data, identities: int) -> str:
    """What was trained and tested, in two sentences."""
    known = data.metadata["identities"]
    new = not known["train"].keys() & known["test"].keys()
    unseen = " that the network was not trained on" if new else ""
    model, meshes = run.config.model, [_plural(len(data.splits[name]), "mesh", "meshes") for name in ("train", "test")]
    return (
        f"{model.modes:,} spectral modes of {run.require_basis().num_vertices:,} vertices, encoded as "
        f"{_plural(model.latent_size, 'number')}, after {_plural(run.epoch, 'epoch')} on {meshes[0]}. Tested on "
        f"{meshes[1]} of {_plural(identities, 'identity', 'identities')}{unseen}."
    )


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _verdict(summary: evaluate.Summary, latent_size: int) -> str:
    """The network compared with PCA, in a sentence that follows its error."""
    share = 100 * (summary.mean_mm / summary.pca_mm - 1) if summary.pca_mm else 0.0
    than = f"{abs(share):.0f}\u00a0% {'less' if share < 0 else 'more'} than" if abs(share) >= 0.5 else "as much as"
    return f"mean distance of a vertex from its original, {than} PCA with {_plural(latent_size, 'component')}"


def _summary_rows(report: Report) -> str:
    """The rows of the table: statistics over meshes of each method."""
    model, errors = report.run.config.model, report.found.errors
    first, *rest = _names(report)
    others = zip(rest, (summary for _, summary in report.others), strict=True)
    methods = [
        (first, summarise(errors.network.mesh_mm)),
        *((name, (s.mean_mm, s.median_mm, s.std_mm, s.min_mm, s.max_mm)) for name, s in others),
        (f"PCA, {_plural(model.latent_size, 'component')}", summarise(errors.pca.mesh_mm)),
        ("Mean shape", summarise(errors.mean_shape.mesh_mm)),
        (f"Basis alone, {_plural(model.modes, 'mode')}", summarise(errors.basis_alone.mesh_mm)),
    ]
    return "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(f"<td>{mm:.2f}</td>" for mm in statistics)}</tr>'
        for label, statistics in methods
    )


def _notes(report: Report) -> str:
    """On which meshes checkpoints were chosen."""
    notes = (evaluate.selection_note(run) for run in (report.run, *(run for run, _ in report.others)))
    return "".join(f'<p class="note">{escape(note)}.</p>' for note in notes if note)


def _shown(data: Data, found: ReportData) -> str:
    """The three meshes: a place for each, its error and its origin."""
    return "".join(
        f'<figure class="card"><div class="scene" data-shown="{i}" role="img" aria-label="{name} mesh"></div>'
        f"<figcaption><h3>{name} <b>{found.errors.network.mesh_mm[row]:.1f} mm</b></h3>"
        f"<p>{escape(_label(data, row))}</p></figcaption></figure>"
        for i, (name, row) in enumerate(zip(("Best", "Median", "Worst"), found.shown.rows, strict=True))
    )


def _label(data: Data, row: int) -> str:
    """The origin of a mesh of the test split."""
    example = data.splits["test"][row]
    return f"mesh {row}, {_short(example.identity)}, {_short(example.file)}, frame {example.frame}"


def _short(value: Any) -> str:
    """A value as text on one line, shortened to MAX_CHARACTERS."""
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    shown = "".join(c if c.isprintable() else " " for c in shown)
    return shown if len(shown) <= MAX_CHARACTERS else shown[: MAX_CHARACTERS - 1] + "…"


def _facts(report: Report) -> str:
    """Tables of where the page comes from: the dataset, config.json section by section, and the page itself."""
    run, data, metadata = report.run, report.data, report.data.metadata
    dataset = {
        "folder": str(data.path),
        **metadata.get("source", {}),
        "vertices": f"{run.require_basis().num_vertices:,}",
        "modes": f"{data.basis.num_modes:,} of the {data.basis.operator} operator",
        "connectivity": run.require_basis().fingerprint,
    }
    for name, records in data.splits.items():
        owners = _plural(len(metadata["identities"][name]), "identity", "identities")
        dataset[f"{name} split"] = f"{_plural(len(records), 'mesh', 'meshes')} of {owners}"
    plain = {name: value for name, value in report.config.items() if not isinstance(value, dict | list)}
    tables = [("Dataset", dataset), ("Run", {"folder": str(run.path), "epoch": run.epoch, **plain})]
    for name, value in report.config.items():
        if isinstance(value, dict):
            tables.append((name, value))
        elif isinstance(value, list):  # the history: one record for each start
            parts = [(f"{name} {number}", part) for number, part in enumerate(value, 1)]
            tables += [(title, part if isinstance(part, dict) else {"": part}) for title, part in parts[-MAX_STARTS:]]
    tables.append(("This page", report.provenance))
    return "".join(_table(title, _rows(record)) for title, record in tables)


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of a record and of the records in it, empty values left out."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _rows(value)
        elif value not in (None, ""):
            yield name, value


def _table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """A table of names and values."""
    cells = (f'<tr><th scope="row">{escape(_short(k))}</th><td>{escape(_short(v))}</td></tr>' for k, v in rows)
    return f'<div class="facts"><h3>{escape(_short(title))}</h3><table>{"".join(cells)}</table></div>'
