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


def _taps(x: Array, size: int) -> Array:
    """The shifted inputs of all taps of a convolution, (size * chan, batch, freq)."""
    return jnp.concatenate([_shift(x, size // 2 - tap) for tap in range(size)])


def convolve(
    x: Float[Array, "chan batch freq"], kernel: Float[Array, "size chan out"]
) -> Float[Array, "out batch freq"]:
    """Cross-correlation along frequency with zero padding, for an odd size, as one matrix product and shifts.

    Shifts apply to the side with fewer channels, inputs or products, because it is cheaper to copy. (XLA's own
    convolution is three times slower inside a scan on a CPU.)
    """
    size, chan, out = kernel.shape
    if chan < out:
        return jnp.einsum("io,ibf->obf", kernel.reshape(-1, out), _taps(x, size))
    products = jnp.einsum("tio,ibf->tobf", kernel, x)
    return sum((_shift(product, size // 2 - tap) for tap, product in enumerate(products)), jnp.zeros((), x.dtype))


def _convolve_forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _convolve_backward(saved, gradient):
    x, kernel = saved
    size, chan, out = kernel.shape
    for_x = convolve(gradient, kernel[::-1].swapaxes(1, 2))
    if chan <= out:
        for_kernel = jnp.einsum("ibf,obf->io", _taps(x, size), gradient).reshape(kernel.shape)
    else:
        for_kernel = jnp.einsum("ibf,obf->io", x, _taps(gradient, size)).reshape(chan, size, out)
        for_kernel = for_kernel[:, ::-1].swapaxes(0, 1)
    return for_x, for_kernel


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
