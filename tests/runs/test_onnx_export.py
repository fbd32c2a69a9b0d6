"""The graphs against the networks themselves, as onnxruntime computes them.

Both compute the same sums in float32, in another order. A sum of n terms whose magnitudes add up to 1 m can differ by
rounding(1, n): 1.1e-5 m for the 128 terms or so of the longest sums here. Allowed is 1e-5 m, a hundredth of a mm.
"""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import ROOT, bumpy_spheres

from spectral_jax.basis import spectral
from spectral_jax.cli import main
from spectral_jax.network import networks
from spectral_jax.network.codec import Codec
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import onnx_export
from spectral_jax.runs.run import Run, RunConfig, load_run
from spectral_jax.training.config import TrainConfig

pytestmark = pytest.mark.needs("onnx")
TOLERANCE = 1e-5

SAE_LP = {"pooled": (12, 20, 6), "channels": (4, 5, 6)}
RESIDUAL = {"network": "residual", "directions": 20, "hidden_size": 16}
MODELS = {
    "sae-lp": SAE_LP | {"conv_size": 5, "pooling": "before-activation", "activation": "SiLU"},
    "symmetric": RESIDUAL | {"directions": 3, "symmetric": True},
    "leaky": SAE_LP | {"activation": "LeakyReLU"},
    "residual": RESIDUAL,
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("leaky", "residual")]


def made(basis, **options):
    """A run of a network with random weights, which is nowhere stored."""
    model = ModelConfig(**{"modes": 32, "latent_size": 4, **options})
    rng = np.random.default_rng(0)
    draw = lambda shape: rng.normal(0, 0.2, shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(lambda leaf: draw(leaf.shape), networks.init_params(model, jax.random.key(0)))
    constants = {name: draw(shape) for name, shape in networks.constant_shapes(model).items()} or None
    if constants:
        constants["scales"] = np.abs(constants["scales"]) + 0.5
    if model.symmetric:
        constants["signs"] = np.sign(constants["signs"])
    params, constants = jax.device_put((params, constants))
    config = RunConfig(model, TrainConfig(), "")
    return Run(Path("runs/made"), networks.build(model), params, basis, config, 7, constants)


def answers(path, **inputs):
    """The outputs of a file by name, and what it says of itself."""
    import onnxruntime

    network = onnxruntime.InferenceSession(path)
    names = [output.name for output in network.get_outputs()]
    found = dict(zip(names, network.run(names, inputs), strict=True))
    return found, network.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("name", ["sae-lp", "symmetric", *SLOW])
def test_other_programs_compute_what_the_network_computes(sphere, sphere_basis, tmp_path, name):
    run = made(spectral.truncate(sphere_basis, 32), **MODELS[name])
    latents = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    onnx_export.save(tmp_path / "decoder.onnx", run)
    found, _ = answers(tmp_path / "decoder.onnx", latents=latents)
    np.testing.assert_allclose(found["vertices"], Codec.of(run).decode_vertices(latents), atol=TOLERANCE)
    np.testing.assert_array_equal(found["faces"], sphere.faces)
    onnx_export.save(tmp_path / "encoder.onnx", run, "encoder")
    vertices = bumpy_spheres(sphere, 3, 2)
    found, said = answers(tmp_path / "encoder.onnx", vertices=vertices)
    encode = jax.jit(functools.partial(run.model.apply, method="encode"))
    wanted = encode(run.variables, spectral.project(run.basis, vertices))
    np.testing.assert_allclose(found["latents"], wanted, atol=TOLERANCE * np.abs(wanted).max())
    assert ("Gauss-Newton" in said.get("note", "")) == (name in ("residual", "symmetric"))


def test_vertices_are_those_of_the_files_also_where_some_belong_to_no_face(sphere, sphere_basis, tmp_path):
    mass = np.linspace(0.5, 1.5, 162, dtype=np.float32)
    modes = np.asarray(sphere_basis.modes) / np.sqrt(mass)[:, None]
    markers = spectral.Unused(np.array([0, 100], np.int32), np.array([[9, 9, 9], [8, 8, 8]], np.float32))
    run = made(dataclasses.replace(sphere_basis, modes=modes, mass=mass, unused=markers), **RESIDUAL)
    for part in ("decoder", "encoder"):
        onnx_export.save(tmp_path / f"{part}.onnx", run, part)
    latents = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    found, _ = answers(tmp_path / "decoder.onnx", latents=latents)
    wanted, faces = spectral.with_unused(run.basis, Codec.of(run).decode_vertices(latents))
    np.testing.assert_allclose(found["vertices"], wanted, atol=TOLERANCE)
    np.testing.assert_array_equal(found["faces"], faces)
    moved = wanted.copy()
    moved[:, [0, 100]] += 1  # which says nothing of the mesh
    both = [answers(tmp_path / "encoder.onnx", vertices=vertices)[0]["latents"] for vertices in (wanted, moved)]
    np.testing.assert_array_equal(*both)


def test_the_command_writes_either_part_and_says_what_it_is(trained_run, tmp_path, capsys):
    file = tmp_path / "net.onnx"
    for part in ("decoder", "encoder"):
        assert main(["export", str(trained_run), str(file), "--overwrite", "--part", part]) == 0
        assert f"{file}: {part}" in capsys.readouterr().out
        run = load_run(trained_run)
        inputs = {"latents": np.zeros((1, 4))} if part == "decoder" else {"vertices": np.zeros((1, 162, 3))}
        found, said = answers(file, **{name: value.astype(np.float32) for name, value in inputs.items()})
        assert sorted(found) == (["faces", "vertices"] if part == "decoder" else ["latents"])
        assert (said["run"], said["network"], said["part"]) == ("trained", "sae-lp", part)
        assert (said["units"], said["up_axis"], said["connectivity"]) == ("metres", "y", run.basis.fingerprint)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("net.npz", ["--part", "encoder"], ["--part", "net.npz", ".onnx"]),
        ("net.onnx", ["--latents", "3"], ["--latents", "net.onnx", ".glb"]),
        ("net.pt", [], ["net.pt", ".npz", ".safetensors", ".onnx", ".glb"]),
    ],
)
def test_options_of_other_files_are_refused(trained_run, tmp_path, capsys, file, options, words):
    assert main(["export", str(trained_run), str(tmp_path / file), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert [word for word in words if word not in error] == []
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_into_a_file_is_refused(sphere_basis, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match=r"net\.onnx: .* [\d,]{6,} bytes.*10,000"):
        onnx_export.save(tmp_path / "net.onnx", made(sphere_basis, **RESIDUAL))
    assert not list(tmp_path.iterdir())


def test_the_examples_of_the_how_to_run(trained_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(trained_run)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "runs/mine", "decoder.onnx"]) == 0
    page = (ROOT / "docs" / "howto" / "export.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "export.md", "exec"), names)
    latents = np.zeros((1, 4), np.float32)
    wanted = Codec.of(load_run(trained_run)).decode_vertices(latents)
    np.testing.assert_allclose(names["vertices"], wanted, atol=TOLERANCE)
    again = jax.export.deserialize(Path("decoder.stablehlo").read_bytes())
    np.testing.assert_allclose(again.call(latents), wanted, atol=TOLERANCE)
