"""The network that comes with the package."""

import re

import numpy as np
import pytest
from helpers import ROOT, TINY

import spectral_jax as sj
from spectral_jax.basis import spectral
from spectral_jax.cli import main
from spectral_jax.data import pytorch_layouts
from spectral_jax.geometry.mesh import read_mesh
from spectral_jax.runs import pretrained

CARD = ROOT / "spectral_jax" / "assets" / "demo_network.md"


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A folder with the basis of a data/demo, 128 modes."""
    spectral.save(tmp_path / "data" / "demo" / "basis.npz", pytorch_layouts.open_pytorch_layout(TINY / "root").basis)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_take_the_word_demo_unless_there_is_such_a_folder(at_home, capsys):
    np.save("latents.npy", np.random.default_rng(0).normal(0, 0.5, (2, 16)))
    assert main(["decode", "latents.npy", "people", "--run", "demo"]) == 0
    people = [read_mesh(path) for path in sorted((at_home / "people").iterdir())]
    assert len(people) == 2
    for vertices, _ in people:
        assert 1.2 < np.ptp(vertices, axis=0).max() < 2.5  # metres: of the size of a person
    (at_home / "demo").mkdir()
    assert main(["decode", "latents.npy", "others", "--run", "demo"]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_it_is_the_same_network_with_any_basis(at_home):
    latents = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    run = sj.load_run("demo")
    wanted = sj.Codec.of(run).decode_vertices(latents)
    modes = np.array(run.basis.modes)
    modes[:, 5] *= -1
    modes[:, 20:22] = modes[:, 20:22] @ np.array([[0.8, -0.6], [0.6, 0.8]], np.float32)
    basis = spectral.SpectralBasis(modes, run.basis.eigenvalues, run.basis.faces)
    spectral.save(at_home / "data" / "demo" / "basis.npz", basis)
    turned = sj.load_run("demo")
    assert not np.allclose(turned.basis.modes, run.basis.modes, atol=0.01)
    np.testing.assert_allclose(sj.Codec.of(turned).decode_vertices(latents), wanted, atol=1e-5)


def test_it_is_small_and_its_card_says_how_large():
    size = pretrained.path().stat().st_size
    assert size < 2e6
    assert f"{size / 1e6:.2f} MB" in CARD.read_text(encoding="utf-8")


@pytest.mark.slow
def test_it_works_without_training_and_its_error_is_that_of_its_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "demo", "--count", "2", "--out", "people"]) == 0  # builds the dataset
    assert len([*(tmp_path / "people").glob("*.ply")]) == 2
    found = sj.evaluate("demo")
    (error,) = re.findall(r"\*\*([\d.]+) mm\*\*", CARD.read_text(encoding="utf-8"))
    assert found.mean_mm == pytest.approx(float(error), rel=1e-3)
    assert found.mean_mm < 0.7 * found.pca_mm
    assert main(["report", "demo", "--out", "report.html"]) == 2  # which is about training, too
    assert "config.json" in capsys.readouterr().err
