import sys

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from helpers import Counted

from spectral_jax.basis import formats, spectral


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRAL_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def computed(monkeypatch):
    """How many modes were computed, one entry a time."""
    counts, compute = [], spectral.compute

    def counted(faces, num_vertices, num_modes, *rest):
        counts.append(num_modes)
        return compute(faces, num_vertices, num_modes, *rest)

    monkeypatch.setattr(spectral, "compute", counted)
    return counts


def test_a_basis_is_computed_once_and_more_modes_serve_fewer(sphere, cache, computed):
    counted = Counted()
    first = formats.cached(sphere.faces, 162, 20, progress=counted)
    assert (counted.done, len(list(cache.iterdir()))) == ([0], 1)
    again = formats.cached(sphere.faces, 162, 20, progress=counted)
    np.testing.assert_array_equal(again.modes, first.modes)
    np.testing.assert_array_equal(again.eigenvalues, first.eigenvalues)
    fewer = formats.cached(sphere.faces, 162, 7, progress=counted)
    np.testing.assert_array_equal(fewer.modes, first.modes[:, :7])
    assert (computed, counted.done) == ([20], [0])
    formats.cached(sphere.faces, 162)
    assert computed == [20, 162]


def test_the_kept_basis_has_the_faces_that_were_asked_for(sphere, cache, computed):
    """Other faces can have the same edges: the same graph, another cotangent Laplacian."""
    flipped = sphere.faces[::-1, ::-1].copy()
    formats.cached(sphere.faces, 162, 9)
    np.testing.assert_array_equal(formats.cached(flipped, 162, 9).faces, flipped)
    assert computed == [9]
    formats.cached(sphere.faces, 162, 9, sphere.vertices)
    assert formats.cached(sphere.faces, 162, 9, sphere.vertices).operator == "cotangent"
    assert computed == [9, 9]
    holed = sphere.faces[1:]
    formats.cached(holed, 162, 9, sphere.vertices)
    formats.cached(sphere.faces, 162, 9, 2 * sphere.vertices)
    assert computed == [9, 9, 9, 9]
    formats.cached(holed, 162, 9)
    assert computed == [9, 9, 9, 9]


def test_damaged_and_foreign_files_in_the_cache_do_no_harm(sphere, cache, computed):
    first = formats.cached(sphere.faces, 162, 9)
    (path,) = cache.iterdir()
    for content in (b"", path.read_bytes()[:3000], path.read_bytes().replace(b"PK", b"KP")):
        path.write_bytes(content)
        path.with_name(path.name.replace("-9.npz", "-12 (copy).npz")).write_bytes(content)
        np.testing.assert_array_equal(formats.cached(sphere.faces, 162, 9).modes, first.modes)
        assert spectral.load(path).num_modes == 9
    assert computed == [9] * 4


def test_a_cache_that_cannot_be_written_does_no_harm(sphere, cache, computed):
    cache.write_text("a file where the folder should be")
    assert [formats.cached(sphere.faces, 162, 9).num_modes for _ in range(2)] == [9, 9]
    assert computed == [9, 9]
    assert cache.is_file()


def test_the_cache_is_in_the_users_cache_folder(monkeypatch):
    monkeypatch.delenv("SPECTRAL_JAX_CACHE")
    assert formats.cache_folder().parts[-2:] == ("spectral_jax", "bases")


@pytest.mark.parametrize("name", ["modes.npy", "mesh.evecs_162", "modes.mat", "modes.txt"])
def test_written_modes_are_read_again(sphere_basis, tmp_path, name):
    formats.write_modes(tmp_path / "new" / name, sphere_basis)
    modes = formats.read_modes(tmp_path / "new" / name)
    np.testing.assert_array_equal(modes, sphere_basis.modes)
    assert modes.dtype == np.float32
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_a_written_mat_file_has_what_matlab_needs(sphere_basis, sphere, tmp_path):
    formats.write_modes(tmp_path / "modes.mat", sphere_basis)
    held = scipy.io.loadmat(tmp_path / "modes.mat")
    np.testing.assert_array_equal(held["triv"], sphere.faces + 1)
    np.testing.assert_array_equal(held["evals"][:, 0], sphere_basis.eigenvalues)
    assert "mass" not in held
    cotangent = spectral.compute(sphere.faces, 162, 9, sphere.vertices)
    formats.write_modes(tmp_path / "modes.mat", cotangent)
    np.testing.assert_array_equal(scipy.io.loadmat(tmp_path / "modes.mat")["mass"][:, 0], cotangent.mass)


def test_modes_are_written_by_their_suffix(sphere_basis, tmp_path):
    with pytest.raises(ValueError, match=r"modes\.csv: modes are written as \.npy, \.evecs_162, \.mat or \.txt"):
        formats.write_modes(tmp_path / "modes.csv", sphere_basis)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", ", "   "])
def test_text_is_read_whatever_separates_it(tmp_path, separator):
    modes = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    rows = [separator.join(f"{value:.9g}" for value in row) for row in modes]
    (tmp_path / "modes.asc").write_text("\n".join(rows) + "\n")
    np.testing.assert_array_equal(formats.read_modes(tmp_path / "modes.asc"), modes)


def matlab_variables():
    rng = np.random.default_rng(1)
    return {
        "U": rng.normal(size=(8, 3)),
        "evecs": rng.normal(size=(8, 4)),
        "lambda": rng.normal(size=(4, 1)),
        "faces": np.arange(60, dtype=np.int32).reshape(20, 3),
        "name": "sphere",
    }


def write_old(path, variables):
    scipy.io.savemat(path, {**variables, "L": scipy.sparse.eye_array(40).tocsc()})


def write_new(path, variables):
    """As MATLAB 7.3 does: HDF5 behind a header of 512 bytes, matrices transposed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            file[name] = np.asarray(value).T if name != "name" else np.frombuffer(b"sphere", np.uint8)[:, None]
        file.create_group("L")["data"] = np.ones(40)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


@pytest.mark.parametrize("write", [write_old, write_new])
def test_a_mat_file_of_several_variables(tmp_path, write):
    path, variables = tmp_path / "modes.mat", matlab_variables()
    write(path, variables)
    np.testing.assert_array_equal(formats.read_modes(path), variables["evecs"].astype(np.float32))
    np.testing.assert_array_equal(formats.read_modes(path, "U"), variables["U"].astype(np.float32))
    with pytest.raises(ValueError, match=r"modes\.mat: .*no matrix of floats 'W', available: U, evecs, lambda"):
        formats.read_modes(path, "W")
    del variables["evecs"]
    write(path, variables)
    np.testing.assert_array_equal(formats.read_modes(path), variables["U"].astype(np.float32))
    write(path, {"faces": variables["faces"]})
    with pytest.raises(ValueError, match=r"modes\.mat: .*holds no matrix of floats"):
        formats.read_modes(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"modes\.mat: not readable as modes"):
        formats.read_modes(path)


def test_matlab_7_3_names_the_extra_that_it_needs(tmp_path, monkeypatch):
    write_new(tmp_path / "modes.mat", matlab_variables())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"needs h5py: pip install 'spectral-jax\[hdf5\]'"):
        formats.read_modes(tmp_path / "modes.mat")


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        (np.zeros((3, 8)), r"holds float64 \(3, 8\), expected floats \(vertices, modes\), modes in columns"),
        (np.zeros(8), r"holds float64 \(8,\)"),
        (np.zeros((8, 0)), r"holds float64 \(8, 0\)"),
        (np.zeros((8, 3), np.int64), r"holds int64 \(8, 3\)"),
        (np.zeros((8, 3), complex), r"holds complex128 \(8, 3\)"),
        (np.array([[{}] * 3] * 8), "not readable as modes .*Python objects"),
        (np.array([[1.0, np.nan]] * 8), "mode 1 is not finite"),
        (np.array([[1e300, 0.0]] * 8), "mode 0 is not finite"),
    ],
)
def test_what_are_no_modes_is_refused(tmp_path, modes, message):
    path = tmp_path / "mesh.evecs_8"
    with path.open("wb") as file:
        np.save(file, modes)
    with pytest.raises(ValueError, match=rf"mesh\.evecs_8: {message}"):
        formats.read_modes(path)


@pytest.mark.parametrize("content", [b"", b"1 2\n3\n", b"a b\nc d\n", b"\x93NUMPY\1\0garbage", b"\0\xff" * 50])
def test_unreadable_files_of_modes_are_refused(tmp_path, content):
    (tmp_path / "modes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"modes\.txt: not readable as modes"):
        formats.read_modes(tmp_path / "modes.txt")
    with pytest.raises(ValueError, match=r"none\.npy: no such file of modes"):
        formats.read_modes(tmp_path / "none.npy")
