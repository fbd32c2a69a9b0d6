"""The table between our parameters and those of the published PyTorch network: names and order of axes."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float

from spectral_jax.files import options
from spectral_jax.network.autoencoder import init_params
from spectral_jax.network.config import MOST_LAYERS, ModelConfig

UNTOLD = ("activation", "pooling")  # options that weights do not determine


class Weight(NamedTuple):
    """A parameter under both names; the permutation `axes` is its own inverse and turns either array into the other."""

    path: tuple[str, ...]
    name: str
    axes: tuple[int, ...]


def _layer(ours: str, theirs: str, *axes: int) -> tuple[Weight, Weight]:
    return Weight((ours, "kernel"), f"{theirs}.weight", axes), Weight((ours, "bias"), f"{theirs}.bias", (0,))


@functools.cache
def table(layers: int) -> tuple[Weight, ...]:
    """The parameters of a network whose encoder has so many layers.

    They are in the published order, which is also the order of Adam's state.
    """
    every = range(layers)
    return (
        *(weight for i in every for weight in _layer(f"encoder_conv_{i}", f"encoder_features.{2 * i}", 2, 1, 0)),
        *_layer("encoder_linear", "encoder_linear.0", 1, 0),
        *_layer("decoder_linear", "decoder_linear.0", 1, 0),
        *(weight for i in every for weight in _layer(f"decoder_conv_{i}", f"decoder_features.{2 * i}", 2, 1, 0)),
        *_layer("last_conv", "last_conv", 2, 1, 0),
        *(Weight((f"downsampling_{i}",), f"downsampling_mats.{i}", (0, 1)) for i in every),
        *(Weight((f"upsampling_{i}",), f"upsampling_mats.{i}", (0, 1)) for i in every),
    )


TABLE = table(len(ModelConfig.channels))  # of the published network


def num_layers(names: Iterable[Any]) -> int:
    """The layers of the smallest encoder whose network has all these names, but for names that no network has."""
    known = {name for name in names if isinstance(name, str)} & {weight.name for weight in table(MOST_LAYERS)}
    if not known:
        return len(ModelConfig.channels)
    return next(n for n in range(1, MOST_LAYERS + 1) if known <= {weight.name for weight in table(n)})


@functools.cache
def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a published state dict, by name."""
    ours: Any = flatten_dict(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))
    return {name: tuple(ours[path].shape[axis] for axis in axes) for path, name, axes in table(len(config.channels))}


def _check(state_dict: Mapping[str, Any], config: ModelConfig) -> None:
    """Raise one ValueError that lists every missing, unexpected and wrongly shaped array."""
    found, wanted = {name: getattr(value, "shape", None) for name, value in state_dict.items()}, _shapes(config)
    offenders = [f"{name} {wanted[name]} is missing" for name in wanted if name not in found]
    offenders += [f"{str(name)[:80]} {found[name]} is unexpected" for name in found if name not in wanted]
    offenders += [
        f"{name} is {found[name]}, not {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    offenders += [
        f"{name} is {value.dtype}, not floats"
        for name, value in state_dict.items()
        if name in wanted and found[name] == wanted[name] and not jax.numpy.issubdtype(value.dtype, jax.numpy.floating)
    ]
    if offenders:
        raise ValueError("not the weights of this network: " + "; ".join(offenders))


def infer_config(state_dict: Mapping[str, Any], known: Collection[str] = ()) -> tuple[ModelConfig, list[str]]:
    """Infer the options of the network of a published state dict, and tell in lines what was inferred or assumed.

    Options that are `known` from elsewhere are not told as assumed. Raises ValueError listing all arrays that are
    missing, unexpected or of the wrong shape.
    """

    def size(name: str, axis: int, ndim: int, default: int) -> int:
        shape = getattr(state_dict.get(name), "shape", ())
        return shape[axis] if len(shape) == ndim else default

    def published(name: str, layer: int) -> int:
        values = getattr(ModelConfig, name)
        return values[layer] if layer < len(values) else values[-1]

    # A length or a number of channels is in the shapes of two arrays, of which one may be missing.
    layers = range(num_layers(state_dict))
    lengths = [size(f"downsampling_mats.{i + 1}", 0, 2, published("pooled", i)) for i in layers]
    channels = [size(f"encoder_features.{2 * i}.bias", 0, 1, published("channels", i)) for i in layers]
    sizes = {
        "modes": size("downsampling_mats.0", 0, 2, ModelConfig.modes),
        "latent_size": size("encoder_linear.0.weight", 0, 2, ModelConfig.latent_size),
        "conv_size": size("encoder_features.0.weight", 2, 3, ModelConfig.conv_size),
        "pooled": [size(f"downsampling_mats.{i}", 1, 2, lengths[i]) for i in layers],
        "channels": [size(f"encoder_features.{2 * i}.weight", 0, 3, channels[i]) for i in layers],
    }
    config = options.fill(ModelConfig(), sizes)
    _check(state_dict, config)
    found = f"{config.modes} modes, latent size {config.latent_size}, conv size {config.conv_size}"
    shape = {name: getattr(config, name) for name in ("pooled", "channels")}
    published_shape = all(value == getattr(ModelConfig, name) for name, value in shape.items())
    if not published_shape:
        found += "".join(f", {name} {' '.join(map(str, values))}" for name, values in shape.items())
    # Nothing is said of the pooling of the published shape: the published program pools in one place.
    assumed = [name for name in UNTOLD if name not in known and not (name == "pooling" and published_shape)]
    lines = [f"{name} {getattr(config, name)}: assumed, as weights do not determine it" for name in assumed]
    return config, [f"{found}: from the weights", *lines]


def params_from_state_dict(state_dict: Mapping[str, Any], config: ModelConfig) -> dict:
    """Our parameters, float32 on the host, from a published state dict. Raises ValueError as `infer_config` does."""
    _check(state_dict, config)
    arrays = {w.path: np.asarray(state_dict[w.name]).transpose(w.axes) for w in table(len(config.channels))}
    return unflatten_dict({path: np.array(array, np.float32, order="C") for path, array in arrays.items()})


def state_dict_from_params(params: Mapping[str, Any]) -> OrderedDict[str, Float[np.ndarray, "..."]]:
    """The published state dict, in its order, from our parameters. Raises ValueError as `infer_config` does."""
    ours = {path: np.asarray(value) for path, value in flatten_dict(dict(params)).items()}
    state_dict = OrderedDict()
    for path, name, axes in table(MOST_LAYERS):
        if path in ours:
            array = ours.pop(path)
            state_dict[name] = np.array(array.transpose(axes) if array.ndim == len(axes) else array, order="C")
    state_dict.update(("/".join(path), array) for path, array in ours.items())
    infer_config(state_dict)
    return state_dict
