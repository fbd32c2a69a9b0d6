"""The network's operations in the forms that run fastest, forwards and backwards.

Arrays are (chan, batch, freq) all through the network, so that neither a convolution nor a pooling pays for a
transpose. Each operation with parameters comes twice: as itself, differentiable in every mode, and as `*_trained`, with
the same values and a backward pass written by hand, which forward mode cannot go through. On two CPU cores (4,096
modes) a step takes 60 to 70 % of the time with them: left to itself, XLA transposes the wide operand of a product
where the narrow one would do.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def _shift(x: Array, places: int) -> Array:
    """Frequencies moved up by so many places, zeros where nothing was."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 0), (places, -places, 0)))


def _taps(x: Array, size: int) -> Array:
    """What each tap of a convolution sees, (size * chan, batch, freq)."""
    return jnp.concatenate([_shift(x, size // 2 - tap) for tap in range(size)])


def convolve(
    x: Float[Array, "chan batch freq"], kernel: Float[Array, "size chan out"]
) -> Float[Array, "out batch freq"]:
    """Cross-correlation along frequency with zero padding, odd size, as one matrix product and shifts.

    Inputs are shifted where they have fewer channels, else products: the narrow side is the cheap one to copy. (XLA's
    own convolution is three times slower inside a scan on a CPU.)
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
    """Frequencies mixed by a matrix: learned pooling, or its opposite (paper section 4)."""
    return x @ matrix


def _pool_forward(x, matrix):
    return pool(x, matrix), (x, matrix)


def _pool_backward(saved, gradient):
    x, matrix = saved
    rows, columns = matrix.shape
    # the barrier has the narrow operand transposed beforehand, once; else each pass over the wide one does it
    left = x.reshape(-1, rows).T
    left = lax.optimization_barrier(left) if rows < columns else left
    return gradient @ matrix.T, left @ gradient.reshape(-1, columns)


pool_custom_backward = jax.custom_vjp(pool)
pool_custom_backward.defvjp(_pool_forward, _pool_backward)


@jax.custom_jvp
def elu(x: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
    """Exponential linear unit, alpha 1; its derivative is taken from its value, so the exponential is not repeated."""
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


@elu.defjvp
def _elu_tangent(primals, tangents):
    y = elu(*primals)
    return y, tangents[0] * (jnp.minimum(y, 0) + 1)
