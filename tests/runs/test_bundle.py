import json
import shutil
import sys
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import TINY

from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.cli import main
from spectral_jax.data import pytorch_layouts
from spectral_jax.pytorch import lightning
from spectral_jax.runs import bundle, run


@pytest.fixture(scope="module")
def basis():
    return pytorch_layouts.open_pytorch_layout(TINY / "root").basis


@pytest.fixture(scope="module")
def original(basis, tmp_path_factory):
    """The run folder of the published checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "original"
    lightning.import_checkpoint(TINY / "last.ckpt", folder, basis=basis)
    return folder


@pytest.fixture(scope="module")
def released(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("releases") / "tiny.npz"
    bundle.save_release(path, run.load_run(original))
    return path


def assert_identical(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_round_trip_is_exact(original, basis, tmp_path, suffix):
    loaded, path = run.load_run(original), tmp_path / f"release{suffix}"
    bundle.save_release(path, loaded)
    back = bundle.load_release(path)
    assert_identical(back.params, jax.device_get(loaded.params))
    assert (back.model, back.train, back.epoch) == (loaded.config.model, loaded.config.train, loaded.epoch)
    assert back.connectivity == basis.fingerprint
    assert set(back.versions) == {"spectral_jax", "jax", "flax", "numpy"}

    bundle.import_release(path, tmp_path / "run", basis, "data")
    again = run.load_run(tmp_path / "run")
    assert_identical(again.params, loaded.params)
    np.testing.assert_array_equal(again.basis.modes, loaded.basis.modes)
    assert (again.epoch, again.config.data) == (loaded.epoch, "data")
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "run"}


def test_arrays_go_by_name_and_need_no_pickle(released):
    with np.load(released, allow_pickle=False) as file:
        assert file["encoder_conv_0/kernel"].shape == (3, 3, 16)
        assert file["downsampling_0"].shape == (128, 256)
        assert json.loads(str(file["metadata"]))["model"]["latent_size"] == 8


def test_without_a_basis_the_run_loads_and_says_what_it_lacks(released, tmp_path):
    bundle.import_release(released, tmp_path / "run")
    loaded = run.load_run(tmp_path / "run")
    assert loaded.basis is None
    with pytest.raises(ValueError, match=r"run has no basis.*--data DATA"):
        loaded.require_basis()


def test_another_basis_is_refused_and_rounding_is_not(released, basis, tmp_path):
    modes = np.array(basis.modes)
    modes[:, 7] *= -1
    modes[:, 20:22] = modes[:, 20:22] @ np.array([[0.8, -0.6], [0.6, 0.8]], np.float32)
    cases = {
        r"another basis .*\(3 of 128 modes differ, the first is mode 7\).*basis align": (modes, basis.faces),
        "has connectivity .* the basis has 1229 vertices": (basis.modes, basis.faces[:-9]),
        "the network has 128 modes, the basis only 100": (basis.modes[:, :100], basis.faces),
    }
    for message, (modes, faces) in cases.items():
        other = SpectralBasis(modes, basis.eigenvalues[: modes.shape[1]], faces)
        with pytest.raises(ValueError, match=rf"tiny\.npz: .*{message}"):
            bundle.import_release(released, tmp_path / "run", other)
        assert not (tmp_path / "run").exists()
    noise = np.random.default_rng(0).normal(scale=1e-6, size=basis.modes.shape)
    rounded = SpectralBasis((basis.modes + noise).astype(np.float32), basis.eigenvalues, basis.faces)
    bundle.import_release(released, tmp_path / "run", rounded)


def rewritten(released, tmp_path, change):
    """A copy of the release, its arrays and metadata changed in place."""
    with np.load(released) as file:
        arrays = dict(file)
    record = json.loads(str(arrays.pop("metadata")))
    change(arrays, record)
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays, metadata=np.array(json.dumps(record)))
    return path


def swap_names(arrays, record):
    arrays["last_conv/weight"] = arrays.pop("last_conv/kernel")
    arrays["upsampling_0"] = arrays["upsampling_0"].T
    arrays["upsampling_1"] = arrays["upsampling_1"].astype(np.float64)


def spoil(arrays, record):
    arrays["encoder_linear/bias"][2:4] = np.nan


ALL_NAMES = (
    r"last_conv/kernel \(3, 16, 3\) is missing; last_conv/weight \(3, 16, 3\) is unexpected; upsampling_0 is float32 "
    r"\(32, 16\), not float32 \(16, 32\); upsampling_1 is float64 \(32, 64\), not float32 \(32, 64\)$"
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_names, ALL_NAMES),
        (spoil, "encoder_linear/bias has 2 values that are not finite$"),
        (
            lambda a, r: a.update({"encoder_linear/bias": np.array([{}])}),
            "encoder_linear/bias: .*Python objects, which are never",
        ),
        (lambda a, r: r.update(schema=2), r"newer version \(schema 2, this version reads 1\)"),
        (lambda a, r: r.pop("schema"), "not a release .schema is None, expected .* 1"),
        (lambda a, r: r.update(epoch=-1), "epoch is -1"),
        (lambda a, r: r["model"].update(latent_size=9), r"encoder_linear/bias is float32 \(8,\), not float32 \(9,\)"),
        (lambda a, r: r["model"].update(modes="128"), "modes is '128', expected int"),
        (lambda a, r: r["model"].update(modes=10**12), "modes is 1000000000000, the limit is 1048576"),
        (lambda a, r: r["model"].update(conv_size=4), "conv size must be odd"),
        (lambda a, r: r["train"].update(momentum=1), "unknown options momentum"),
        (lambda a, r: r.update(model=[]), "ModelConfig is a list"),
    ],
)
def test_damaged_releases_are_refused_and_named(released, tmp_path, change, message):
    path = rewritten(released, tmp_path, change)
    with pytest.raises(ValueError, match=rf"bad\.npz: .*{message}"):
        bundle.load_release(path)


def test_files_of_another_kind_are_refused_and_named(released, tmp_path, monkeypatch):
    content = released.read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "spoilt.npz").write_bytes(content[:300] + b"spoilt" + content[306:])
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.npy", bytes(5_000_000))
    shutil.copy(released, tmp_path / "tiny.pth")
    cases = {
        "none.npz": "no such file",
        "cut.npz": "not a release .damaged or truncated",
        "spoilt.npz": "not a release .*CRC",
        "other.npz": r"not a release \(metadata is missing\)",
        "bomb.npz": "5,000,000 bytes unpacked with array metadata, the limit is 4,000,000",
        "tiny.pth": "a release is a .npz or .safetensors file",
    }
    monkeypatch.setattr(bundle, "MOST_BYTES", 4_000_000)
    for name, message in cases.items():
        with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
            bundle.load_release(tmp_path / name)
    monkeypatch.setattr(bundle, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="limit is 1,000"):
        bundle.load_release(released)


def test_safetensors_files_are_checked_too(original, tmp_path):
    path = tmp_path / "tiny.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match=r"tiny\.safetensors: not a release \(metadata is missing\)"):
        bundle.load_release(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"tiny\.safetensors: not a readable \.safetensors file"):
        bundle.load_release(path)


def test_safetensors_is_an_extra(original, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(
        ValueError, match=r"tiny\.safetensors needs safetensors: pip install 'spectral-jax\[safetensors\]'"
    ):
        bundle.save_release(tmp_path / "tiny.safetensors", run.load_run(original))


def test_commands(original, tmp_path, capsys):
    data, file, folder = str(TINY / "root"), str(tmp_path / "tiny.npz"), str(tmp_path / "run")
    assert main(["export", str(original), file]) == 0
    assert main(["import", file, folder, "--data", data]) == 0
    printed = capsys.readouterr().out
    assert "tiny.npz: epoch " in printed
    assert "128 modes, latent size 8" in printed
    assert main(["eval", str(original), "--data", data, "--json", str(tmp_path / "original.json")]) == 0
    assert main(["eval", folder, "--json", str(tmp_path / "imported.json")]) == 0  # the folder knows its data
    assert (tmp_path / "original.json").read_text() == (tmp_path / "imported.json").read_text()
    assert main(["import", file, str(tmp_path / "bare")]) == 0
    capsys.readouterr()
    other = tmp_path / "other.npz"
    for arguments, message in (
        (["export", str(original), file], "exists already; --overwrite replaces it"),
        (["export", str(original), str(tmp_path / "tiny.txt")], "a release is a .npz or .safetensors file"),
        (["export", str(original), str(other), "--checkpoint", "best"], "no checkpoint here"),
        (["export", "none", str(other)], "none: no such run folder"),
        (["import", file, folder], "run exists already"),
        (["import", "none.npz", str(tmp_path / "new")], "none.npz: no such file"),
        (["eval", str(tmp_path / "bare"), "--data", data], "bare has no basis"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
