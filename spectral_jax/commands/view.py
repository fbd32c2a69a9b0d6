"""`spectral-jax view`."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from spectral_jax.commands.console import console
from spectral_jax.commands.network import open_run


@dataclass(frozen=True)
class View:
    """Explore a run's reconstructions, interpolations and latent space in a web browser, or in a window of Polyscope.

    The viewer also lists the other runs of the same folder. Ctrl-C stops the server, with exit code 0.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, or the word demo: the network that comes with the package."""
    data: str | None = None
    """The dataset for all runs (default: the one that each was trained on)."""
    split: str = "test"
    """The split shown first."""
    index: int = 0
    """The index of the mesh shown first."""
    interpolate: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="FROM TO")] = None
    """First show the interpolation between the meshes of these two indices instead."""
    amount: float = 0.5
    """The position along that interpolation, 0 to 1."""
    method: Literal["latent", "spherical", "geodesic", "identity"] = "latent"
    """Its method in latent space. identity: from the first mesh to its pose with the identity of the second."""
    backend: Literal["web", "polyscope"] = "web"
    """web: a page for web browsers. polyscope: a window."""
    port: int = 8080
    """The port at which the page is served."""
    host: str = "127.0.0.1"
    """The address at which it is served; 0.0.0.0 lets everyone in who can reach this machine."""
    screenshot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --backend polyscope: write this image (.png or .jpg) instead of opening a window; needs no display."""

    def __call__(self) -> None:
        from spectral_jax.viewer import polyscope, scene, web

        if not 0 <= self.amount <= 1:
            raise ValueError(f"--amount must be from 0 to 1, not {self.amount}")
        if self.backend == "polyscope":
            polyscope.check_display(self.screenshot)
        elif self.screenshot:
            raise ValueError(f"--screenshot {self.screenshot} needs --backend polyscope, not {self.backend}")
        else:
            web.check_address(self.host, self.port)
        path = Path(os.path.abspath(self.run))

        def names() -> list[str]:
            return sorted({path.name, *(file.parent.name for file in path.parent.glob("*/config.json"))})

        @functools.lru_cache(maxsize=4)
        def load(name: str) -> scene.Subject:
            return scene.Subject(open_run(self.run if name == path.name else path.parent / name, self.data))

        with console.status(f"loading {self.run}"):
            for index in self.interpolate or (self.index,):
                load(path.name).mesh(self.split, index)
        gallery, choice = scene.Gallery(names, load), scene.Choice(split=self.split, index=self.index)
        if self.interpolate:
            pair = dict(zip(("start", "end"), self.interpolate, strict=True))
            choice = dataclasses.replace(choice, show="interpolation", **pair, amount=self.amount, method=self.method)
        if self.backend == "polyscope":
            polyscope.view(gallery, path.name, choice, self.screenshot)
            return
        received = []  # signals; an exception raised by a handler could be lost in a callback of another library
        previous = {
            number: signal.signal(number, lambda number, _: received.append(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        server = web.serve(gallery, path.name, choice, self.host, self.port).server
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            print(f"http://{host}:{self.port}", flush=True)
            console.print("Ctrl-C stops the server")
            while not received:
                time.sleep(0.1)
        finally:
            server.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
