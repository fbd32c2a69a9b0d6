"""The web viewer: the state of one browser, what its controls do, and the server of all browsers."""

from __future__ import annotations

import functools
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_jax import extras
from spectral_jax.basis import spectral
from spectral_jax.geometry import colours, gltf
from spectral_jax.geometry.mesh import Mesh, write_mesh
from spectral_jax.viewer import origins, panel, scene
from spectral_jax.viewer.scene import Choice, Gallery, Layer, Subject

if TYPE_CHECKING:
    from viser import ViserServer

SETTLING = 0.05  # seconds in which a browser reads a coloured mesh
PERIOD = 6.0  # seconds of a played interpolation, there and back
PLAYED = 0.04  # seconds between its frames
AMBIENT = 1.1
FOV = 0.5  # radians; with a wider one, the meshes of a row are seen from different sides
GREY = (184, 189, 199)
DARK = (110, 116, 130)
BLUE = (84, 140, 210)
ORANGE = (224, 150, 80)
COLOURS = {"original": GREY, "start": GREY, "from": DARK, "to": DARK, "straight in space": ORANGE}


class Browser:
    """One browser: its run, its controls and the meshes of its scene.

    Callbacks arrive in any thread of the server; a lock makes them take turns.
    """

    def __init__(self, client: Any, gallery: Gallery, name: str, choice: Choice):
        self.client, self.gallery, self.name, self.choice = client, gallery, name, choice
        self.lock = threading.RLock()
        self.paused = False  # whether controls are being changed by the program, not by the user
        self.gone = False
        self.finding = False  # whether a thread is looking for a geodesic
        self.drawn_at = 0  # when the last drawing began, monotonic nanoseconds
        self.random = np.random.default_rng()
        self.subject = gallery.load(name)

    def open(self) -> None:
        """Make the controls and the scene, and show the run."""
        self._after(self._rebuild)(None)

    def _after(self, change: Callable[[], object] | None = None) -> Callable[[object], None]:
        """A callback that makes a change, if any, and redraws; an error is shown in the browser.

        A callback without a change is skipped when a drawing has begun since: it has seen the control's value.
        """

        def callback(_: object) -> None:
            asked = time.monotonic_ns()
            with self.lock:
                if self.gone or self.paused or (change is None and asked < self.drawn_at):
                    return
                try:
                    if change is not None:
                        self.paused = True
                        change()
                    self._redraw()
                except (ValueError, OSError) as error:
                    self.client.add_notification("This cannot be shown", str(error), color="red")
                except RuntimeError as error:  # viser removes the controls of a browser that leaves, then says so
                    if "removed" not in str(error):
                        raise
                finally:
                    self.paused = False

        return callback

    @contextmanager
    def _waiting(self, for_what: str) -> Iterator[None]:
        """Show in the browser what it waits for."""
        notification = self.client.add_notification(for_what, "", loading=True, with_close_button=False)
        try:
            yield
        finally:
            notification.remove()

    def _rebuild(self) -> None:
        """Make controls and scene from scratch."""
        self.client.gui.reset()
        self.client.scene.reset()
        self.meshes: dict[str, Any] = {}
        self.labels: dict[float, Any] = {}
        self.turn = 0  # which of the two names of a coloured mesh was used last
        self.framed: tuple[str, str] | None = None  # what the camera was last placed for
        self.found: tuple[str, int, int] | None = None  # the split and ends of the geodesic that was found last
        self.choice = scene.clamp(self.choice, self.subject)
        names = list(dict.fromkeys([*self.gallery.names(), self.name]))
        c = self.controls = panel.build(self.client.gui, self.subject, names, self.name, self.choice)
        self.rest = np.zeros_like(self.subject.low)
        drawn = c.show, c.through, c.start, c.end, c.method, c.amount, c.layout, c.modes, c.low_mm, c.high_mm
        for handle in (*drawn, *c.latent):
            handle.on_update(self._after())
        c.run.on_update(self._after(self._change_run))
        c.split.on_update(self._after(self._change_split))
        c.identity.on_update(self._after(self._change_identity))
        c.index.on_update(self._after(self._start_walk))
        c.random_mesh.on_click(self._after(self._any_mesh))
        c.random_pair.on_click(self._after(self._any_pair))
        c.reset.on_click(self._after(self._start_walk))
        c.page.on_update(self._after(self._turn_page))
        for label, key, steps in (("Next mesh", "pagedown", 1), ("Previous mesh", "pageup", -1)):
            command = self.client.gui.add_command(label, hotkey=key)
            command.on_trigger(self._after(functools.partial(self._step, steps)))
        self.client.gui.add_command("Play", hotkey="space").on_trigger(self._after(self._switch_play))
        c.play.on_update(lambda _: threading.Thread(target=self._play, args=[c], daemon=True).start())
        c.save.on_click(lambda _: self._save(c.save.value))
        self._start_walk()

    def _change_run(self) -> None:
        """Show another run. Raises ValueError where it cannot be loaded, and this one stays."""
        wanted, self.controls.run.value = self.controls.run.value, self.name
        if wanted == self.name:
            return
        if wanted not in self.gallery.names():
            raise ValueError(f"no run {wanted!r} (available: {', '.join(self.gallery.names())})")
        with self._waiting(f"loading {wanted}"):
            subject = self.gallery.load(wanted)
            scene.compose(subject, scene.clamp(self.choice, subject))  # compiles what is drawn next
        self.subject, self.name = subject, wanted
        self._rebuild()

    def _change_split(self) -> None:
        """Show the first meshes of another split."""
        if self.controls.split.value != self.choice.split:
            self.choice = replace(self.choice, split=self.controls.split.value, index=0, start=0, end=1)
            self._rebuild()

    def _change_identity(self) -> None:
        """Show the first mesh of the identity."""
        c = self.controls
        if self.subject.mesh(c.split.value, c.index.value).identity != c.identity.value:
            c.index.value = scene.first_mesh(self.subject.data, c.split.value, c.identity.value)
            self._start_walk()

    def _any_mesh(self) -> None:
        self.controls.index.value = int(self.random.integers(self.controls.index.max + 1))
        self._start_walk()

    def _step(self, steps: int) -> None:
        """Go to a mesh further on: of the interpolation, the last one."""
        c = self.controls
        slider = c.end if c.show.value == "interpolation" else c.index
        slider.value = min(max(slider.value + steps, 0), slider.max)
        if slider is c.index:
            self._start_walk()

    def _switch_play(self) -> None:
        """Show the interpolation and play it, or stop it."""
        c = self.controls
        c.show.value, c.play.value = "interpolation", not c.play.value

    def _turn_page(self) -> None:
        """Show other numbers of the latent."""
        self.rest = panel.turn_page(self.controls, self.subject, np.array(self.choice.latent, np.float32))

    def _any_pair(self) -> None:
        pair = self.random.permutation(self.controls.index.max + 1)[[0, -1]]
        self.controls.start.value, self.controls.end.value = pair.tolist()

    def _start_walk(self) -> None:
        """Set the identity and the sliders of the latent to those of the chosen mesh."""
        c = self.controls
        sample = self.subject.mesh(c.split.value, c.index.value)
        c.identity.value = sample.identity
        self.rest = panel.set_latent(c, sample.latent)

    def _play(self, controls: panel.Controls) -> None:
        """Move the interpolation back and forth until its box is cleared."""
        phase, last = controls.amount.value / 2, time.monotonic()
        while True:
            with self.lock:
                if self.gone or controls is not self.controls or not controls.play.value:
                    return
                now = time.monotonic()
                phase, last = (phase + (now - last) / PERIOD) % 1, now
                controls.amount.value = round(1 - abs(2 * phase - 1), 3)
            time.sleep(PLAYED)

    def _redraw(self) -> None:
        """Show what the controls are set to."""
        self.drawn_at = time.monotonic_ns()
        self.choice = scene.clamp(panel.read(self.controls, self.rest), self.subject)
        drawable = self._drawable(self.choice)
        self.picture = scene.compose(self.subject, drawable)
        panel.show_picture(self.controls, drawable, self.picture)
        replaced = self._show_layers()
        self._label_places()
        self._place_camera(drawable)
        if replaced:
            self.client.flush()
            time.sleep(SETTLING)
        for name in replaced:
            self.meshes[name].visible = False

    def _drawable(self, choice: Choice) -> Choice:
        """The choice, or the straight path in latent space while a thread finds the geodesic that is chosen."""
        pair = (choice.split, choice.start, choice.end)
        if (choice.show, choice.method) != ("interpolation", "geodesic") or pair == self.found:
            return choice
        if not self.finding:
            self.finding = True
            threading.Thread(target=self._find_geodesic, args=[self.subject, pair], daemon=True).start()
        return replace(choice, method="latent")

    def _find_geodesic(self, subject: Subject, pair: tuple[str, int, int]) -> None:
        """Find a geodesic, then redraw."""
        with self._waiting("finding the geodesic"):
            subject.geodesic(*pair)
        with self.lock:
            self.finding, self.found = False, pair if subject is self.subject else None
            self._after()(None)

    def _show_layers(self) -> set[str]:
        """Show the layers of the picture; the names of coloured meshes to hide once the browser has read the new ones.

        A browser hides a coloured mesh while it reads it, so each has two names that take turns.
        """
        shown, replaced = set(), set()
        for layer, x in zip(self.picture.layers, scene.places(self.picture, self.subject.box), strict=True):
            name = layer.name
            if layer.errors_mm is not None:
                self.turn = 1 - self.turn
                name, before = f"{layer.name} {self.turn}", f"{layer.name} {1 - self.turn}"
                replaced |= {before} if before in self.meshes and self.meshes[before].visible else set()
            self._put(name, layer, x)
            shown.add(name)
        for name in self.meshes.keys() - shown - replaced:
            self.meshes[name].visible = False
        return replaced

    def _place_camera(self, choice: Choice) -> None:
        """Place the camera to see all meshes when what is shown, or its layout, has changed."""
        if (choice.show, choice.layout) == self.framed:
            return
        self.framed, camera = (choice.show, choice.layout), self.client.camera
        camera.fov = FOV
        camera.position, camera.look_at = scene.eye(self.picture, self.subject.box, FOV, camera.aspect)

    def _put(self, name: str, layer: Layer, x: float) -> None:
        """Add a mesh to the scene, or update the one of that name."""
        handle, faces = self.meshes.get(name), self.subject.faces
        if layer.errors_mm is None:
            if handle is None:
                colour = COLOURS.get(layer.name, BLUE)
                handle = self.client.scene.add_mesh_simple(f"/{name}", layer.vertices, faces, color=colour)
            handle.vertices, handle.opacity = layer.vertices, None if layer.opacity == 1 else layer.opacity
        else:
            rgb = colours.error_colours(layer.errors_mm, self.choice.low_mm, self.choice.high_mm)
            data = gltf.coloured_mesh(layer.vertices, faces, rgb)
            handle = self.client.scene.add_glb(f"/{name}", data) if handle is None else handle
            handle.glb_data = data
        handle.position, handle.visible = (x, 0.0, 0.0), True
        self.meshes[name] = handle

    def _label_places(self) -> None:
        """Label each place of the row with the names of its meshes."""
        box, named = self.subject.box, {}
        for layer, x in zip(self.picture.layers, scene.places(self.picture, box), strict=True):
            named[x] = f"{named[x]}, {layer.name}" if x in named else layer.name
        for x in self.labels.keys() - named.keys():
            self.labels.pop(x).remove()
        for x, text in named.items():
            if x not in self.labels:
                position = (x, float(box[0, 1] - 0.05 * (box[1, 1] - box[0, 1])), 0.0)
                self.labels[x] = self.client.scene.add_label(f"/at {x}", text, position=position, anchor="top-center")
            self.labels[x].text = text

    def _save(self, kind: str) -> None:
        """Send the browser the first mesh of the picture as a file, or its view as an image."""
        layer, camera = self.picture.layers[0], self.client.camera
        if kind == "picture":
            import imageio.v3 as imageio

            image = self.client.get_render(camera.image_height, camera.image_width, transport_format="png", timeout=20)
            name, content = f"{layer.name}.png", imageio.imwrite("<bytes>", image, extension=".png")
        else:
            with tempfile.TemporaryDirectory() as folder:
                name = f"{layer.name}{kind}"
                whole = spectral.with_unused(self.subject.run.require_basis(), layer.vertices)
                write_mesh(Path(folder) / name, Mesh(*whole))
                content = (Path(folder) / name).read_bytes()
        self.client.send_file_download(name, content, save_immediately=True)


class Viewer(NamedTuple):
    """A running server and its browsers, by the number of the client."""

    server: ViserServer
    browsers: dict[int, Browser]


def check_address(host: str, port: int) -> None:
    """Raise ValueError unless viser is installed and a server can listen at the address."""
    extras.require("viser", "view", "the web viewer")
    if not 1 <= port <= 65535:
        raise ValueError(f"--port must be from 1 to 65535, not {port}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ValueError(f"cannot listen at --host {host} --port {port}: {error.strerror or error}") from error


def serve(gallery: Gallery, name: str, choice: Choice, host: str, port: int) -> Viewer:
    """Serve the viewer; each browser begins with the run called `name`. Raises ValueError as `check_address` does."""
    import viser

    check_address(host, port)
    with origins.own_only(host):
        server = viser.ViserServer(host, port, label="spectral_jax", verbose=False)
    if server.get_port() != port:  # viser takes the next free port without asking
        server.stop()
        raise ValueError(f"cannot listen at --host {host} --port {port}: port {server.get_port()} is free")
    server.gui.configure_theme(show_logo=False, show_share_button=False)
    server.gui.main_panel.dock_right()
    server.scene.set_up_direction("+y")
    server.scene.configure_default_lights(cast_shadow=False)
    server.scene.configure_environment_map(hdri=None)  # takes ten seconds without a GPU
    server.scene.add_light_ambient("/light", intensity=AMBIENT)
    browsers: dict[int, Browser] = {}

    @server.on_client_connect
    def _(client) -> None:
        browser = browsers[client.client_id] = Browser(client, gallery, name, choice)
        browser.open()

    @server.on_client_disconnect
    def _(client) -> None:
        if browser := browsers.pop(client.client_id, None):
            browser.gone = True

    return Viewer(server, browsers)
