"""Shapes are checked in tests: every public annotation of spectral_jax is enforced, rank promotion is an error."""

import ctypes.util
import importlib.util
import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with BLAS threads of their own wait for each other

from jaxtyping import install_import_hook

install_import_hook("spectral_jax", "beartype.beartype")
# many tests compile the same program, some in processes of their own
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import numpy as np
import pytest

from spectral_jax.devices import add_xla_flags

# and half of the suite's time would be XLA's, were its code to be as fast as a user's: `XLA_FLAGS= make test` has that
if "XLA_FLAGS" not in os.environ:
    add_xla_flags("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")

jax.config.update("jax_numpy_rank_promotion", "raise")

# What a test may need that pip does not bring: how to tell whether it is here, and what to do where it is not.
NEEDS = {
    "torch": (lambda: importlib.util.find_spec("torch"), "pip install 'spectral-jax[torch]'"),
    "browser": (lambda: chromium(), "Chromium: apt install chromium, or the like"),
    "polyscope": (lambda: imports("polyscope"), "Polyscope with its system libraries, libX11 and libGL"),
    "egl": (lambda: ctypes.util.find_library("EGL"), "EGL to draw without a display: apt install libegl1"),
}


def chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def imports(module):
    """Whether a package can be imported: some are installed and lack a library of the system's."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def pytest_runtest_setup(item):
    """Skip what needs something that is not here; fail where SPECTRAL_JAX_REQUIRED names it, as CI does."""
    needed = {name for mark in item.iter_markers("needs") for name in mark.args}
    for thing in sorted(needed | {"browser"} & set(item.fixturenames)):
        found, remedy = NEEDS[thing]
        if not found():
            required = thing in os.environ.get("SPECTRAL_JAX_REQUIRED", "").split()
            (pytest.fail if required else pytest.skip)(f"needs {thing}, not found here: {remedy}")


def pytest_make_parametrize_id(val, argname):
    """No bytes in the names of tests: an archive's hold the time, and processes that see other names do not start."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def basis_cache(tmp_path_factory):
    """Computed bases are kept in a folder of the session, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECTRAL_JAX_CACHE", str(tmp_path_factory.mktemp("bases")))
        yield


SOFTWARE_WEBGL = "--headless=new --no-sandbox --disable-gpu --use-gl=angle --use-angle=swiftshader"
SILENT = "--no-first-run --disable-quic --disable-background-networking --disable-component-update --disable-sync"
CHROMIUM = f"{SOFTWARE_WEBGL} --enable-unsafe-swiftshader {SILENT}"


@pytest.fixture
def browser():
    """A headless Chromium of Playwright's; a test's own, as an event loop runs in this thread as long as it lives."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM.split())
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def sphere():
    """A closed mesh of 162 vertices."""
    import trimesh

    from spectral_jax.mesh import Mesh

    mesh = trimesh.creation.icosphere(subdivisions=2)
    return Mesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32))


@pytest.fixture(scope="session")
def sphere_basis(sphere):
    from spectral_jax import basis

    return basis.compute(sphere.faces, len(sphere.vertices))


def bumpy_spheres(sphere, count, seed):
    """Meshes (count, vertex, 3): the sphere stretched, bent and bumped by four numbers each."""
    rng = np.random.default_rng(seed)
    x = sphere.vertices[None]
    a, b, c, d = rng.uniform(-0.5, 0.5, (4, count, 1))
    y = np.stack(
        [x[..., 0] * (1 + a) + b * x[..., 1] ** 2, x[..., 1] + c * np.sin(3 * x[..., 2]), x[..., 2] * (1 + d)], -1
    )
    return y.astype(np.float32)


def sphere_examples(sphere, basis, count, seed, keep_vertices):
    from spectral_jax.basis import project
    from spectral_jax.dataset import Example

    for i, vertices in enumerate(bumpy_spheres(sphere, count, seed)):
        kept = vertices if keep_vertices else None
        yield Example(np.asarray(project(basis, vertices)), kept, f"id{seed}", "Spheres", f"{i:03d}.ply", i, "neutral")


@pytest.fixture(scope="session")
def data_folder(sphere, sphere_basis, tmp_path_factory):
    """A prepared dataset of 44 train and 9 test spheres with 32 of 162 modes."""
    from spectral_jax import basis, builder

    kept = basis.truncate(sphere_basis, 32)
    splits = {
        "train": sphere_examples(sphere, kept, 44, 1, False),
        "test": sphere_examples(sphere, kept, 9, 2, True),
    }
    return builder.write(tmp_path_factory.mktemp("data") / "spheres", kept, sphere, splits, {"recipe": "test"})


def write_2026(root, data):
    """The dataset in the published layout of 2026; the folder that holds it."""
    folder = root / "Datasets" / "DEMO"
    folder.mkdir(parents=True)
    np.savetxt(root / "smpl_faces.txt", data.basis.faces, fmt="%d")
    np.save(root / "evecs_GL_1229.npy", data.basis.modes)
    (folder / "infos.json").write_text(json.dumps({"train": ["s000"], "vald": ["s001"]}))
    for name, examples in (("train", data.splits["train"]), ("vald", data.splits["test"])):
        names = ("identity", "dataset", "file", "frame_idx", "gender")
        infos = [dict(zip(names, example[2:], strict=True)) for example in examples]
        (folder / f"{name}_infos.json").write_text(json.dumps(infos, indent=4))
        np.save(folder / f"{name}_coeffs.npy", np.stack([example.coefficients for example in examples]))
    np.save(folder / "vald_vertices.npy", np.stack([example.vertices for example in data.splits["test"]]))
    return folder


@pytest.fixture(scope="session")
def fit_data(data_folder):
    from spectral_jax import dataset
    from spectral_jax.fitting import FitData

    data = dataset.open_data(data_folder)
    train, test = dataset.read_split(data, "train"), dataset.read_split(data, "test")
    return FitData(train.coefficients, data.basis.modes, test.coefficients, test.vertices)
