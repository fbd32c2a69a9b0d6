"""An interactive picture of a mesh or of a path of meshes, for notebooks and web pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from spectral_jax.geometry.colours import COLOURS, STOPS
from spectral_jax.geometry.mesh import Mesh
from spectral_jax.geometry.sequences import Axis

HEIGHT = 480  # pixels of the figure
FRAME_MS = 80  # how long each mesh of a path is shown
FRONT = {"x": (0.25, -0.6, 1.85), "y": (0.6, 0.25, 1.85), "z": (0.6, -1.85, 0.25)}  # of the camera, by the up axis
GREY = "#bcc5d1"
INK = "#7a828e"  # of labels: legible on white and on black
SIGNED = [[0, "#2166ac"], [0.5, "#e8eaee"], [1, "#b2182b"]]  # colours of values of both signs


def show(
    meshes: Mesh | Sequence[Mesh],
    values: Float[np.ndarray, "*mesh vertex"] | None = None,
    up: Axis = "y",
) -> go.Figure:
    """Draw a mesh, or play a path of meshes of one connectivity, as an interactive plotly figure.

    Drag to turn, scroll to zoom; the pointer shows the number of a vertex and its position in metres. A path has
    buttons that play and pause it, and a slider. `values`, (vertex,) for all meshes or (mesh, vertex), colour the
    vertices and are shown with them. `up` is the axis that points up. A notebook shows the figure that a cell ends
    with; elsewhere call its `show` or `write_html`. Raises ValueError for no meshes, meshes of several connectivities,
    values of another shape, and numbers that are not finite.
    """
    path = [meshes] if isinstance(meshes, Mesh) else list(meshes)
    points, faces = _stacked(path)
    traces = [dict(zip("xyz", mesh.T, strict=True)) for mesh in points]
    look: dict[str, Any] = {"color": GREY}
    hover = "vertex %{pointNumber}<br>%{x:.3f}, %{y:.3f}, %{z:.3f} m"
    if values is not None:
        numbers = _per_mesh(values, points.shape[:2])
        traces = [{**trace, "intensity": row} for trace, row in zip(traces, numbers, strict=True)]
        look, hover = _coloured(numbers), f"{hover}<br>%{{intensity:.3g}}"
    mesh = go.Mesh3d(
        **traces[0],
        **dict(zip("ijk", faces.T, strict=True)),
        **look,
        hovertemplate=f"{hover}<extra></extra>",
        lighting={"ambient": 0.45, "diffuse": 0.75, "specular": 0.08, "roughness": 0.7, "fresnel": 0.1},
        lightposition={axis: 1e4 * (at + (axis == up)) for axis, at in zip("xyz", FRONT[up], strict=True)},
    )
    figure = go.Figure(mesh, layout=_layout(points, up))
    if len(path) > 1:
        figure.frames = [go.Frame(name=str(i), data=[go.Mesh3d(trace)], traces=[0]) for i, trace in enumerate(traces)]
        figure.update_layout(margin_b=70, **_controls(len(path)))
    return figure


def _stacked(path: Sequence[Mesh]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (mesh, vertex, 3) and faces of checked meshes, in the smallest types that show no difference."""
    if not path:
        raise ValueError("there are 0 meshes to show, at least 1 is needed")
    faces, shapes = np.asarray(path[0].faces), [np.shape(mesh.vertices) for mesh in path]
    for i, mesh in enumerate(path):
        if shapes[i] != shapes[0] or shapes[i][1:] != (3,):
            raise ValueError(f"mesh {i} has vertices of shape {shapes[i]}, mesh 0 {shapes[0]}, not (vertex, 3)")
        if mesh.faces is not path[0].faces and not np.array_equal(mesh.faces, faces):
            raise ValueError(f"mesh {i} ({len(mesh.faces)} faces) and mesh 0 ({len(faces)}) differ in connectivity")
    points = np.stack([np.asarray(mesh.vertices, np.float32) for mesh in path])
    if not (finite := np.isfinite(points).all(axis=(1, 2))).all():
        raise ValueError(f"mesh {finite.argmin()} has a coordinate that is not finite")
    return points, faces.astype(np.min_scalar_type(points.shape[1]))


def _per_mesh(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values of each vertex of each mesh."""
    values = np.asarray(values, np.float32)
    if values.shape not in (shape, shape[1:]):
        raise ValueError(f"values have shape {values.shape}, not {shape[1:]} or {shape}, as the meshes have")
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} of {values.size} values are not finite")
    return np.broadcast_to(values, shape)


def _coloured(values: np.ndarray) -> dict[str, Any]:
    """A colour scale: that of errors from 0 if no value is negative, else blue to red around 0."""
    most, signed = float(np.abs(values).max()) or 1.0, bool(values.min() < 0)
    inks = [f"rgb{tuple(ink)}" for ink in (255 * COLOURS).round().astype(int).tolist()]
    return {
        "cmin": -most if signed else 0.0,
        "cmax": most,
        "colorscale": SIGNED if signed else [list(pair) for pair in zip(STOPS, inks, strict=True)],
        "colorbar": {"thickness": 12, "len": 0.6, "tickfont": {"color": INK}, "outlinewidth": 0},
    }


def _layout(points: np.ndarray, up: Axis) -> dict[str, Any]:
    """A scene of the box around all meshes, to scale, seen from the front with `up` upwards."""
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    size = np.maximum(high - low, 1e-3 * (high - low).max() or 1.0)
    middle, hidden = (low + high) / 2, {"visible": False, "showspikes": False}
    ranges = zip("xyz", (middle - size / 2).tolist(), (middle + size / 2).tolist(), strict=True)
    return {
        "height": HEIGHT,
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "scene": {
            **{f"{axis}axis": {**hidden, "range": [a, b]} for axis, a, b in ranges},
            "aspectmode": "manual",
            "aspectratio": dict(zip("xyz", (1.3 * size / size.max()).tolist(), strict=True)),
            "camera": {
                "up": {axis: float(axis == up) for axis in "xyz"},
                "eye": dict(zip("xyz", FRONT[up], strict=True)),
            },
            "dragmode": "orbit",  # a turntable would turn z upwards, whatever the camera says
        },
    }


def _controls(num_meshes: int) -> dict[str, Any]:
    """Buttons that play and pause a path, and a slider, below the scene."""
    now = {"frame": {"duration": 0, "redraw": True}, "mode": "immediate", "transition": {"duration": 0}}
    play = {"frame": {"duration": FRAME_MS, "redraw": True}, "fromcurrent": True, "transition": {"duration": 0}}
    steps = [{"label": str(i), "method": "animate", "args": [[str(i)], now]} for i in range(num_meshes)]
    calls = {"▶": [None, play], "❚❚": [[None], now]}
    buttons = [{"label": label, "method": "animate", "args": args} for label, args in calls.items()]
    below = {"y": 0, "yanchor": "top", "font": {"color": INK}, "bgcolor": "rgba(128,128,128,0.15)", "bordercolor": INK}
    wide = {"x": 0.24, "len": 0.74, "pad": {"t": 14}, "currentvalue": {"visible": False}}
    return {
        "updatemenus": [
            {
                **below,
                "type": "buttons",
                "direction": "left",
                "showactive": False,
                "x": 0,
                "xanchor": "left",
                "pad": {"t": 18},
                "buttons": buttons,
            }
        ],
        "sliders": [{**below, **wide, "steps": steps}],
    }
