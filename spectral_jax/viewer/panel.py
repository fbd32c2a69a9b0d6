"""The controls of the web viewer: a record of them, made for a run and read as a choice; and their HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from spectral_jax.geometry import colours
from spectral_jax.viewer import scene
from spectral_jax.viewer.scene import Choice, Layout, Method, Picture, Show, Subject, Through

if TYPE_CHECKING:
    from viser import GuiApi

MAX_SLIDERS = 64  # numbers of a latent that have a slider at once
FILES = ".ply", ".obj", "picture"  # what can be saved


class Controls(NamedTuple):
    """The controls of one browser: handles of viser, named as the fields of `Choice` or by what they do.

    Attributes:
      page: which numbers of the latent have sliders: "z1 to z64".
      latent: sliders for these numbers of the latent of a walk.
      measured: shows what was measured.
      shown_for: controls that are only visible for some values of `show`, with those values.
    """

    run: Any
    split: Any
    show: Any
    identity: Any
    index: Any
    random_mesh: Any
    through: Any
    start: Any
    end: Any
    random_pair: Any
    method: Any
    amount: Any
    play: Any
    reset: Any
    page: Any
    latent: list[Any]
    measured: Any
    layout: Any
    modes: Any
    low_mm: Any
    high_mm: Any
    save: Any
    shown_for: list[tuple[Any, tuple[Show, ...]]]


def build(gui: GuiApi, subject: Subject, names: list[str], name: str, choice: Choice) -> Controls:
    """Make the controls of the run called `name`, set to a choice that the run allows."""
    last = len(subject.data.splits[choice.split]) - 1
    identities = list(scene.identities(subject.data, choice.split)) or [""]
    size = len(subject.low)
    pages = [f"z{first + 1} to z{min(first + MAX_SLIDERS, size)}" for first in range(0, size, MAX_SLIDERS)]
    run = gui.add_dropdown("Run", names, initial_value=name)
    gui.add_html(as_fold("Options of the run", as_table(scene.options(subject))))
    split = gui.add_dropdown("Split", list(subject.data.splits), initial_value=choice.split)
    show = gui.add_dropdown("Show", get_args(Show), initial_value=choice.show)
    with gui.add_folder("Mesh") as mesh:
        of_mesh = {
            "identity": gui.add_dropdown("Identity", identities, initial_value=identities[0]),
            "index": gui.add_slider("Index", 0, last, 1, choice.index),
            "random_mesh": gui.add_button("Random mesh"),
            "through": gui.add_dropdown("Reconstructed by", get_args(Through), initial_value=choice.through),
        }
    with gui.add_folder("Interpolation") as interpolation:
        of_interpolation = {
            "start": gui.add_slider("From", 0, last, 1, choice.start),
            "end": gui.add_slider("To", 0, last, 1, choice.end),
            "random_pair": gui.add_button("Random pair"),
            "method": gui.add_dropdown(
                "Method", get_args(Method), initial_value=choice.method, hint="Interpolation in latent space"
            ),
            "amount": gui.add_slider("a", 0.0, 1.0, 0.01, choice.amount),
            "play": gui.add_checkbox("Play", False),
        }
    with gui.add_folder("Latent") as walk:
        of_walk = {
            "reset": gui.add_button("Reset"),
            "page": gui.add_dropdown("Numbers", pages, initial_value=pages[0], visible=len(pages) > 1),
            "latent": [gui.add_slider(f"z{i + 1}", *_range(subject, i)) for i in range(min(MAX_SLIDERS, size))],
        }
    measured = gui.add_html("")
    with gui.add_folder("View"):
        of_view = {
            "layout": gui.add_dropdown("Layout", get_args(Layout), initial_value=choice.layout),
            "modes": gui.add_slider("Modes", 1, subject.run.config.model.modes, 1, choice.modes),
            "low_mm": gui.add_number("Colours from", choice.low_mm, min=0.0, step=1.0, hint="mm"),
            "high_mm": gui.add_number("Colours to", choice.high_mm, min=0.1, step=1.0, hint="mm"),
        }
    of_reconstruction = (of_mesh["through"], of_view["low_mm"], of_view["high_mm"])
    return Controls(
        run=run,
        split=split,
        show=show,
        **of_mesh,
        **of_interpolation,
        **of_walk,
        measured=measured,
        **of_view,
        save=gui.add_button_group("Save", FILES),
        shown_for=[
            (mesh, ("reconstruction", "latent walk")),
            (interpolation, ("interpolation",)),
            (walk, ("latent walk",)),
            *((handle, ("reconstruction",)) for handle in of_reconstruction),
        ],
    )


def _range(subject: Subject, number: int) -> tuple[float, float, float, float]:
    """Ends, step and start of the slider of a number of the latent: steps of a power of ten, at least a hundred."""
    low, high = float(subject.low[number]), float(subject.high[number])
    step = 10.0 ** math.floor(math.log10((high - low) / 100))
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return low, high, step, low


def _first(controls: Controls) -> int:
    """Which number of the latent the first slider moves."""
    return MAX_SLIDERS * controls.page.options.index(controls.page.value)


def turn_page(controls: Controls, subject: Subject, latent: Float[np.ndarray, "latent"]) -> np.ndarray:
    """Make the sliders those of the page's numbers; return what `set_latent` does."""
    for number, slider in enumerate(controls.latent, _first(controls)):
        slider.visible = number < len(latent)
        if slider.visible:
            slider.label = f"z{number + 1}"
            slider.min, slider.max, slider.step, _ = _range(subject, number)
    return set_latent(controls, latent)


def set_latent(controls: Controls, latent: Float[np.ndarray, "latent"]) -> Float[np.ndarray, "latent"]:
    """Move each slider to the step nearest to the latent; return what the steps leave of the latent."""
    rest = latent.copy()
    for i, slider in enumerate(controls.latent[: len(latent) - _first(controls)], _first(controls)):
        value = round(float(latent[i]) / slider.step) * slider.step
        slider.min, slider.max = min(slider.min, value), max(slider.max, value)
        slider.value = value
        rest[i] -= value
    return rest


def read(controls: Controls, rest: Float[np.ndarray, "latent"]) -> Choice:
    """The choice that the controls are set to; `rest` (see `set_latent`) is added to the sliders of the latent."""
    c, latent, first = controls, rest.copy(), _first(controls)
    sliders = c.latent[: len(latent) - first]
    latent[first : first + len(sliders)] += [slider.value for slider in sliders]
    return Choice(
        show=c.show.value,
        split=c.split.value,
        index=c.index.value,
        through=c.through.value,
        layout=c.layout.value,
        modes=c.modes.value,
        low_mm=c.low_mm.value,
        high_mm=c.high_mm.value,
        start=c.start.value,
        end=c.end.value,
        amount=c.amount.value,
        method=c.method.value,
        latent=tuple(latent.tolist()),
    )


def show_picture(controls: Controls, choice: Choice, picture: Picture) -> None:
    """Show what was measured, the origin of the meshes, the colour scale, and the controls that apply."""
    for handle, shows in controls.shown_for:
        handle.visible = choice.show in shows
    rows = {picture.measured: f"mean {picture.mean_mm:.1f} mm, max {picture.max_mm:.1f} mm"}
    rows |= dict(zip(("mesh",) if len(picture.origin) == 1 else ("from", "to"), picture.origin, strict=True))
    bar = as_colour_bar(choice.low_mm, choice.high_mm) if picture.layers[0].errors_mm is not None else ""
    controls.measured.content = bar + as_table(rows)


def as_table(rows: Mapping[str, str]) -> str:
    """HTML of a table of names and values; both are escaped."""
    cells = "".join(
        f"<tr><td style='opacity:.7;padding-right:1em;vertical-align:top'>{html.escape(name)}</td>"
        f"<td style='overflow-wrap:anywhere'>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table style='font-size:.8em;margin:0 .75em .5em'>{cells}</table>"


def as_fold(title: str, content: str) -> str:
    """HTML of a section that opens when its title is clicked."""
    style = "margin:.25em .9em .75em;font-size:.875em;cursor:pointer"
    return f"<details style='{style}'><summary style='margin-bottom:.5em'>{title}</summary>{content}</details>"


def as_colour_bar(low_mm: float, high_mm: float) -> str:
    """HTML of the colour scale of errors, with five values in mm."""
    shades = zip((255 * colours.COLOURS).round().astype(int).tolist(), colours.STOPS, strict=True)
    stops = ",".join(f"rgb({r},{g},{b}) {100 * stop:g}%" for (r, g, b), stop in shades)
    ticks = "".join(f"<span>{value:g}</span>" for value in np.linspace(low_mm, high_mm, 5).round(1))
    return (
        f"<div style='margin:.25em .75em .5em;font-size:.8em'>"
        f"<div style='height:.9em;border-radius:2px;background:linear-gradient(to right,{stops})'></div>"
        f"<div style='display:flex;justify-content:space-between'>{ticks}</div>"
        f"<div style='text-align:center;opacity:.7'>error, mm</div></div>"
    )
