"""The network's operations in the forms that run fastest, forwards and backwards.

Arrays are (chan, batch, freq) throughout the network, so neither convolutions nor poolings need a transpose. Each
operation with parameters has two forms with the same values: the plain one, differentiable in every mode, and
`*_custom_backward`, with a hand-written backward pass and no forward mode. With these a training step takes 60 to 70 %
of the time on two CPU cores (4,096 modes), because XLA on its own transposes the wide operand of a product instead of
the narrow one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def _shift(x: Array, places: int) -> Array:
    """Shift along frequency by `places`, padding with zeros."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 0), (places, -places, 0)))


def _by_input(kernel: Array) -> Array:
    """The kernel as the matrix of all products with the inputs, (chan, size * out)."""
    return kernel.swapaxes(0, 1).reshape(kernel.shape[1], -1)


def _few() -> int:
    """How many times fewer channels than outputs the inputs have at most, where they are shifted and not the outputs.

    On a CPU that is what copies less. A GPU adds up shifted products in the launch of bias and activation, and writes
    the shifted gradient in that of the activation's slope, so that shifts of the inputs are launches more.
    """
    return 1 if jax.default_backend() == "cpu" else 3


def _taps(x: Array, kernel: Array) -> Array:
    """The shifted inputs of all taps of a convolution, (size * chan, batch, freq)."""
    size = len(kernel)
    return jnp.concatenate([_shift(x, size // 2 - tap) for tap in range(size)])


def convolve(
    x: Float[Array, "chan batch freq"],
    kernel: Float[Array, "size chan out"],
    bias: Float[Array, "out"] | None = None,
) -> Float[Array, "out batch freq"]:
    """Cross-correlation along frequency with zero padding, for an odd size, as one matrix product and shifts.

    Shifts apply to the inputs or to the products: see `_few`. (XLA's own convolution is three times slower inside a
    scan on a CPU.)
    """
    size, chan, out = kernel.shape
    if _few() * chan < out:
        y = jnp.einsum("io,ibf->obf", kernel.reshape(-1, out), _taps(x, kernel))
    else:
        products = jnp.split(jnp.einsum("io,ibf->obf", _by_input(kernel), x), size)
        shifted = (_shift(product, size // 2 - tap) for tap, product in enumerate(products))
        y = sum(shifted, jnp.zeros((), x.dtype))
    return y if bias is None else y + bias[:, None, None]


def _convolve_forward(x, kernel, bias):
    return convolve(x, kernel, bias), (x, kernel, bias)


def _convolve_backward(saved, gradient):
    x, kernel, bias = saved
    size, chan, out = kernel.shape
    if _few() * chan <= out:
        for_x = convolve(gradient, kernel[::-1].swapaxes(1, 2))
        for_kernel = jnp.einsum("ibf,obf->io", _taps(x, kernel), gradient).reshape(kernel.shape)
    else:  # the barrier has XLA write what both products take once, together with the slope of the activation
        shifted = jnp.concatenate([_shift(gradient, tap - size // 2) for tap in range(size)])
        shifted = lax.optimization_barrier(shifted)
        for_x = jnp.einsum("io,obf->ibf", _by_input(kernel), shifted)
        for_kernel = jnp.einsum("ibf,obf->io", x, shifted).reshape(chan, size, out).swapaxes(0, 1)
        gradient = jnp.split(shifted, size)[size // 2]
    return for_x, for_kernel, None if bias is None else gradient.sum((1, 2))


convolve_custom_backward = jax.custom_vjp(convolve)
convolve_custom_backward.defvjp(_convolve_forward, _convolve_backward)


def pool(x: Float[Array, "chan batch freq"], matrix: Float[Array, "freq pooled"]) -> Float[Array, "chan batch pooled"]:
    """Mix frequencies by a matrix: learned pooling or unpooling (Lemeunier et al. 2022, section 4)."""
    return x @ matrix


def _pool_forward(x, matrix):
    return pool(x, matrix), (x, matrix)


def _pool_backward(saved, gradient):
    x, matrix = saved
    rows, columns = matrix.shape
    # Without the barrier, XLA fuses the transpose of the narrow operand into the product and repeats it.
    left = x.reshape(-1, rows).T
    left = lax.optimization_barrier(left) if rows < columns else left
    return gradient @ matrix.T, left @ gradient.reshape(-1, columns)


pool_custom_backward = jax.custom_vjp(pool)
pool_custom_backward.defvjp(_pool_forward, _pool_backward)


@jax.custom_jvp
def elu(x: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
    """Exponential linear unit, alpha 1. Its derivative uses its value, so the exponential is computed only once."""
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


@elu.defjvp
def _elu_tangent(primals, tangents):
    y = elu(*primals)
    return y, tangents[0] * (jnp.minimum(y, 0) + 1)
