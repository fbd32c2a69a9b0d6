"""Vertices in no face are left out of a dataset, and are back in the meshes that its runs write."""

import numpy as np
import pytest
from helpers import bumpy_spheres

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import Unused
from spectral_jax.cli import main
from spectral_jax.geometry.mesh import Mesh, read_mesh, write_mesh

LOOSE = [80, 163]


@pytest.fixture(scope="module")
def home(sphere, tmp_path_factory):
    """Meshes in which vertices 80 and 163 are in no face, a dataset of them, and a run."""
    home = tmp_path_factory.mktemp("home")
    faces = sphere.faces + (sphere.faces >= 80)
    for i, vertices in enumerate(bumpy_spheres(sphere, 10, 3)):
        whole = np.insert(vertices + np.float32(5), [80, 162], [[5, 5, 5], [6, 5, 5]], axis=0).astype(np.float32)
        (home / "scans").mkdir(exist_ok=True)
        write_mesh(home / "scans" / f"s{i}.ply", Mesh(whole, faces))
    build = ["dataset", "meshes", home / "scans", "--out", home / "data", "--modes", "64", "--drop-unused"]
    assert main([*map(str, build), "--scale", "0.1"]) == 0
    train = ["train", "--data", home / "data", "--run", home / "run", "--epochs", "1", "--latent-size", "4"]
    assert main([*map(str, train), "--batch-size", "4", "--pictures", "0"]) == 0
    return home


def check(path, home):
    """A mesh in the numbering of the files, the loose vertices where the first file has them."""
    found, first = read_mesh(path), read_mesh(home / "scans" / "s0.ply")
    np.testing.assert_array_equal(found.faces, first.faces)
    used = np.delete(first.vertices, LOOSE, axis=0).astype(np.float64)
    np.testing.assert_allclose(found.vertices[LOOSE], 0.1 * (first.vertices[LOOSE] - used.mean(axis=0)), atol=1e-6)
    return found


def test_latents_of_files_become_meshes_of_their_numbering(home, tmp_path):
    run = ["--run", str(home / "run")]
    assert main(["encode", str(home / "scans"), str(tmp_path / "a.npz"), *run]) == 0
    assert main(["encode", str(home / "data"), str(tmp_path / "b.npz"), "--split", "all", *run]) == 0
    latents = [np.load(tmp_path / name)["latents"] for name in ("a.npz", "b.npz")]
    np.testing.assert_allclose(*latents, atol=1e-4)
    assert main(["decode", str(tmp_path / "a.npz"), str(tmp_path / "meshes"), *run]) == 0
    assert main(["decode", str(tmp_path / "a.npz"), str(tmp_path / "v.npz"), "--vertices", *run]) == 0
    with np.load(tmp_path / "v.npz") as arrays:
        assert arrays["vertices"].shape == (10, 164, 3)
        for i, vertices in enumerate(arrays["vertices"]):
            found = check(tmp_path / "meshes" / f"{i:03d}.ply", home)
            np.testing.assert_allclose(found.vertices, vertices, atol=1e-6)
            np.testing.assert_array_equal(found.faces, arrays["faces"])
    assert main(["encode", str(tmp_path / "meshes"), str(tmp_path / "c.npz"), *run, "--center", "none",
                 "--scale", "1", "--up", "y"]) == 0  # fmt: skip


def test_paths_samples_and_mixtures_have_their_numbering(home, tmp_path):
    run, out = str(home / "run"), str(tmp_path / "path")
    mine = tmp_path / "mine.ply"
    assert main(["filter", run, "0", "--modes", "64", "--out", str(mine)]) == 0
    check(mine, home)
    assert main(["interpolate", run, "--out", out, "--to", str(mine), "--steps", "3", "--method", "spatial"]) == 0
    last = check(tmp_path / "path" / "frames" / "002.ply", home)
    np.testing.assert_allclose(last.vertices, read_mesh(mine).vertices, atol=1e-5)
    assert main(["sample", run, "--count", "2", "--out", str(tmp_path / "samples")]) == 0
    check(tmp_path / "samples" / "001.ply", home)
    mix = ["--low", "0", "--high", str(mine), "--cut", "9", "--out", str(tmp_path / "mixed.obj")]
    assert main(["mix", run, *mix]) == 0
    check(tmp_path / "mixed.obj", home)


@pytest.mark.parametrize(
    ("indices", "places", "message"),
    [
        ([3, 3], np.zeros((2, 3)), "unused vertices 3 to 3, expected ascending from 0 to 163"),
        ([3, 164], np.zeros((2, 3)), "unused vertices 3 to 164, expected"),
        ([-1, 3], np.zeros((2, 3)), "unused vertices -1 to 3, expected"),
        ([3.0, 4.0], np.zeros((2, 3)), r"unused vertices are float64 \(2,\), expected integers"),
        ([3, 4], np.zeros((1, 3)), r"places of unused vertices are \(1, 3\), expected \(2, 3\)"),
        ([3, 4], np.full((2, 3), np.nan), r"places of unused vertices are \(2, 3\), expected .* finite"),
    ],
)
def test_damaged_numbers_are_named(sphere_basis, tmp_path, indices, places, message):
    fields = vars(spectral.truncate(sphere_basis, 8)) | {"unused": Unused(np.array(indices), places)}
    spectral.save(tmp_path / "basis.npz", spectral.SpectralBasis(**fields))
    with pytest.raises(ValueError, match=f"basis.npz: {message}"):
        spectral.load(tmp_path / "basis.npz")
