"""`spectral-jax view`."""

from __future__ import annotations

import functools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from spectral_jax.commands.console import console
from spectral_jax.commands.network import open_network


@dataclass(frozen=True)
class View:
    """Look at a run's reconstructions, interpolations and latents, in a web browser or in a window of Polyscope's.

    The other runs of its folder can be chosen there. Ctrl-C ends the server, with exit code 0.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    data: str | None = None
    """A dataset, for every run (default: the one each was trained on)."""
    split: str = "test"
    """The split to begin with."""
    index: int = 0
    """The mesh of it to begin with."""
    backend: Literal["web", "polyscope"] = "web"
    """A page for web browsers, or a window."""
    port: int = 8080
    """Where the page is served."""
    host: str = "127.0.0.1"
    """The address it is served at; 0.0.0.0 is for anyone who can reach this machine."""
    screenshot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With polyscope: write this picture (.png or .jpg) instead, which needs no display."""

    def __call__(self) -> None:
        from spectral_jax.viewer import polyscope, scene, web

        if self.backend == "polyscope":
            polyscope.check(self.screenshot)
        elif self.screenshot:
            raise ValueError(f"--screenshot {self.screenshot} needs --backend polyscope, not {self.backend}")
        else:
            web.check(self.host, self.port)
        path = Path(os.path.abspath(self.run))

        def names() -> list[str]:
            return sorted(file.parent.name for file in path.parent.glob("*/config.json"))

        @functools.lru_cache(maxsize=4)
        def load(name: str) -> scene.Subject:
            network = open_network(self.run if name == path.name else path.parent / name, self.data)
            return scene.prepare(network.run, network.data, network.codec, network.geodesic)

        with console.status(f"loading {self.run}"):
            load(path.name).mesh(self.split, self.index)
        gallery, choice = scene.Gallery(names, load), scene.Choice(split=self.split, index=self.index)
        if self.backend == "polyscope":
            polyscope.view(gallery, path.name, choice, self.screenshot)
            return
        received = []  # an exception that a signal raises can be lost in another's callback
        previous = {
            number: signal.signal(number, lambda number, _: received.append(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        server = web.serve(gallery, path.name, choice, self.host, self.port).server
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            print(f"http://{host}:{self.port}", flush=True)
            console.print("Ctrl-C ends it")
            while not received:
                time.sleep(0.1)
        finally:
            server.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
