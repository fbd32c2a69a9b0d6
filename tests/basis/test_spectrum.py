import json
import re
from itertools import pairwise

import numpy as np
import pytest
from helpers import bumpy_spheres, sphere_examples

from spectral_jax.basis import spectral, spectrum
from spectral_jax.cli import main
from spectral_jax.data import dataset, writer


@pytest.fixture(scope="module")
def projected(sphere, sphere_basis):
    """20 meshes, more than one batch and a rest: vertices, and all their coefficients."""
    vertices = bumpy_spheres(sphere, 20, 3)
    return vertices, np.asarray(spectral.project(sphere_basis, vertices))


def test_numbers_of_modes():
    assert spectrum.table_counts(32) == (32,)
    assert spectrum.table_counts(64) == (64,)
    assert spectrum.table_counts(1229) == (64, 256, 512, 1024, 1229)
    assert spectrum.table_counts(6890) == (64, 256, 512, 1024, 2048, 4096, 6890)
    assert spectrum.octave_counts(20) == (1, 2, 4, 8, 16, 20)
    assert spectrum.curve_counts(20) == (1, 2, 3, 4, 6, 8, 12, 16, 20)
    assert spectrum.curve_counts(1) == (1,)
    for num_modes in range(1, 5000, 7):
        assert {*spectrum.table_counts(num_modes), *spectrum.octave_counts(num_modes)} <= {
            *spectrum.curve_counts(num_modes)
        }


@pytest.fixture(scope="module")
def curve(sphere_basis, projected):
    vertices, coefficients = projected
    return spectrum.measure(sphere_basis, (1, 3, 20, 64, 162), coefficients, (coefficients, vertices))


def test_against_dense_sums(sphere_basis, projected, curve):
    vertices, coefficients = projected
    modes, wide = np.asarray(sphere_basis.modes, np.float64), coefficients.astype(np.float64)
    shape = wide * (np.arange(162) > 0)[:, None]  # mode 0 is constant
    for i, (first, count) in enumerate(pairwise((0, *curve.counts))):
        errors_mm = 1000 * np.linalg.norm(modes[:, :count] @ wide[:, :count] - vertices, axis=-1).mean(axis=1)
        assert curve.mean_mm[i] == pytest.approx(errors_mm.mean(), rel=1e-5, abs=1e-3)
        assert curve.max_mm[i] == pytest.approx(errors_mm.max(), rel=1e-5, abs=1e-3)
        band = modes[:, first:count] @ shape[:, first:count]
        assert curve.amplitude_mm[i] == pytest.approx(1000 * np.sqrt((band**2).sum(axis=-1).mean()), rel=1e-5)
        energy, left_out = (
            100 * (part**2).sum() / (shape**2).sum() for part in (shape[:, first:count], shape[:, count:])
        )
        assert curve.energy_percent[i] == pytest.approx(energy, rel=1e-9)
        assert curve.left_out_percent[i] == pytest.approx(left_out, rel=1e-9)


def test_more_modes_leave_less_and_all_leave_nothing(curve):
    assert (np.diff(curve.mean_mm) < 0).all()
    assert (np.diff(curve.left_out_percent) < 0).all()
    assert curve.mean_mm[-1] <= curve.max_mm[-1] < 1e-3
    assert curve.left_out_percent[-1] == 0
    assert curve.energy_percent.sum() == pytest.approx(100, abs=1e-10)


def test_merged_bands_are_those_measured_at_once(sphere_basis, projected, curve):
    vertices, coefficients = projected
    counts = spectrum.table_counts(162)
    direct = spectrum.measure(sphere_basis, counts, coefficients, (coefficients, vertices))
    merged = spectrum.coarsen(curve, counts)
    assert merged.counts == direct.counts == (64, 162)
    for ours, theirs in zip(merged[1:], direct[1:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3)


def test_position_is_no_energy(sphere_basis, projected):
    _, coefficients = projected
    moved = coefficients.copy()
    moved[:, 0] += 100
    here, there = (spectrum.measure(sphere_basis, (1, 162), c) for c in (coefficients, moved))
    assert here.mean_mm is here.max_mm is None
    np.testing.assert_allclose(here.energy_percent, [0, 100], rtol=1e-12)
    np.testing.assert_array_equal(here.amplitude_mm, there.amplitude_mm)
    point = spectrum.measure(spectral.truncate(sphere_basis, 2), (2,), np.zeros((1, 2, 3), np.float32))
    np.testing.assert_array_equal(point.energy_percent, [0])


def test_info_shows_and_writes_the_figures(data_folder, tmp_path, capsys):
    out = tmp_path / "new" / "info.json"
    assert main(["dataset", "info", str(data_folder), "--json", str(out), "--meshes", "5"]) == 0
    figures, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert figures["num_vertices"] == 162
    assert figures["source"] == {"recipe": "test"}
    assert figures["meshes"] == {"train": 44, "test": 9}
    assert figures["identities"] == {"train": 1, "test": 1}
    assert figures["energies_of"] == {"split": "train", "meshes": 5}
    assert figures["errors_of"] == {"split": "test", "meshes": 5}
    assert figures["constant_modes"] == 1
    table, curve = figures["table"], figures["curve"]
    assert (table["modes"], table["band_first"], table["energy_left_out_percent"]) == ([32], [0], [0])
    assert table["modes_percent"] == [pytest.approx(100 * 32 / 162)]
    assert curve["modes"] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert all(len(column) == 10 for column in curve.values())
    assert sum(curve["band_energy_percent"]) == pytest.approx(100)

    test = dataset.read_split(dataset.open_prepared(data_folder), "test")
    basis = dataset.open_prepared(data_folder).basis
    chosen = [0, 2, 4, 6, 8]
    errors_mm = 1000 * np.linalg.norm(
        spectral.reconstruct(basis, test.coefficients[chosen]) - test.vertices[chosen], axis=-1
    ).mean(axis=1)
    assert curve["mean_mm"][-1] == table["mean_mm"][0] == pytest.approx(errors_mm.mean(), rel=1e-5)
    assert table["max_mm"] == [pytest.approx(errors_mm.max(), rel=1e-5)]
    for text in (
        "recipe test", "5 of 9 test meshes", "5 of 44 train meshes", "constant modes (1 here)", "0-31", "100.0000",
        f"{table['mean_mm'][0]:.2f}", f"{table['max_mm'][0]:.2f}", f"{table['band_rms_amplitude_mm'][0]:.2f}", "█" * 16,
    ):  # fmt: skip
        assert text in printed, text


def test_plot_is_one_page_that_needs_no_network(data_folder, tmp_path, capsys):
    page = tmp_path / "new" / "info.html"
    for _ in range(2):  # an existing page is replaced
        assert main(["dataset", "info", str(data_folder), "--plot", str(page)]) == 0
    text = page.read_text()
    assert not re.search(r"<(script|link)[^>]*(src|href)=", text)
    assert len(text) > 1_000_000  # plotly itself
    for words in (
        "How many modes does ", "need? (32 modes of 162 vertices)", "truncation error (mm)", "number of modes", "(mm)",
        "mean over meshes", "worst mesh",
    ):  # fmt: skip
        assert words in text


def test_without_original_vertices_there_are_no_errors(sphere, sphere_basis, tmp_path, capsys):
    splits = {name: sphere_examples(sphere, sphere_basis, 3, 1, False) for name in ("train", "test")}
    folder = writer.write(tmp_path / "bare", sphere_basis, sphere, splits, {"recipe": "test"})
    out, page = tmp_path / "info.json", tmp_path / "info.html"
    assert main(["dataset", "info", str(folder), "--json", str(out), "--plot", str(page)]) == 0
    figures, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert figures["errors_of"] is figures["table"]["mean_mm"] is figures["curve"]["max_mm"] is None
    assert figures["table"]["modes"] == [64, 162]
    assert "no errors: the test split has no original vertices" in printed
    assert "worst" not in printed
    assert "64-161" in printed
    assert "truncation error" not in page.read_text()


def test_mistakes_are_told_before_anything_is_read(capsys):
    for options, message in {
        ("--plot", "page.pdf"): "--plot writes an .html page, not page.pdf",
        ("--meshes", "0"): "--meshes must be at least 1, not 0",
        (): "nowhere: no such data folder",
    }.items():
        assert main(["dataset", "info", "nowhere", *options]) == 2
        assert message in capsys.readouterr().err
