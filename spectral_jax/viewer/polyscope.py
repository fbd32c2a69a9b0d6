"""The viewer as a window of Polyscope, or as an image rendered without a display."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np

from spectral_jax import extras
from spectral_jax.geometry import colours
from spectral_jax.viewer import scene
from spectral_jax.viewer.scene import Choice, Gallery, Layout, Method, Show, Through

SUFFIXES = ".png", ".jpg"
WINDOW = (1600, 900)  # pixels
PANE = 420  # pixels of the width of its controls
FOV = 30.0  # degrees
COLOUR_MAP = "errors"
STEP = 0.01  # of a played interpolation, in each frame
GREY = (0.72, 0.74, 0.78)
BLUE = (0.33, 0.55, 0.82)
ORANGE = (0.88, 0.59, 0.31)
COLOURS = {"original": GREY, "start": GREY, "from": GREY, "to": GREY, "straight in space": ORANGE}

Value = TypeVar("Value")


def check_display(screenshot: Path | None) -> None:
    """Raise ValueError unless Polyscope is installed, and a display is there or the name of an image."""
    if screenshot is not None and screenshot.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--screenshot {screenshot}: expected a name that ends in {' or '.join(SUFFIXES)}")
    extras.require("polyscope", "view", "--backend polyscope")
    if screenshot is None and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        raise ValueError("a window needs a display, but DISPLAY is not set: use --screenshot FILE or --backend web")


def view(gallery: Gallery, name: str, choice: Choice, screenshot: Path | None) -> None:
    """Show the window until it is closed, or write an image of what it would show first."""
    import polyscope as ps

    ps.set_verbosity(0)
    ps.set_use_prefs_file(False)
    ps.set_program_name("spectral_jax")
    ps.set_window_size(*WINDOW)
    try:
        ps.init("openGL3_egl" if screenshot else "auto")
    except RuntimeError as error:
        raise ValueError(f"Polyscope cannot draw here: {error}") from error
    ps.set_ground_plane_mode("shadow_only")
    ps.set_ground_plane_height_factor(0.0)
    ps.set_transparency_mode("pretty")
    ps.set_right_gui_pane_width(PANE)
    load_colours()
    window = Window(gallery, name, choice, 0 if screenshot else 2 * PANE)
    window.draw()
    if screenshot is None:
        ps.set_user_callback(window.frame)
        ps.show()
        return
    screenshot.parent.mkdir(parents=True, exist_ok=True)
    ps.screenshot(str(screenshot), transparent_bg=False)
    print(screenshot)


def load_colours() -> None:
    """Have Polyscope know the colours of errors, which it reads from a picture."""
    import imageio.v3 as imageio
    import polyscope as ps

    scale = colours.error_colours(np.linspace(0, 1, 256), 0.0, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "colours.png"
        imageio.imwrite(path, np.tile((255 * scale).round().astype(np.uint8), (4, 1, 1)))
        ps.load_color_map(COLOUR_MAP, str(path))


class Window:
    """The window: its run, its choice and its controls; `panes` is the width of the controls, pixels."""

    def __init__(self, gallery: Gallery, name: str, choice: Choice, panes: int = 0):
        self.gallery, self.name, self.subject = gallery, name, gallery.load(name)
        self.choice, self.random = scene.clamp(choice, self.subject), np.random.default_rng()
        self.panes, self.framed, self.playing, self.wrong = panes, None, False, ""
        self.pairs = functools.lru_cache(lambda split: scene.pairs(self.subject, split))

    def draw(self) -> None:
        """Show the meshes of the choice."""
        import polyscope as ps

        picture = self.picture = scene.compose(self.subject, self.choice)
        places = scene.places(picture, self.subject.box)
        for name in {*COLOURS, *get_args(Method), "walk", "reconstruction"} - {layer.name for layer in picture.layers}:
            if ps.has_surface_mesh(name):
                ps.get_surface_mesh(name).set_enabled(False)
                ps.get_surface_mesh(name).remove_all_quantities()  # and their scale of colours
        for layer, x in zip(picture.layers, places, strict=True):
            vertices = layer.vertices + np.array([x, 0, 0], np.float32)
            if ps.has_surface_mesh(layer.name):
                mesh = ps.get_surface_mesh(layer.name)
                mesh.update_vertex_positions(vertices)
                mesh.set_enabled(True)
            else:
                colour = COLOURS.get(layer.name, BLUE)
                mesh = ps.register_surface_mesh(
                    layer.name, vertices, self.subject.faces, color=colour, smooth_shade=True
                )
            mesh.set_transparency(layer.opacity)
            if layer.errors_mm is not None:
                span = (self.choice.low_mm, self.choice.high_mm)
                mesh.add_scalar_quantity(
                    "error (mm)", layer.errors_mm, enabled=True, cmap=COLOUR_MAP, vminmax=span,
                    onscreen_colorbar_enabled=True,
                )  # fmt: skip
        frame = (self.name, self.choice.show, self.choice.layout)
        if frame != self.framed:
            self.framed = frame
            ps.set_vertical_fov_degrees(FOV)
            aspect = (WINDOW[0] - self.panes) / WINDOW[1]
            ps.look_at(*scene.eye(picture, self.subject.box, float(np.radians(FOV)), aspect))

    def frame(self) -> None:
        """Show the controls and apply what they change; called for every frame."""
        from polyscope import imgui

        im: Any = imgui  # its type stubs are incomplete
        wanted = pick(im, "run", list(dict.fromkeys([*self.gallery.names(), self.name])), self.name)
        try:
            if wanted != self.name:
                self.change_run(wanted)
            choice = self.controls(im)
            if choice != self.choice:
                self.choice, self.wrong = choice, ""
                self.draw()
        except (ValueError, OSError) as error:
            self.wrong = str(error)
        picture = self.picture
        im.Text(f"{picture.measured}: mean {picture.mean_mm:.1f} mm, max {picture.max_mm:.1f} mm")
        for line in (*picture.origin, self.wrong):
            im.Text(line)

    def change_run(self, name: str) -> None:
        """Show another run. Raises ValueError where it cannot be loaded, and this one stays."""
        import polyscope as ps

        self.subject, self.name, self.playing = self.gallery.load(name), name, False
        self.pairs.cache_clear()
        self.choice = scene.clamp(self.choice, self.subject)
        ps.remove_all_structures()
        self.draw()

    def controls(self, im: Any) -> Choice:
        """Show the controls and return the choice that they are set to."""
        choice, subject = self.choice, self.subject
        if im.CollapsingHeader("options of the run"):
            for name, value in scene.options(subject).items():
                im.Text(f"{name}: {value}")
        split = pick(im, "split", list(subject.data.splits), choice.split)
        if split != choice.split:
            return scene.clamp(replace(choice, split=split, index=0, start=0, end=1, latent=()), subject)
        choice = replace(choice, show=pick(im, "show", get_args(Show), choice.show))
        last = len(subject.data.splits[split]) - 1
        choice = (self.interpolation if choice.show == "interpolation" else self.mesh)(im, choice, last)
        layout = pick(im, "layout", get_args(Layout), choice.layout)
        modes = im.SliderInt("modes", choice.modes, 1, subject.run.config.model.modes)[1]
        return scene.clamp(replace(choice, layout=layout, modes=modes), subject)

    def mesh(self, im: Any, choice: Choice, last: int) -> Choice:
        """The controls of a reconstruction or of a walk."""
        subject = self.subject
        index = im.SliderInt("index", choice.index, 0, last)[1]
        identity = subject.mesh(choice.split, choice.index).identity
        wanted = pick(im, "identity", list(scene.identities(subject.data, choice.split)), identity)
        if wanted != identity:
            index = scene.first_mesh(subject.data, choice.split, wanted)
        if im.Button("random mesh"):
            index = int(self.random.integers(last + 1))
        if index != choice.index:
            choice = replace(choice, index=index, latent=())
        if choice.show == "reconstruction":
            through = pick(im, "reconstructed by", get_args(Through), choice.through)
            span = im.DragFloatRange2("colours (mm)", choice.low_mm, choice.high_mm, 0.5, 0.0, 1000.0)[1:]
            return replace(choice, through=through, low_mm=span[0], high_mm=span[1])
        latent = choice.latent or tuple(subject.mesh(choice.split, index).latent.tolist())
        ranges = zip(latent, subject.low.tolist(), subject.high.tolist(), strict=True)
        moved = tuple(im.SliderFloat(f"z{i + 1}", z, *span)[1] for i, (z, *span) in enumerate(ranges))
        return replace(choice, latent=() if im.Button("reset") else moved if moved != latent else choice.latent)

    def interpolation(self, im: Any, choice: Choice, last: int) -> Choice:
        """The controls of an interpolation; while it plays, each frame moves it by STEP."""
        start, end = (im.SliderInt(label, i, 0, last)[1] for label, i in (("from", choice.start), ("to", choice.end)))
        if im.Button("random pair"):
            start, end = self.random.permutation(last + 1)[[0, -1]].tolist()
        for name, pair in self.pairs(choice.split).items():
            if im.Button(name):
                start, end = pair
        method = pick(im, "method", get_args(Method), choice.method)
        amount = im.SliderFloat("a", choice.amount, 0.0, 1.0)[1]
        self.playing = im.Checkbox("play", self.playing)[1]
        amount = (amount + STEP) % 1 if self.playing else amount
        return replace(choice, start=start, end=end, method=method, amount=amount)


def pick(im: Any, label: str, options: Sequence[Value], value: Value) -> Value:
    """A drop-down list; the option that is chosen."""
    return options[im.Combo(label, options.index(value), [str(option) for option in options])[1]]
