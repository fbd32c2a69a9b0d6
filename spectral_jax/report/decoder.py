"""What the page needs to decode latents itself: weights, modes, directions of the latents, and where to start."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from spectral_jax.basis import spectral
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.network import principal
from spectral_jax.report import packing
from spectral_jax.report.measurements import ReportData
from spectral_jax.runs.run import Run

MOST_BYTES = 15_000_000  # of a page: its decoder has as many of the lowest modes as fit
NUM_DIRECTIONS = 8  # principal directions of the latents that have a slider
NUM_STARTS = 200  # test meshes to start from, beside the three shown
LEAST_MODES = 32  # with fewer modes than these, a page shows no more than a blob
LEAST_SPREAD = 1e-6  # of the largest standard deviation: latents and directions with less do not vary


class Decoder(NamedTuple):
    """What the page decodes with.

    Attributes:
      num_modes: the lowest modes of the network that fit into the page.
      error_mm: mean distance by which the modes that are left out move a vertex of a decoded mesh; 0 if none is.
      content: network and modes, as assets/decoder.js reads them.
    """

    num_modes: int
    error_mm: float
    content: dict[str, Any]


def pack(run: Run, found: ReportData, characters: int) -> Decoder | None:
    """The decoder of a run with as many of the lowest modes as the characters allow; None if they are too few.

    All modes of a residual network fit into less where its directions are vertices instead of coefficients.
    """
    config, basis = run.config.model, run.require_basis()
    weights, modes, count, error_mm = {}, None, config.modes, 0.0
    if config.network == "residual":
        weights = _weights(run, count, np.asarray(basis.modes)[:, :count])
    if not weights or _characters(weights) > characters:
        count = _num_modes(run, characters)
        if count < min(LEAST_MODES, config.modes):
            return None
        weights, modes = _weights(run, count), packing.weights(np.asarray(basis.modes)[:, :count])
    if count < config.modes:
        decoded, kept = np.concatenate([found.path.vertices, found.shown.decoded]), spectral.truncate(basis, count)
        left = decoded - np.asarray(spectral.reconstruct(kept, spectral.project(kept, decoded)))
        error_mm = 1000 * float(np.linalg.norm(left, axis=-1).mean())
    content = {
        "network": config.network,
        "activation": config.activation,
        "convSize": config.conv_size,
        "weights": jax.tree.map(packing.weights, weights),
        "modes": modes,
    }
    return Decoder(count, error_mm, content)


def _characters(arrays: Any) -> float:
    """The length of packed arrays as text."""
    return packing.BYTES_AS_TEXT * sum(map(packing.weight_bytes, jax.tree.leaves(arrays)))


def _num_modes(run: Run, characters: int) -> int:
    """How many of the network's lowest modes fit into so many characters; 0 or less if none does."""
    config, num_vertices = run.config.model, run.require_basis().num_vertices

    def size(count: int) -> float:
        return _characters([_weights(run, count), np.broadcast_to(np.float32(0), (num_vertices, count))])

    if size(config.modes) <= characters:
        return config.modes
    first, second = size(1), size(2)  # each further mode takes the same, until there are no more
    return 1 + int((characters - first) // (second - first))


def _weights(run: Run, num_modes: int, modes: Float[np.ndarray, "vertex freq"] | None = None) -> dict[str, Any]:
    """The arrays of the decoder as far as the lowest modes need them.

    With modes, a residual network's lead to vertices. Results are (3, freq), or (3, vertex).
    """
    config, params = run.config.model, jax.tree.map(np.asarray, run.params)
    if config.network == "residual":
        constants = jax.tree.map(np.asarray, run.constants)
        rows = np.concatenate([constants["scales"][:, None, None] * constants["directions"], constants["mean"][None]])
        flat = rows[:, :num_modes].swapaxes(1, 2).reshape(3 * len(rows), num_modes)
        flat = (flat if modes is None else flat @ modes.T).reshape(len(rows), -1)
        correction = params["decoder"]
        return {
            "hidden": [correction["Dense_0"], correction["Dense_1"]],
            "last": correction["Dense_2"],
            "directions": {"kernel": flat[:-1], "bias": flat[-1]},
            **({"signs": constants["signs"]} if config.symmetric else {}),
        }
    layers = [
        {"pooling": params[f"upsampling_{i}"], **params[f"decoder_conv_{i}"]} for i in range(len(config.channels))
    ]
    needed = num_modes + config.conv_size - 1  # two convolutions follow, and each looks at conv_size // 2 modes beyond
    layers[-1]["pooling"] = layers[-1]["pooling"][:, :needed]
    return {"linear": params["decoder_linear"], "layers": layers, "last": params["last_conv"]}


def sliders(run: Run, found: ReportData, identities: Sequence[str]) -> dict[str, Any]:
    """What the sliders move along, and the latents to start from, as assets/latents.js reads them."""
    latents, unused = found.latents, run.require_basis().unused
    fitted = principal.fit(latents.train, latents.train.shape[1])
    total = float(np.square(fitted.deviations).sum())
    varying = fitted.deviations > LEAST_SPREAD * (fitted.deviations.max(initial=0) or 1)
    shown = np.flatnonzero(varying)[:NUM_DIRECTIONS]
    spread = latents.train.std(axis=0)
    some = evenly_spaced(len(latents.rows), NUM_STARTS)
    rows = [*found.shown.rows, *latents.rows[some].tolist()]
    names = [f"mesh {row}, {identities[row]}" for row in rows]
    ranks = zip(("Best", "Median", "Worst"), names[:3], strict=True)
    return {
        "mean": packing.floats(latents.train.mean(axis=0)),
        "spread": packing.floats(np.maximum(spread, LEAST_SPREAD * (spread.max() or 1))),
        "components": packing.floats(fitted.components[shown]),
        "deviations": packing.floats(fitted.deviations[shown]),
        "shares": [float(100 * fitted.deviations[i] ** 2 / total) for i in shown],
        "starts": [*(f"{rank}: {name}" for rank, name in ranks), *names[3:]],
        "startLatents": packing.floats(np.concatenate([found.shown.latents, latents.test[some]])),
        "unused": None
        if unused is None
        else {
            "indices": packing.as_text(np.asarray(unused.indices).astype("<u4")),
            "vertices": packing.floats(np.asarray(unused.vertices)),
        },
    }


def section(decoder: Decoder | None, run: Run) -> str:
    """The HTML of the section in which sliders move a mesh, or of the reason why there is none."""
    limit, num_modes = f"{MOST_BYTES / 1e6:.0f}\u00a0MB", run.config.model.modes
    if decoder is None:
        few = f"{LEAST_MODES} modes of {run.require_basis().num_vertices:,} vertices do not fit into {limit}"
        return f'<p class="lead">Not in this page: {few} beside the rest of the page.</p>'
    modes = "The page has all modes of the network."
    if decoder.num_modes < num_modes:
        modes = (
            f"The page has the lowest {decoder.num_modes:,} of {num_modes:,} modes, which fit into {limit}; without "
            f"the others, vertices are {decoder.error_mm:.2g}\u00a0mm off on average."
        )
    template = (files("spectral_jax") / "assets" / "latents.html").read_text("utf-8")
    return Template(template).substitute(modes=modes)
