"""Count the least work in a training step from the shapes: flops, bytes, and the time they need on this machine.

python benchmarks/work.py   # prints a table of sizes
"""

import itertools
from typing import NamedTuple

from machine import announce, ceilings, table

from spectral_jax.network.autoencoder import COORDINATES
from spectral_jax.network.config import ModelConfig


class Layer(NamedTuple):
    """An operation of the network: numbers read and written and forward flops for one mesh, and its parameters."""

    reads: int
    writes: int
    parameters: int
    flops: int
    activated: bool = False


def layers(config: ModelConfig) -> list[Layer]:
    """Return convolutions (with bias and activation), pooling products and linear layers in network order."""

    def convolution(before: int, after: int, length: int, activated: bool = True) -> Layer:
        weights = config.conv_size * before * after
        return Layer(before * length, after * length, weights + after, 2 * weights * length, activated)

    def pooling(channels: int, before: int, after: int) -> Layer:
        return Layer(channels * before, channels * after, before * after, 2 * channels * before * after)

    def linear(before: int, after: int) -> Layer:
        return Layer(before, after, before * after + after, 2 * before * after)

    down, flat = list(itertools.pairwise(config.lengths)), config.channels[-1] * config.pooled[-1]
    result = []
    for (before, after), (long, short) in zip(itertools.pairwise((COORDINATES, *config.channels)), down, strict=True):
        result += [convolution(before, after, long), pooling(after, long, short)]
    result += [linear(flat, config.latent_size), linear(config.latent_size, flat)]
    decoder = itertools.pairwise((config.channels[-1], *config.decoder_channels))
    for (before, after), (long, short) in zip(decoder, reversed(down), strict=True):
        result += [pooling(before, short, long), convolution(before, after, long)]
    return [*result, convolution(config.channels[0], COORDINATES, config.modes, activated=False)]


def num_parameters(config: ModelConfig) -> int:
    """Count the parameters of the network."""
    return sum(layer.parameters for layer in layers(config))


def forward_flops(config: ModelConfig) -> int:
    """Count the flops of the products for one mesh through the network; a multiply-add counts as two."""
    return sum(layer.flops for layer in layers(config))


def step_flops(config: ModelConfig, batch: int) -> int:
    """Count the flops of a training step: each product forwards and for both gradients, except that of the input."""
    return batch * (3 * forward_flops(config) - layers(config)[0].flops)


def step_bytes(config: ModelConfig, batch: int, itemsize: int = 4) -> int:
    """Count the least traffic of a step, in bytes, if no operation leaves data on the chip for the next one.

    Every operation reads its operands once and writes its result once. Backwards it reads the gradient of the result,
    the operand, and the result too if the slope of the activation follows from it; it writes the gradient of the
    operand, except in the first layer. Parameters are read forwards and backwards and their gradient is written. Adam
    makes 7 passes: it reads parameters, gradient and both moments, and writes all but the gradient. `itemsize` is the
    number of bytes of an activation.
    """
    every = layers(config)
    forwards = sum(layer.reads + layer.writes for layer in every)
    backwards = sum(2 * layer.reads + layer.writes * (2 if layer.activated else 1) for layer in every) - every[0].reads
    loss = 3 * every[-1].writes  # prediction and target in, gradient out
    parameters = num_parameters(config) * (2 * itemsize + (1 + 7) * 4)
    return batch * itemsize * (forwards + backwards + loss) + parameters


def activation_bytes(precision: str) -> int:
    """Return the bytes of an activation."""
    return 2 if precision == "bf16" else 4


def roofline_seconds(config: ModelConfig, batch: int, precision: str = "default") -> float:
    """Return the least seconds of a step: its flops or its bytes at the rates that this machine reaches."""
    rates, moved = ceilings(precision), step_bytes(config, batch, activation_bytes(precision))
    return max(step_flops(config, batch) / rates["flops"], moved / rates["bytes"])


def main() -> None:
    announce()
    print(
        f"{num_parameters(ModelConfig()):,} parameters, {forward_flops(ModelConfig()) / 1e6:.1f} MFLOP forward per mesh"
    )
    row = table("Training step, float32", "modes", "batch", "GFLOP", "MB", "roofline ms")
    for freq in (1024, 4096):
        for batch in (16, 64, 128, 512, 1024):
            config = ModelConfig(modes=freq)
            figures = step_flops(config, batch) / 1e9, step_bytes(config, batch) / 1e6
            row(freq, batch, *figures, 1000 * roofline_seconds(config, batch))


if __name__ == "__main__":
    main()
