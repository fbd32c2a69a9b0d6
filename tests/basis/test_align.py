import dataclasses
import itertools

import numpy as np
import pytest
from helpers import TINY

from spectral_jax.basis import align, spectral
from spectral_jax.cli import main
from spectral_jax.commands.evaluate import print_summary
from spectral_jax.data import dataset, pytorch_layouts
from spectral_jax.pytorch import lightning
from spectral_jax.runs import evaluate, run


def changed(basis, modes):
    return dataclasses.replace(basis, modes=np.asarray(modes, np.float32))


def repeated(basis):
    """Repeated eigenvalues as (first, size)."""
    starts = np.flatnonzero(np.diff(basis.eigenvalues, prepend=-1, append=np.inf) > 1e-8)
    return [(int(a), int(b - a)) for a, b in itertools.pairwise(starts) if b - a > 1]


def flipped(basis, seed=0):
    """The basis with random signs, and how many are negative."""
    signs = np.random.default_rng(seed).choice([-1, 1], basis.num_modes)
    return changed(basis, np.asarray(basis.modes) * signs), int((signs < 0).sum())


def rotated(basis, groups, seed=0):
    """The basis with random rotations inside groups of modes."""
    rng, modes = np.random.default_rng(seed), np.array(basis.modes, np.float64)
    for first, size in groups:
        modes[:, first : first + size] @= np.linalg.qr(rng.normal(size=(size, size)))[0]
    return changed(basis, modes)


def random_meshes(basis, count):
    """Vertices and their coefficients in the basis."""
    vertices = np.random.default_rng(5).normal(size=(count, basis.num_vertices, 3)).astype(np.float32)
    return vertices, np.asarray(spectral.project(basis, vertices))


@pytest.fixture(scope="module")
def data():
    """Bodies, whose graph has no repeated eigenvalue, with coefficients."""
    return pytorch_layouts.open_pytorch_layout(TINY / "root")


def test_signs_are_restored_bit_for_bit(data):
    other, count = flipped(data.basis)
    aligned, report = align.align(other, data.basis)
    np.testing.assert_array_equal(aligned.modes, data.basis.modes)
    assert report == ("modes", 128, count, [], [], [], [], 0)
    assert report.complete
    assert align.describe(report) == (
        f"128 modes compared: {count} flipped, 0 groups rotated; largest remaining difference of modes 0."
    )


def test_an_aligned_basis_is_left_alone(sphere_basis):
    aligned, report = align.align(sphere_basis, sphere_basis)
    np.testing.assert_array_equal(aligned.modes, sphere_basis.modes)
    assert (report.flipped, report.rotated, report.difference) == (0, [], pytest.approx(0, abs=1e-6))


def test_rotations_inside_repeated_eigenvalues_are_undone(sphere_basis):
    groups = repeated(sphere_basis)
    assert max(size for _, size in groups) >= 5
    aligned, report = align.align(rotated(sphere_basis, groups), sphere_basis)
    np.testing.assert_allclose(aligned.modes, sphere_basis.modes, atol=2e-6)
    spectral.check_same(aligned, sphere_basis, ("aligned", "reference"))
    assert spectral.orthonormality_error(aligned.modes) < 1e-6
    assert (report.rotated, report.flipped, report.complete) == (groups, 0, True)
    assert f"{len(groups)} groups rotated (the largest of" in align.describe(report)


def test_near_repeated_eigenvalues_are_merged_only_where_they_must(data):
    gaps = np.diff(data.basis.eigenvalues)
    near = [(int(i), 2) for i in np.flatnonzero(gaps < 1e-3 * np.maximum(1, data.basis.eigenvalues[1:]))]
    assert len(near) >= 3
    aligned, report = align.align(rotated(data.basis, near[:2]), data.basis)
    np.testing.assert_allclose(aligned.modes, data.basis.modes, atol=1e-6)
    assert (report.rotated, report.complete) == (near[:2], True)


def test_an_eigenvalue_cut_by_truncation_is_reported_and_more_modes_help(sphere_basis):
    groups = repeated(sphere_basis)
    first, size = groups[-1] if groups[-1][0] < 160 else groups[-2]
    other, reference = rotated(sphere_basis, groups), spectral.truncate(sphere_basis, first + size - 1)
    aligned, report = align.align(spectral.truncate(other, reference.num_modes), reference)
    assert report.cut == list(range(first, first + size - 1))
    assert (report.unmatched, report.complete) == ([], False)
    np.testing.assert_allclose(aligned.modes[:, :first], reference.modes[:, :first], atol=2e-6)
    assert "computed with more modes" in align.describe(report)

    aligned, report = align.align(other, reference)
    assert (report.num_modes, report.complete) == (first + size - 1, True)
    np.testing.assert_allclose(aligned.modes[:, : reference.num_modes], reference.modes, atol=2e-6)
    assert spectral.orthonormality_error(aligned.modes) < 1e-6


def test_modes_of_another_span_are_reported(data):
    modes = np.array(data.basis.modes)
    modes[:, [3, 70]] = modes[:, [70, 3]]
    _, report = align.align(changed(data.basis, modes), data.basis)
    assert (report.unmatched, report.cut, report.rotated) == ([3, 70], [], [])
    assert report.difference > 0.01
    assert "2 modes do not agree: 3, 70." in align.describe(report)


def test_another_connectivity_is_refused(sphere_basis, data):
    with pytest.raises(ValueError, match=r"1229 vertices and .*162 vertices and .*not the same connectivity"):
        align.align(data.basis, sphere_basis)
    vertices, coefficients = random_meshes(sphere_basis, 2)
    with pytest.raises(ValueError, match=r"2 meshes of 162 vertices .* the basis has 1229"):
        align.signs_from_data(data.basis, vertices, coefficients)


def test_bodies_tell_the_signs(data):
    other, count = flipped(data.basis)
    test = dataset.read_split(data, "test")
    aligned, report = align.signs_from_data(other, test.vertices, test.coefficients)
    np.testing.assert_array_equal(aligned.modes, data.basis.modes)
    assert (report.compared, report.flipped, report.complete) == ("coefficients", count, True)


@pytest.mark.parametrize(("count", "known"), [(1, 3), (3, 9), (6, 17)])
def test_meshes_tell_rotations_of_three_modes_each(sphere_basis, count, known):
    groups = repeated(sphere_basis)
    vertices, coefficients = random_meshes(sphere_basis, count)
    aligned, report = align.signs_from_data(rotated(sphere_basis, groups), vertices, coefficients)
    unknown = [mode for first, size in groups if size > known for mode in range(first, first + size)]
    assert report.undetermined == unknown
    assert (report.unmatched, report.cut, report.complete) == ([], [], not unknown)
    settled = np.setdiff1d(np.arange(162), unknown)
    np.testing.assert_allclose(aligned.modes[:, settled], sphere_basis.modes[:, settled], atol=2e-5)
    assert ("too few meshes" in align.describe(report)) == bool(unknown)


def test_modes_without_energy_are_undetermined(data):
    coefficients = np.random.default_rng(5).normal(size=(4, 128, 3)).astype(np.float32)
    coefficients[:, 100:] = 0
    flat = np.asarray(spectral.reconstruct(data.basis, coefficients))
    _, report = align.signs_from_data(data.basis, flat, coefficients)
    assert report.undetermined == list(range(100, 128))
    assert "28 modes are undetermined (100-127)" in align.describe(report)
    with pytest.raises(ValueError, match="not finite"):
        align.signs_from_data(data.basis, flat, coefficients * np.float32(np.nan))


def test_coefficients_of_other_meshes_match_nothing(sphere_basis):
    vertices, coefficients = random_meshes(sphere_basis, 2)
    _, report = align.signs_from_data(sphere_basis, vertices, np.roll(coefficients, 1, axis=0))
    assert len(report.unmatched) > 140
    assert set(report.undetermined).isdisjoint(report.unmatched)


def test_fewer_coefficients_than_modes(sphere_basis):
    groups = repeated(sphere_basis)
    vertices, coefficients = random_meshes(sphere_basis, 8)
    cut = groups[4][0] + 1
    aligned, report = align.signs_from_data(rotated(sphere_basis, groups), vertices, coefficients[:, :cut])
    assert (report.num_modes, report.complete) == (cut, True)
    np.testing.assert_allclose(aligned.modes[:, :cut], sphere_basis.modes[:, :cut], atol=2e-5)


@pytest.fixture(scope="module")
def cotangent_basis():
    """Of a sphere of 642 vertices, stretched along one axis: eigenvalues are simple or double."""
    import trimesh

    made = trimesh.creation.icosphere(subdivisions=3)
    vertices = np.asarray(made.vertices, np.float32) * np.array([1, 1, 1.5], np.float32)
    return spectral.compute(np.asarray(made.faces, np.int32), 642, 40, vertices)


def near(basis):
    """Pairs of neighbouring modes with eigenvalues less than 0.001 apart, as (first, 2)."""
    firsts = np.flatnonzero(np.diff(basis.eigenvalues) < 1e-3 * basis.eigenvalues[1:]).tolist()
    return [(a, 2) for a, before in zip(firsts, [-2, *firsts], strict=False) if a > before + 1]


def test_a_cotangent_basis_is_aligned_under_its_mass(cotangent_basis):
    groups = near(cotangent_basis)
    assert len(groups) > 2
    other = rotated(flipped(cotangent_basis)[0], groups)
    for aligned, report in (
        align.align(other, cotangent_basis),
        align.signs_from_data(other, *random_meshes(cotangent_basis, 4)),
    ):
        np.testing.assert_allclose(aligned.modes, cotangent_basis.modes, atol=1e-5)
        np.testing.assert_array_equal(aligned.mass, cotangent_basis.mass)
        assert spectral.orthonormality_error(aligned.modes, aligned.mass) < 1e-6
        assert (report.complete, report.rotated) == (True, groups)


def test_operators_are_not_aligned_with_each_other(cotangent_basis, data, tmp_path, capsys):
    graph = spectral.compute(cotangent_basis.faces, 642, 8)
    with pytest.raises(ValueError, match="the basis is of the graph operator, the reference of the cotangent operator"):
        align.align(graph, cotangent_basis)
    vertices = np.random.default_rng(0).normal(size=(1229, 3)).astype(np.float32)
    spectral.save(tmp_path / "c.npz", spectral.compute(np.asarray(data.basis.faces), 1229, 4, vertices))
    options = ["--data", str(TINY / "root"), "--out", str(tmp_path / "out.npz")]
    assert main(["basis", "align", str(tmp_path / "c.npz"), *options]) == 2
    assert "c.npz is of the cotangent operator" in capsys.readouterr().err


def test_command(data, tmp_path, capsys):
    other, count = flipped(data.basis)
    source, reference, out = (tmp_path / name for name in ("other.npz", "reference.npz", "out.npz"))
    spectral.save(source, other)
    spectral.save(reference, data.basis)
    for options in (["--reference", str(reference)], ["--data", str(TINY / "root"), "--overwrite"]):
        assert main(["basis", "align", str(source), "--out", str(out), *options]) == 0
        assert f"out.npz: 128 modes compared: {count} flipped" in capsys.readouterr().out
        np.testing.assert_array_equal(spectral.load(out).modes, data.basis.modes)
    spectral.save(tmp_path / "faces.npz", dataclasses.replace(other, faces=other.faces[:-9]))
    for file, options, message in (
        (source, ["--reference", str(reference)], "exists already; --overwrite replaces it"),
        (source, ["--overwrite"], "give either --reference or --data"),
        (source, ["--overwrite", "--reference", str(reference), "--data", "demo"], "give either --reference or --data"),
        (source, ["--overwrite", "--data", str(TINY / "root"), "--meshes", "0"], "--meshes must be at least 1, not 0"),
        (tmp_path / "faces.npz", ["--overwrite", "--data", str(TINY / "root")], "not the same connectivity"),
    ):
        assert main(["basis", "align", str(file), "--out", str(out), *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_converted_checkpoint_on_another_basis_is_suspected(data, tmp_path, capsys):
    other, _ = flipped(data.basis)
    signs = np.sign((np.asarray(other.modes) * np.asarray(data.basis.modes)).sum(axis=0))[:, None]
    lightning.import_checkpoint(TINY / "last.ckpt", tmp_path / "run", basis=other)
    converted = run.load_run(tmp_path / "run")
    for name, basis, factor in (("right", data.basis, 1), ("wrong", other, signs)):
        loaded = dataclasses.replace(converted, basis=basis)
        train, test = (
            split._replace(coefficients=(split.coefficients * factor).astype(np.float32))
            for split in (dataset.read_split(data, "train"), dataset.read_split(data, "test"))
        )
        print_summary(evaluate.evaluate_split(loaded, basis, train, test), loaded, data.path, "test")
        error = capsys.readouterr().err
        assert ("`spectral-jax basis align`" in error) == (name == "wrong")
    with pytest.raises(ValueError, match=r"the basis of .*run and that of the data have different modes .*basis align"):
        evaluate.evaluate_split(loaded, data.basis, train, test)
