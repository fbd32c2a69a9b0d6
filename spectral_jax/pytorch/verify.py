"""Compare the JAX network with the PyTorch reference on the same meshes: layers, results, gradients."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spectral_jax.geometry.metrics import vertex_errors_mm
from spectral_jax.network.autoencoder import SpectralAutoencoder
from spectral_jax.network.config import ModelConfig
from spectral_jax.pytorch.state_dict import num_layers, state_dict_from_params, table
from spectral_jax.training.step import loss_and_gradient

Values = dict[str, Any]  # arrays to compare, by quantity; the largest difference of the list counts

COEFFICIENTS = "coefficients"
VERTICES = "vertices"
ERROR_MM = "error in mm"
LOSS = "loss"
# Tolerances of the largest difference over the largest magnitude.
FLOAT32 = 2e-5
FLOAT32_GRADIENT = 1e-4  # PyTorch's float32 gradients differ by 5e-5 from its float64 ones
FLOAT64 = 1e-10
FLOAT32_MM = 1e-3  # tolerance of errors in mm, absolute


def layers(count: int) -> dict[str, str]:
    """By quantity: the module whose input is the output of that layer, including activation and pooling."""
    last = count - 1
    return {
        **{f"encoder layer {i}": f"encoder_conv_{i + 1}" for i in range(last)},
        f"encoder layer {last}": "encoder_linear",
        "latents": "decoder_linear",
        "decoder linear": "decoder_conv_0",
        **{f"decoder layer {i}": f"decoder_conv_{i + 1}" for i in range(last)},
        f"decoder layer {last}": "last_conv",
    }


class Row(NamedTuple):
    """One comparison. Values that are not finite never pass.

    Attributes:
      quantity: what is compared.
      dtype: in which precision.
      max_abs: largest absolute difference.
      max_rel: largest difference over the largest magnitude of the reference.
      tolerance: limit of `max_rel`, or of `max_abs` if `absolute`.
      passed: whether the difference is within the tolerance.
      absolute: whether the tolerance is absolute.
    """

    quantity: str
    dtype: str
    max_abs: float
    max_rel: float
    tolerance: float
    passed: bool
    absolute: bool = False


def verify(
    model_config: ModelConfig,
    state_dict: Mapping[str, Any],
    params: Any,
    coefficients: Float[np.ndarray, "batch freq 3"],
    modes: Float[np.ndarray, "vertex freq"] | None = None,
    vertices: Float[np.ndarray, "batch vertex 3"] | None = None,
) -> list[Row]:
    """Compare JAX with `params` to PyTorch with the published `state_dict`, in float32 and float64.

    Vertices and their error need `modes`; without `vertices`, the originals are reconstructed from the coefficients.
    Raises ImportError without torch.
    """
    rows, vertices = [], originals_of(coefficients, modes, vertices)
    for dtype in ("float32", "float64"):
        expected = _torch_values(model_config, state_dict, coefficients, modes, vertices, dtype)
        found = jax_values(model_config, params, coefficients, modes, vertices, dtype)
        rows += compare(found, expected, dtype)
    return rows


def verify_precision(
    model_config: ModelConfig,
    params: Any,
    coefficients: Float[np.ndarray, "batch freq 3"],
    modes: Float[np.ndarray, "vertex freq"] | None = None,
    vertices: Float[np.ndarray, "batch vertex 3"] | None = None,
) -> list[Row]:
    """The comparison that needs no torch: JAX in float32 with JAX in float64, in the rows of `verify`."""
    vertices = originals_of(coefficients, modes, vertices)
    found, expected = (
        jax_values(model_config, params, coefficients, modes, vertices, dtype) for dtype in ("float32", "float64")
    )
    return compare(found, expected, "float32/64")


def verify_parameters(state_dict: Mapping[str, Any], params: Any) -> Row:
    """Compare parameters with a published state dict: they pass if equal bit for bit in float32."""
    ours = state_dict_from_params(params)
    theirs = {name: np.asarray(value, np.float32) for name, value in state_dict.items()}
    same = ours.keys() == theirs.keys() and all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    shared = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    differences = [difference_of(ours[name], theirs[name]) for name in shared]
    return row_of("parameters", "float32", differences, 0.0, absolute=True)._replace(passed=same)


def random_coefficients(model_config: ModelConfig, count: int) -> Float[np.ndarray, "mesh freq 3"]:
    """Random coefficients in metres that decrease with frequency like those of a body."""
    falling = 10 / np.arange(1, model_config.modes + 1)[:, None]
    noise = np.random.default_rng(0).standard_normal((count, model_config.modes, 3))
    return (falling * noise).astype(np.float32)


def random_modes(model_config: ModelConfig) -> Float[np.ndarray, "vertex freq"]:
    """Random columns of about unit length, as a substitute for a basis when products are compared."""
    noise = np.random.default_rng(0).standard_normal((1000, model_config.modes))
    return (noise / np.sqrt(1000)).astype(np.float32)


def originals_of(coefficients, modes, vertices):
    """The vertices to measure errors against: the given ones, else those of the coefficients."""
    return modes @ coefficients if vertices is None and modes is not None else vertices


def jax_values(config: ModelConfig, params: Any, coefficients, modes, vertices, dtype: str) -> Values:
    """The values of the JAX network, layers with PyTorch's axes."""
    model = SpectralAutoencoder(config)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time
    def everything(params, coefficients, modes, vertices):
        seen, results = {}, {}

        def remember(method, args, kwargs, context):
            if context.method_name == "__call__":
                seen[context.module.name] = args[0].transpose(1, 0, 2) if args[0].ndim == 3 else args[0]
            return method(*args, **kwargs)

        with nn.intercept_methods(remember):
            latents = model.apply({"params": params}, coefficients, method="encode")
            results[COEFFICIENTS] = model.apply({"params": params}, latents, method="decode")
        if modes is not None:
            results[VERTICES] = jnp.einsum("vf,bfc->bvc", modes, results[COEFFICIENTS])
            results[ERROR_MM] = vertex_errors_mm(results[VERTICES], vertices).mean(axis=-1)
        results[LOSS], gradient = loss_and_gradient(model, params, coefficients)
        return seen, results, gradient

    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, coefficients, modes, vertices))
        seen, results, gradient = jax.device_get(everything(*cast))
    return gather(seen, results, state_dict_from_params(gradient))


def _torch_values(config: ModelConfig, state_dict, coefficients, modes, vertices, dtype: str) -> Values:
    """The values of the PyTorch network."""
    import torch

    from spectral_jax.pytorch.reference import TorchSpectralAutoencoder

    kind = getattr(torch, dtype)
    module = TorchSpectralAutoencoder(config)
    module.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in state_dict.items()})
    module, inputs = module.to(kind), torch.tensor(coefficients, dtype=kind)
    seen: dict[str, Any] = {}
    for weight in table(len(config.channels)):
        if weight.name.endswith(".weight"):
            layer = module.get_submodule(weight.name.removesuffix(".weight"))
            layer.register_forward_pre_hook(functools.partial(_keep, seen, weight.path[0]))
    decoded = module(inputs)
    results = {COEFFICIENTS: decoded, LOSS: torch.mean((decoded - inputs) ** 2)}
    results[LOSS].backward()
    if modes is not None:
        results[VERTICES] = torch.tensor(modes, dtype=kind) @ decoded
        offsets = results[VERTICES] - torch.tensor(vertices, dtype=kind)
        results[ERROR_MM] = 1000 * torch.linalg.norm(offsets, dim=-1).mean(dim=-1)
    seen, results = ({name: x.detach().numpy() for name, x in tensors.items()} for tensors in (seen, results))
    gradients: dict[str, Any] = {name: parameter.grad for name, parameter in module.named_parameters()}
    return gather(seen, results, {name: gradient.numpy() for name, gradient in gradients.items()})


def _keep(seen: dict[str, Any], name: str, _: Any, arguments: tuple) -> None:
    """A PyTorch hook that keeps the input of a layer."""
    seen[name] = arguments[0]


def gather(seen: Mapping[str, Any], results: Mapping[str, Any], gradient: Mapping[str, Any]) -> Values:
    """Collect inputs by layer, results by quantity and gradients by published name, in the order of the rows."""
    count = num_layers(gradient)
    values = {quantity: [seen[layer]] for quantity, layer in layers(count).items()}
    values |= {name: [results[name]] for name in (COEFFICIENTS, VERTICES, ERROR_MM, LOSS) if name in results}
    for weight in table(count):
        values.setdefault(f"gradient, {weight.path[0].rstrip('_0123456789')}", []).append(gradient[weight.name])
    return values


def compare(found: Values, expected: Values, dtype: str) -> list[Row]:
    """One row for each quantity."""
    rows = []
    for quantity, references in expected.items():
        differences = [difference_of(*pair) for pair in zip(found[quantity], references, strict=True)]
        tolerance = FLOAT32_GRADIENT if quantity.startswith("gradient") else FLOAT32
        absolute = quantity == ERROR_MM and dtype != "float64"
        tolerance = FLOAT64 if dtype == "float64" else FLOAT32_MM if absolute else tolerance
        rows.append(row_of(quantity, dtype, differences, tolerance, absolute))
    return rows


def difference_of(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The largest absolute difference, and the largest magnitude of the expected values."""
    if np.shape(found) != np.shape(expected):
        return np.nan, np.nan
    return np.abs(np.float64(found) - np.float64(expected)).max(), np.abs(np.float64(expected)).max()


def row_of(
    quantity: str, dtype: str, differences: list[tuple[float, float]], tolerance: float, absolute: bool = False
) -> Row:
    """The row for the worst of the differences."""
    max_abs = np.max([difference for difference, _ in differences])
    max_rel = np.max([difference / scale if scale else difference for difference, scale in differences])
    passed = (max_abs if absolute else max_rel) <= tolerance
    return Row(quantity, dtype, float(max_abs), float(max_rel), tolerance, bool(passed), absolute)
