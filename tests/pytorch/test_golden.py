"""The numbers of the published PyTorch system, on its own checkpoint and data: tests/tiny."""

import functools
import io
import tarfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY

from spectral_jax.files import torch_file
from spectral_jax.geometry.metrics import summarise
from spectral_jax.network.autoencoder import SpectralAutoencoder
from spectral_jax.pytorch.lightning import checkpoint_from_lightning
from spectral_jax.pytorch.state_dict import infer_config, params_from_state_dict, state_dict_from_params
from spectral_jax.training.state import TrainState
from spectral_jax.training.step import loss_and_gradient, train_step, validate

# At level 0 XLA compiles three times faster.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
step = jit(train_step, static_argnums=0)
gradient_of = jit(loss_and_gradient, static_argnums=0)


class Golden(NamedTuple):
    expected: dict[str, np.ndarray]
    model: SpectralAutoencoder
    state: TrainState
    learning_rate: float
    train: Any
    test: Any
    vertices: Any
    modes: Any


def members(split, kind, num_modes=None):
    """The tensors of a published archive in file order, (mesh, row, 3)."""
    with tarfile.open(TINY / "root" / "DEMO" / f"{split}.tar") as tar:
        files = [member for member in tar if member.name.endswith(f".{kind}.pth")]
        arrays = [torch_file.load(io.BytesIO(tar.extractfile(member).read())) for member in files]
    return jnp.asarray(np.stack([array[:num_modes] for array in arrays]), jnp.float32)


@pytest.fixture(scope="module")
def golden():
    saved = torch_file.load(TINY / "last.ckpt")
    config, _ = infer_config(saved["state_dict"])
    position = checkpoint_from_lightning(saved, config)
    return Golden(
        dict(np.load(TINY / "expected.npz")),
        SpectralAutoencoder(config),
        jax.device_put(position.state),
        position.plateau.learning_rate,
        members("train", "coeffs", config.modes),
        members("test", "coeffs", config.modes),
        members("test", "vertices"),
        jnp.asarray(np.load(TINY / "root" / "mesh.evecs_6890")[:, : config.modes], jnp.float32),
    )


@pytest.fixture(scope="module")
def encode(golden):
    return jit(lambda params, x: golden.model.apply({"params": params}, x, method="encode"))


def check(name, found, expected, relative):
    """Every entry within `relative` of the largest magnitude."""
    assert np.shape(found) == np.shape(expected)
    deviation = np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max()
    print(f"{name}: {deviation:.2g} of {relative:g}")
    assert deviation <= relative, name


def batches(golden):
    return [golden.train[i : i + 8] for i in range(0, len(golden.train), 8)]


def test_latents_and_outputs(golden, encode):
    check("latents", encode(golden.state.params, golden.test), golden.expected["latents"], 2e-5)
    outputs = jit(golden.model.apply)({"params": golden.state.params}, golden.test)
    check("outputs", outputs, golden.expected["outputs"], 2e-5)


def test_errors_in_millimetres(golden):
    errors_mm, spectral = validate(golden.model, golden.state.params, golden.modes, golden.test, golden.vertices)
    for name, found in (("errors_mm", errors_mm), ("summary_mm", summarise(errors_mm))):
        deviation = np.abs(np.asarray(found) - golden.expected[name]).max()
        print(f"{name}: {deviation:.2g} mm of 1e-3")
        assert deviation <= 1e-3, name
    check("spectral_loss", np.mean(spectral), golden.expected["spectral_loss"], 2e-5)


def test_loss_and_every_gradient(golden):
    """In float64 too: in float32 rounding alone moves these gradients of a loss of small differences by 5e-5.

    PyTorch's own float32 gradients do so when its convolutions use another algorithm (oneDNN off).
    """
    batch = golden.train[:16]
    loss, rounded = gradient_of(golden.model, golden.state.params, batch)
    check("train_loss_16", loss, golden.expected["train_loss_16"], 1e-6)
    with jax.enable_x64(True):
        exact_params, exact_batch = jax.tree.map(lambda x: x.astype(jnp.float64), (golden.state.params, batch))
        exact = jax.device_get(gradient_of(golden.model, exact_params, exact_batch)[1])
    exact, rounded = state_dict_from_params(exact), state_dict_from_params(rounded)
    assert {f"grad/{name}" for name in exact} == {name for name in golden.expected if name.startswith("grad/")}
    for name in exact:
        assert exact[name].dtype == np.float64
        check(f"grad/{name}", exact[name], golden.expected[f"grad/{name}"], 2e-5)
        check(f"grad/{name}, float32", rounded[name], golden.expected[f"grad/{name}"], 1e-4)


def test_adam_continued_from_the_checkpoint(golden, encode):
    assert golden.learning_rate == golden.expected["lr_in_checkpoint"]
    state, losses = golden.state, []
    for batch in (batches(golden) * 2)[:5]:
        state, loss, _ = step(golden.model, state, batch, golden.learning_rate)
        losses.append(loss)
    for i, (loss, expected) in enumerate(zip(losses, golden.expected["continued_losses"], strict=True)):
        check(f"continued loss {i}", loss, expected, 1e-4)
    check("continued_latents", encode(state.params, golden.test), golden.expected["continued_latents"], 1e-4)


def test_adam_from_the_start(golden):
    params = params_from_state_dict(torch_file.load(TINY / "init.pth"), golden.model.config)
    state = jax.device_put(
        TrainState(params, jax.tree.map(np.zeros_like, golden.state.opt_state), np.zeros((), np.int32))
    )
    for i, (batch, expected) in enumerate(zip(batches(golden) * 3, golden.expected["scratch_losses"], strict=True)):
        state, loss, _ = step(golden.model, state, batch, 1e-4)
        check(f"scratch loss {i}", loss, expected, 1e-5)
