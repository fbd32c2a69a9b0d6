"""The forms an operation has: the same values, the same derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.network import primitives

KEYS = jax.random.split(jax.random.key(0), 3)


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def forms_of(request, monkeypatch):
    """The forms that operations have on a CPU, and those that they have on a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(("chan", "out"), [(2, 8), (8, 8), (8, 3)])
def test_convolution_is_the_sum_over_taps(size, chan, out):
    x, kernel = jax.random.normal(KEYS[0], (chan, 2, 7)), jax.random.normal(KEYS[1], (size, chan, out))
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2, size // 2)))
    expected = sum(np.einsum("ibf,io->obf", padded[..., tap : tap + 7], kernel[tap]) for tap in range(size))
    np.testing.assert_allclose(primitives.convolve(x, kernel), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(("chan", "out"), [(2, 8), (8, 8), (8, 3)])
def test_convolution_by_hand_has_the_gradients_of_autodiff(size, chan, out):
    x, kernel = jax.random.normal(KEYS[0], (chan, 2, 7)), jax.random.normal(KEYS[1], (size, chan, out))
    check_gradients(primitives.convolve, primitives.convolve_custom_backward, x, kernel)
    bias = jax.random.normal(KEYS[2], (out,))
    check_gradients(primitives.convolve, primitives.convolve_custom_backward, x, kernel, bias)


def test_the_bias_is_added_to_every_place():
    x, kernel = jax.random.normal(KEYS[0], (3, 2, 7)), jax.random.normal(KEYS[1], (3, 3, 8))
    bias = jax.random.normal(KEYS[2], (8,))
    expected = primitives.convolve(x, kernel) + bias[:, None, None]
    np.testing.assert_allclose(primitives.convolve(x, kernel, bias), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_pooling_by_hand_has_the_gradients_of_autodiff(shape):
    x, matrix = jax.random.normal(KEYS[0], (3, 2, shape[0])), jax.random.normal(KEYS[1], shape)
    check_gradients(primitives.pool, primitives.pool_custom_backward, x, matrix)


def check_gradients(plain, trained, *inputs):
    @jax.jit
    def both(*inputs):
        value, backward = jax.vjp(plain, *inputs)
        by_hand, backward_by_hand = jax.vjp(trained, *inputs)
        cotangent = jax.random.normal(KEYS[2], value.shape)
        return (value, by_hand), (backward(cotangent), backward_by_hand(cotangent))

    (value, by_hand), (gradients, gradients_by_hand) = both(*inputs)
    np.testing.assert_array_equal(by_hand, value)
    for ours, theirs in zip(gradients_by_hand, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_elu_has_its_derivative_everywhere():
    x = jnp.array([-30.0, -2.0, -1e-3, 0.0, 1e-3, 3.0])
    np.testing.assert_allclose(jax.vmap(jax.grad(primitives.elu))(x), np.where(x > 0, 1, np.exp(x)), atol=1e-6)
