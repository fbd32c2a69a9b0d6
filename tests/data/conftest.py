"""What the tests of datasets share: bodies, scans, and builds in small parts."""

import functools
import shutil

import numpy as np
import pytest
from helpers import PEOPLE, bumpy_spheres

from spectral_jax.basis import spectral
from spectral_jax.bodies.smplh import demo_body_path, load_body
from spectral_jax.data import posed_bodies, projection, writer
from spectral_jax.geometry.mesh import Mesh, write_mesh


@pytest.fixture(scope="module")
def few_programs():
    """Batches of one small size, and each body loaded, and so compiled for, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "BATCH", 16)
        patch.setattr(posed_bodies, "load_body", functools.cache(load_body))
        yield


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """The demo body as the male one, a quarter smaller as the female."""
    folder = tmp_path_factory.mktemp("bodies")
    shutil.copy(demo_body_path(), folder / "SMPLH_MALE.npz")
    (folder / "female").mkdir()
    with np.load(demo_body_path(), allow_pickle=False) as data:
        arrays = dict(data)
    arrays["v_template"] = arrays["v_template"] * np.float32(0.75)
    np.savez(folder / "female" / "model.npz", allow_pickle=False, **arrays)
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(writer, "MESHES_A_PART", 3)


@pytest.fixture(scope="module")
def kept(sphere_basis):
    return spectral.truncate(sphere_basis, 8)


@pytest.fixture(scope="module")
def people(sphere, tmp_path_factory):
    """Five identities of bumpy spheres as .ply, each at a place of its own; as many as in conftest's `data_folder`."""
    folder = tmp_path_factory.mktemp("people") / "scans"
    for i, count in enumerate(PEOPLE):
        for j, vertices in enumerate(bumpy_spheres(sphere, count, i)):
            path = folder / f"person{i}" / f"pose{j:02d}.ply"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mesh(path, Mesh(vertices + np.float32(i), sphere.faces))
    return folder
