"""Shapes are checked in tests: every public annotation of spectral_jax is enforced, rank promotion is an error."""

import ctypes.util
import gc
import importlib.util
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with BLAS threads of their own wait for each other

from helpers import CHROMIUM, ROOT, chromium, sphere_examples
from jaxtyping import install_import_hook

install_import_hook("spectral_jax", "beartype.beartype")
# many tests compile the same program, some in processes of their own
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".pytest_cache" / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

import jax
import numpy as np
import pytest

from spectral_jax.training.devices import add_xla_flags

# and half of the suite's time would be XLA's, were its code to be as fast as a user's: `XLA_FLAGS= make test` has that
if "XLA_FLAGS" not in os.environ:
    add_xla_flags("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
    add_xla_flags("--xla_cpu_parallel_codegen_split_count=1")  # a program in parts takes longer, and no core is free

jax.config.update("jax_numpy_rank_promotion", "raise")

gc.freeze()  # modules and their functions stay until the end: searching them for garbage took a twentieth of the time
gc.set_threshold(50_000, 20, 100)

# What a test may need that pip does not bring: how to tell whether it is here, and what to do where it is not.
NEEDS = {
    "torch": (lambda: importlib.util.find_spec("torch"), "pip install 'spectral-jax[torch]'"),
    "browser": (chromium, "Chromium: apt install chromium, or the like"),
    "polyscope": (lambda: imports("polyscope"), "Polyscope with its system libraries, libX11 and libGL"),
    "onnx": (lambda: imports("onnx") and imports("onnxruntime"), "pip install 'spectral-jax[onnx]' onnxruntime"),
    "egl": (lambda: ctypes.util.find_library("EGL"), "EGL to draw without a display: apt install libegl1"),
}


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

    from spectral_jax.geometry.mesh import Mesh

    mesh = trimesh.creation.icosphere(subdivisions=2)
    return Mesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32))


@pytest.fixture(scope="session")
def sphere_basis(sphere):
    from spectral_jax.basis import spectral

    return spectral.compute(sphere.faces, len(sphere.vertices))


@pytest.fixture(scope="session")
def data_folder(sphere, sphere_basis, tmp_path_factory):
    """A prepared dataset of 44 train and 9 test spheres with 32 of 162 modes."""
    from spectral_jax.basis import spectral
    from spectral_jax.data import writer

    kept = spectral.truncate(sphere_basis, 32)
    splits = {
        "train": sphere_examples(sphere, kept, 44, 1, False),
        "test": sphere_examples(sphere, kept, 9, 2, True),
    }
    return writer.write(tmp_path_factory.mktemp("data") / "spheres", kept, sphere, splits, {"recipe": "test"})


@pytest.fixture(scope="session")
def fit_data(data_folder):
    from spectral_jax.data import dataset
    from spectral_jax.training.batches import FitData

    data = dataset.open_prepared(data_folder)
    train, test = dataset.read_split(data, "train"), dataset.read_split(data, "test")
    return FitData(train.coefficients, data.basis.modes, test.coefficients, test.vertices)


@pytest.fixture(scope="session")
def trained_run(data_folder, tmp_path_factory):
    """A run of two epochs on `data_folder`, 32 modes and latent size 4. Tests that change it make a copy."""
    from spectral_jax.cli import main

    folder = tmp_path_factory.mktemp("runs") / "trained"
    options = ["--epochs", "2", "--latent-size", "4", "--learning-rate", "1e-2", "--validate-every", "1"]
    assert main(["train", "--data", str(data_folder), "--run", str(folder), *options]) == 0
    return folder
