"""Time the response of the web viewer to each kind of slider, until all data are handed to a browser connection.

    python benchmarks/viewer.py   # --vertices 1229 measures the small mesh alone

The bodies are those of the demo, with random weights and random modes: 1,024 for 1,229 vertices, 4,096 for 12,272.
Prints the median and the slowest of several moves, each to another value. "geodesic" is the search for a geodesic,
once per pair; the straight path is shown in the meantime.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import viser
from machine import announce, save, table

from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.bodies.smplh import demo_body_path, load_body
from spectral_jax.data.dataset import Data, Example
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.codec import Codec, decode_batch
from spectral_jax.network.config import ModelConfig
from spectral_jax.paths import interpolate
from spectral_jax.runs.run import Run, RunConfig
from spectral_jax.training.config import TrainConfig
from spectral_jax.viewer import scene, web
from spectral_jax.viewer.scene import Choice, Gallery, Subject

MODES = {1229: 1024, 12272: 4096}
MESHES = 40


def subject(num_vertices: int) -> Subject:
    """Return an untrained network and random meshes as the viewer takes them."""
    rng, config = np.random.default_rng(0), ModelConfig(modes=MODES[num_vertices])
    faces = load_body(demo_body_path(num_vertices)).faces
    modes = rng.standard_normal((num_vertices, config.modes), np.float32) / np.float32(num_vertices**0.5)
    basis = SpectralBasis(modes, np.zeros(config.modes), faces)
    coefficients = rng.standard_normal((MESHES, config.modes, 3), np.float32)
    vertices = rng.standard_normal((MESHES, num_vertices, 3), np.float32)
    meshes = [
        Example(c, v, "someone", "", "", i, "") for i, (c, v) in enumerate(zip(coefficients, vertices, strict=True))
    ]
    data = Data(Path("random"), basis, {"identities": {"test": {"someone": MESHES}}}, {"test": meshes})
    params = init_params(config, jax.random.key(0))
    run = Run(Path("random"), SpectralAutoencoder(config), params, basis, RunConfig(config, TrainConfig(), ""), 0)

    @partial(jax.jit, static_argnames="num_points")
    def geodesic(codec, start, end, num_points):
        return interpolate.geodesic(partial(decode_batch, codec), start, end, num_points)

    codec = Codec.of(run)
    return scene.prepare(run, data, codec, partial(geodesic, codec))


def moves(browser: web.Browser, moves: int) -> dict[str, list[float]]:
    """Time every move of every kind of slider, in milliseconds."""
    c, times = browser.controls, {}

    def move(name: str, handle, values) -> None:
        handle.value = values[0]  # the first compiles, or sends a mesh that was not shown
        times[name] = []
        for value in values[1:]:
            start = time.perf_counter()
            handle.value = value
            times[name].append(1000 * (time.perf_counter() - start))

    indices, shares = list(range(MESHES))[-moves - 1 :], np.linspace(0.1, 0.9, moves + 1).tolist()
    move("index", c.index, indices)
    move("modes", c.modes, [max(1, int(share * c.modes.max)) for share in shares])
    move("colours", c.high_mm, [100 * share for share in shares])
    c.show.value = "interpolation"
    move("from, to", c.start, indices)
    for method in ("latent", "spherical", "geodesic"):
        c.method.value = method
        while browser.picture.layers[0].name != method:
            time.sleep(0.1)
        move(f"a, {method}", c.amount, shares)
    times["geodesic"] = []
    for end in range(3):
        start = time.perf_counter()
        browser.subject.geodesic("test", MESHES - 1, end)
        times["geodesic"].append(1000 * (time.perf_counter() - start))
    c.show.value = "latent walk"
    move("latent", c.latent[0], [c.latent[0].min + share * (c.latent[0].max - c.latent[0].min) for share in shares])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vertices", type=int, nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    announce()
    web.SETTLING = 0  # a pause after the answer
    server = viser.ViserServer("127.0.0.1", 8099, verbose=False)
    nothing = SimpleNamespace(remove=lambda: None)
    camera = SimpleNamespace(aspect=1.5)
    client = SimpleNamespace(
        gui=server.gui, scene=server.scene, camera=camera, flush=server.flush, add_notification=lambda *_, **__: nothing
    )
    figures = {}
    for num_vertices in options.vertices:
        prepared = subject(num_vertices)
        browser = web.Browser(client, Gallery(lambda: [], lambda _, prepared=prepared: prepared), "random", Choice())
        browser.open()
        row = table(f"{num_vertices:,} vertices, {MODES[num_vertices]:,} modes, ms", "slider", "median", "slowest")
        figures[num_vertices] = times = moves(browser, options.moves)
        for name, taken in times.items():
            row(name, statistics.median(taken), max(taken))
    save(options.json, {"ms": figures})
    server.stop()


if __name__ == "__main__":
    main()
