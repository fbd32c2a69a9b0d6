"""The parts of `gpu.py` that no other benchmark measures, each in a process of its own.

python benchmarks/gpu_parts.py --part made_of --json figures.json   # --quick takes tiny sizes
"""

import argparse
import collections
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from machine import alternate, ceilings, save, seconds
from ours import ours

from spectral_jax.basis import eigen
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.bodies.smplh import demo_body_path, load_body, pose_bodies
from spectral_jax.geometry import mesh
from spectral_jax.network import networks
from spectral_jax.network.codec import Codec, decode_vertices_batch, encode_batch
from spectral_jax.network.config import ModelConfig

AMASS = 111_327  # meshes
SLOWEST = 20  # launches that are listed
NAN = float("nan")


def device(quick: bool) -> dict:
    """The devices, and the rates that one of them reaches."""
    rows = {"devices": ", ".join(str(each) for each in jax.devices())}
    for precision in ("default",) if quick else ("highest", "default", "bf16"):
        rates = ceilings(precision)
        products = f"{rates['flops'] / 1e12:.3g} TFLOP/s, memory {rates['bytes'] / 1e9:.4g} GB/s"
        rows[f"products reach, {precision}"] = products
    return {"rows": rows}


def demo(quick: bool) -> dict:
    """The demo from nothing to its report, in a folder that is removed; no size is tiny: `quick` prints its help."""
    arguments = ["demo", *(["--help"] if quick else [])]
    command = [sys.executable, "-m", "spectral_jax", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        spent = seconds(lambda: subprocess.run(command, cwd=folder, check=True))
    return {"seconds": spent, "rows": {"the demo, end to end": f"{spent:.3g} s"}}


def made_of(quick: bool) -> dict:
    """Launches of a step and how long the device is busy, from a trace; the slowest launches."""
    steps, batch, modes = (2, 4, 256) if quick else (32, 16, 4096)
    meshes = np.random.default_rng(0).standard_normal((steps * batch, modes, 3), np.float32)
    run = ours(ModelConfig(modes=modes), meshes, batch)
    timing = alternate({"ours": run}, 2 if quick else 5)["ours"]
    count, spent = collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        for path in Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                for line in plane.lines:
                    on_gpu = "GPU" in plane.name and "Stream" in line.name
                    if on_gpu or (jax.default_backend() == "cpu" and "XLA" in line.name):
                        for event in line.events:
                            count[event.name] += 1
                            spent[event.name] += event.duration_ns / 1000
    step = 1e6 * (timing.median or NAN) / steps
    launched, busy = count.total() / steps, sum(spent.values()) / steps
    about = f"a step of {batch} meshes, {modes:,} modes"
    rows = {
        about: f"{step:.0f} µs",
        f"{about}: launches": f"{launched:.0f}, the device is busy for {busy:.0f} µs",
    }
    slowest = [
        {"name": name[:120], "us_a_step": us / steps, "times_a_step": count[name] / steps}
        for name, us in spent.most_common(SLOWEST)
    ]
    return {"step_us": step, "launches_a_step": launched, "busy_us": busy, "slowest": slowest, "rows": rows}


def residual(quick: bool) -> dict:
    """An epoch of the residual network of AMASS's size, on scores."""
    meshes, batch, config = (256 if quick else AMASS), 64, ModelConfig(network="residual")
    scores = jax.random.normal(jax.random.key(0), (meshes, config.directions + 1))
    timing = alternate({"ours": ours(config, scores, batch)}, 3)["ours"]
    rows = {
        f"epoch of the residual network, {meshes:,} meshes, batch {batch}": f"{timing.median:.3g} s "
        f"(the first, with compiling, {timing.first:.3g} s)"
    }
    return {"meshes": meshes, "first_s": timing.first, "epoch_s": timing.median, "rows": rows}


def codec(quick: bool) -> dict:
    """Meshes a second that are encoded, and decoded to vertices: on the device, and from the host and back."""
    modes, vertices, meshes = (64, 100, 70) if quick else (4096, 6890, 1024)
    rng, rates, rows = np.random.default_rng(0), {}, {}
    for name in ("sae-lp", "residual"):
        config = ModelConfig(modes=modes, network=name)
        shapes = networks.constant_shapes(config)
        constants = {key: np.ones(shape, np.float32) for key, shape in shapes.items()} or None
        matrix = rng.standard_normal((vertices, modes), np.float32) / np.sqrt(np.float32(vertices))
        basis = SpectralBasis(matrix, np.zeros(modes), np.array([[0, 1, 2]], np.int32))
        params = networks.init_params(config, jax.random.key(0))
        network = Codec(networks.build(config), params, *jax.device_put((basis, constants)))
        coefficients = rng.standard_normal((meshes, modes, 3), np.float32)
        latents = rng.standard_normal((meshes, config.latent_size), np.float32)
        on_device = jnp.asarray(coefficients), jnp.asarray(latents)
        sides: dict[str, Callable[[], object]] = {
            "encode": lambda network=network, rows=on_device[0]: encode_batch(network, rows).block_until_ready(),
            "decode": lambda network=network, rows=on_device[1]: decode_vertices_batch(
                network, rows
            ).block_until_ready(),
            "encode, from the host and back": lambda network=network, rows=coefficients: network.encode(rows),
            "decode, from the host and back": lambda network=network, rows=latents: network.decode_vertices(rows),
        }
        rates[name] = {side: meshes / (timing.median or NAN) for side, timing in alternate(sides, 3).items()}
        for side, rate in rates[name].items():
            rows[f"{name}: {side}"] = f"{rate:,.0f} meshes/s"
    return {"modes": modes, "vertices": vertices, "meshes": meshes, "meshes_per_second": rates, "rows": rows}


def eigenbasis(quick: bool) -> dict:
    """All modes of the demo body by the dense solver of the device, beside LAPACK's on the host."""
    faces = load_body(demo_body_path()).faces
    vertices = int(faces.max()) + 1
    laplacian = mesh.graph_laplacian(mesh.edges(faces, vertices), vertices)
    count = 32 if quick else vertices
    found = {}
    sides = {
        "device": lambda: found.update(device=eigen.dense_on_device(laplacian, count)),
        "host": lambda: found.update(host=eigen.dense(laplacian, count)),
    }
    timings = alternate(sides, 1 if quick else 3)
    values, modes = found["device"]
    apart = float(abs(values - found["host"][0]).max())
    residuals = float(np.linalg.norm(laplacian @ modes - modes * values, axis=0).max())
    rows = {
        f"{count:,} modes of {vertices:,} vertices, on the device": f"{timings['device'].median:.3g} s "
        f"(the first, with compiling, {timings['device'].first:.3g} s), residual {residuals:.1g}",
        f"{count:,} modes of {vertices:,} vertices, LAPACK": f"{timings['host'].median:.3g} s, "
        f"eigenvalues {apart:.1g} apart",
    }
    times = {side: timing.median for side, timing in timings.items()}
    return {"seconds": times, "residual": residuals, "apart": apart, "rows": rows}


def posing(quick: bool) -> dict:
    """Bodies of 12,272 vertices that are posed in a second."""
    body, rng = load_body(demo_body_path(1229 if quick else 12272)), np.random.default_rng(0)
    rates, rows = {}, {}
    for batch in (2,) if quick else (64, 1024):
        poses = jnp.asarray(rng.standard_normal((batch, 3 * body.num_joints), np.float32) / 5)
        betas = jnp.asarray(rng.standard_normal((batch, 16), np.float32))
        pose = alternate({"pose": lambda p=poses, b=betas: pose_bodies(body, p, b).block_until_ready()}, 5)["pose"]
        rates[batch] = batch / (pose.median or NAN)
        rows[f"posing, {body.num_vertices:,} vertices, batch {batch:,}"] = f"{rates[batch]:,.0f} meshes/s"
    return {"vertices": body.num_vertices, "meshes_per_second": rates, "rows": rows}


PARTS = {part.__name__: part for part in (device, demo, made_of, residual, codec, eigenbasis, posing)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = PARTS[options.part](options.quick)
    for name, value in figures["rows"].items():
        print(f"{name}: {value}")
    save(options.json, figures)


if __name__ == "__main__":
    main()
