import dataclasses
import warnings

import numpy as np
import pytest
from helpers import TINY

from spectral_jax.basis import spectral
from spectral_jax.bodies.smplh import demo_body_path
from spectral_jax.cli import main
from spectral_jax.geometry.mesh import write_mesh

ROOT = TINY / "root"


@pytest.fixture
def files(sphere, tmp_path):
    """The sphere in every form that a basis can be computed from."""
    write_mesh(tmp_path / "sphere.ply", sphere)
    write_mesh(tmp_path / "sphere.stl", sphere)
    np.savez(tmp_path / "sphere.npz", vertices=sphere.vertices, faces=sphere.faces)
    np.savez(tmp_path / "body.npz", v_template=sphere.vertices, f=sphere.faces.astype(np.uint32), other=[{}])
    np.savetxt(tmp_path / "sphere.txt", sphere.faces, fmt="%d")
    np.savetxt(tmp_path / "mesh.triv", sphere.faces + 1, fmt="%d")
    return tmp_path


def run(capsys, *words):
    """Exit code and what was printed on both streams."""
    code = main(["basis", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def fails(capsys, message, *words):
    """Exit code 2 and one line of error."""
    code, out, error = run(capsys, *words)
    assert (code, out, error.count("\n")) == (2, "", 1), error
    assert message in error


@pytest.mark.parametrize("name", ["sphere.ply", "sphere.npz", "body.npz", "sphere.txt", "mesh.triv"])
def test_compute_takes_meshes_bodies_and_faces(files, sphere_basis, capsys, name):
    code, out, error = run(capsys, "compute", files / name, "--modes", "12", "--out", files / "out.npz")
    assert (code, error) == (0, "")
    np.testing.assert_allclose(spectral.load(files / "out.npz").eigenvalues, sphere_basis.eigenvalues[:12], atol=1e-9)
    assert f"12 modes of 162 vertices, graph operator, connectivity {sphere_basis.fingerprint[:12]}" in out
    assert "modes have nearly repeated eigenvalues" in out
    if name not in ("sphere.txt", "mesh.triv"):
        words = ("compute", files / name, "--modes", "9", "--out", files / "out.npz", "--operator", "cotangent")
        code, out, error = run(capsys, *words, "--overwrite")
        assert (code, error) == (0, "")
        assert "9 modes of 162 vertices, cotangent operator" in out
        assert spectral.load(files / "out.npz").operator == "cotangent"


def test_compute_welds_an_stl(files, capsys):
    assert run(capsys, "compute", files / "sphere.stl", "--modes", "9", "--out", files / "out.npz")[0] == 0
    assert spectral.load(files / "out.npz").num_vertices == 162


def test_compute_says_what_computed_the_modes(files, capsys, monkeypatch):
    monkeypatch.setenv("SPECTRAL_JAX_CACHE", str(files / "cache"))
    words = ("compute", demo_body_path(1229), "--modes", "20", "--out", files / "out.npz", "--overwrite")
    monkeypatch.setattr(spectral, "DENSE", 600)
    assert "computed by the sparse solver in" in run(capsys, *words)[1]
    out = run(capsys, *words)[1]
    assert "from the cache in" in out
    assert "no repeated eigenvalues: every mode is unique up to its sign" in out
    assert out.count("before mode") == 5


def test_compute_warns_of_components_in_a_line(files, sphere, capsys):
    write_mesh(files / "two.ply", sphere._replace(
        vertices=np.concatenate([sphere.vertices, 3 + sphere.vertices]),
        faces=np.concatenate([sphere.faces, 162 + sphere.faces]),
    ))  # fmt: skip
    warnings.simplefilter("default")
    words = ("compute", files / "two.ply", "--modes", "5", "--out", files / "out.npz")
    error = run(capsys, *words)[2]
    assert error == "warning: the mesh has 2 components, hence as many constant modes\n"


def test_mistakes_of_compute(files, sphere, capsys):
    out = ("--out", files / "out.npz")
    fails(capsys, "sphere.txt: holds faces alone", "compute", files / "sphere.txt", "--operator", "cotangent", *out)
    fails(capsys, "none.npz: no such mesh file", "compute", files / "none.npz", *out)
    fails(capsys, "none.triv: no such file of faces", "compute", files / "none.triv", *out)
    fails(capsys, "163 modes asked for", "compute", files / "sphere.ply", "--modes", "163", *out)
    limited = ("sphere.ply", "--max-file-bytes", "100")
    fails(capsys, "the limit is 100; --max-file-bytes lifts it", "compute", files / limited[0], *limited[1:], *out)
    (files / "broken.npz").write_bytes(b"nothing")
    fails(capsys, "broken.npz: not readable", "compute", files / "broken.npz", *out)
    np.savez(files / "flat.npz", v_template=sphere.vertices[:, :2], f=sphere.faces)
    fails(capsys, "flat.npz: v_template (162, 2) and f int32 (320, 3)", "compute", files / "flat.npz", *out)
    np.savez(files / "cut.npz", v_template=sphere.vertices[:99], f=sphere.faces)
    fails(capsys, "cut.npz: faces name vertices 0 to 161, but there are 99", "compute", files / "cut.npz", *out)
    np.savez(files / "pickled.npz", v_template=np.array([{}]), f=sphere.faces)
    fails(capsys, "pickled.npz: not readable as a mesh or a body", "compute", files / "pickled.npz", *out)
    (files / "out.npz").write_bytes(b"kept")
    fails(capsys, "out.npz exists already; --overwrite replaces it", "compute", files / "sphere.ply", *out)
    assert (files / "out.npz").read_bytes() == b"kept"


def test_check_tells_the_quality(files, sphere_basis, capsys):
    spectral.save(files / "basis.npz", sphere_basis)
    for words in (
        (),
        ("--mesh", files / "sphere.ply"),
        ("--mesh", files / "mesh.triv"),
        ("--mesh", files / "body.npz"),
    ):
        code, out, error = run(capsys, "check", files / "basis.npz", *words)
        assert (code, error) == (0, "")
        assert "162 modes of 162 vertices, graph operator" in out
        assert "of the largest eigenvalue; orthonormal to" in out
    assert run(capsys, "compute", files / "sphere.ply", "--out", files / "one.npz", "--modes", "1")[0] == 0
    assert "smallest relative gaps: none" in run(capsys, "check", files / "one.npz")[1]


def test_check_of_a_cotangent_basis_needs_its_mesh(files, sphere, capsys):
    spectral.save(files / "basis.npz", spectral.compute(sphere.faces, 162, 20, sphere.vertices))
    for words in ((), ("--mesh", files / "mesh.triv")):
        code, out, _ = run(capsys, "check", files / "basis.npz", *words)
        assert (code, "residual: only --mesh tells" in out) == (0, True)
    code, out, _ = run(capsys, "check", files / "basis.npz", "--mesh", files / "sphere.ply")
    assert (code, "only --mesh" in out) == (0, False)
    write_mesh(files / "other.ply", sphere._replace(vertices=sphere.vertices * np.array([1, 1, 2], np.float32)))
    words = ("check", files / "basis.npz", "--mesh", files / "other.ply")
    fails(capsys, "allowed 0.0001: not the eigenmodes of this shape", *words)


def test_check_refuses_what_are_no_modes(files, sphere, sphere_basis, capsys):
    modes = np.array(sphere_basis.modes)
    spectral.save(files / "wrong.npz", dataclasses.replace(sphere_basis, modes=np.roll(modes, 1, axis=1)))
    fails(
        capsys,
        "wrong.npz: residual is 1, allowed 0.0001: not the eigenmodes of that graph",
        "check",
        files / "wrong.npz",
    )
    modes[:, 100] = modes[:, 101]  # two that `load` does not look at
    spectral.save(files / "wrong.npz", dataclasses.replace(sphere_basis, modes=modes))
    fails(capsys, "wrong.npz: deviation from orthonormality is 1", "check", files / "wrong.npz")
    write_mesh(files / "other.ply", sphere._replace(faces=sphere.faces[:-9]))
    spectral.save(files / "basis.npz", sphere_basis)
    fails(capsys, "not the same connectivity", "check", files / "basis.npz", "--mesh", files / "other.ply")


@pytest.mark.parametrize("name", ["modes.npy", "mesh.evecs_162", "modes.mat", "modes.txt"])
def test_an_export_is_imported_again(files, sphere_basis, capsys, name):
    kept = spectral.truncate(sphere_basis, 40)
    spectral.save(files / "basis.npz", kept)
    assert run(capsys, "export", files / "basis.npz", files / name)[:2] == (
        0, f"{files / name}: 40 modes of 162 vertices, graph operator, connectivity {kept.fingerprint[:12]}\n"
    )  # fmt: skip
    words = ("import", files / name, "--mesh", files / "sphere.ply", "--out", files / "again.npz")
    code, out, error = run(capsys, *words)
    assert (code, error, "40 modes of 162 vertices, graph operator" in out) == (0, "", True)
    again = spectral.load(files / "again.npz")
    np.testing.assert_array_equal(again.modes, kept.modes)
    np.testing.assert_allclose(again.eigenvalues, kept.eigenvalues, atol=1e-5)
    assert run(capsys, *words, "--modes", "7", "--overwrite")[0] == 0
    np.testing.assert_array_equal(spectral.load(files / "again.npz").modes, kept.modes[:, :7])
    fails(capsys, "again.npz exists already", *words)
    fails(capsys, f"{name} exists already", "export", files / "basis.npz", files / name)
    assert run(capsys, "export", files / "basis.npz", files / name, "--overwrite")[0] == 0


def test_import_of_a_published_basis(tmp_path, capsys):
    words = ("import", ROOT / "mesh.evecs_6890", "--mesh", ROOT / "mesh.triv", "--out", tmp_path / "basis.npz")
    assert "128 modes of 1229 vertices" in run(capsys, *words)[1]
    np.testing.assert_array_equal(spectral.load(tmp_path / "basis.npz").modes, np.load(ROOT / "mesh.evecs_6890"))


def test_mistakes_of_import(files, sphere_basis, capsys):
    import scipy.io

    modes, out = np.asarray(sphere_basis.modes), ("--mesh", files / "sphere.ply", "--out", files / "out.npz")
    scipy.io.savemat(files / "modes.mat", {"evecs": modes[::-1], "Psi": modes})
    fails(capsys, "modes.mat: is not the eigenbasis of the graph Laplacian", "import", files / "modes.mat", *out)
    fails(capsys, "no matrix of floats 'P', available:", "import", files / "modes.mat", "--variable", "P", *out)
    fails(capsys, "0 modes asked for", "import", files / "modes.mat", "--modes", "0", *out)
    fails(capsys, "163 modes asked for", "import", files / "modes.mat", "--modes", "163", *out)
    np.save(files / "few.npy", modes[:99, :9])
    fails(capsys, "few.npy has modes of 99 vertices", "import", files / "few.npy", *out)
    assert not (files / "out.npz").exists()
    assert run(capsys, "import", files / "modes.mat", "--variable", "Psi", *out)[0] == 0
    fails(capsys, "modes are written as .npy", "export", files / "out.npz", files / "modes.csv")


def test_export_of_a_cotangent_basis_says_what_is_lost(files, sphere, capsys):
    spectral.save(files / "basis.npz", spectral.compute(sphere.faces, 162, 20, sphere.vertices))
    code, _, error = run(capsys, "export", files / "basis.npz", files / "modes.npy")
    assert (code, error.count("\n"), "orthonormal under the mass" in error) == (0, 1, True)
