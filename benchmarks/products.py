"""Time every matrix product of a training step alone: what a step takes if all that lies between the products is free.

    python benchmarks/products.py --freq 1024 --batch 64

The products are those of the traced step, each in a program of its own, with operands that lie ready in memory. Their
sum bounds the part of the roofline that a step can reach with these products.
"""

import argparse
import collections
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from machine import announce, ceilings, save, seconds, table
from ours import num_measured, ours
from work import roofline_seconds

from spectral_jax.network import networks
from spectral_jax.network.config import ModelConfig
from spectral_jax.training.step import loss_and_gradient

ROUNDS = 9
FLOPS_IN_A_ROW = 1e9  # of one product, so that starting its program does not count
MOST_IN_A_ROW = 300


def traced_products(config: ModelConfig, batch: int) -> collections.Counter:
    """How often a step has each product: both shapes, and the dimensions that it contracts and keeps."""
    model = networks.trained_part(networks.build(config))
    params = jax.eval_shape(lambda: networks.init_params(config, jax.random.key(0)))
    rows = jax.ShapeDtypeStruct((batch, config.modes, 3), jnp.float32)
    traced = jax.make_jaxpr(lambda params, rows: loss_and_gradient(model, params, rows))(params, rows)
    found = collections.Counter()
    for product, times in _products(traced.jaxpr, 1):
        found[product] += times
    return found


def _products(jaxpr: Any, times: int) -> Iterator[tuple[tuple, int]]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            shapes = tuple(operand.aval.shape for operand in equation.invars)
            yield (*shapes, equation.params["dimension_numbers"]), times
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _products(inner, times * equation.params.get("length", 1))


def num_flops(product: tuple) -> int:
    """The flops of one product; a multiply-add counts as two."""
    left, right, ((contracted, _), _) = product
    inner = math.prod(left[axis] for axis in contracted)
    return 2 * math.prod(left) * math.prod(right) // inner


def product_seconds(product: tuple) -> float:
    """Time one product."""
    left, right, dimensions = product
    function = jax.jit(lambda a, b: lax.dot_general(a, b, dimensions))
    operands = [jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32)) for shape in (left, right)]
    times = min(MOST_IN_A_ROW, math.ceil(FLOPS_IN_A_ROW / num_flops(product)))

    def run():
        for _ in range(times - 1):
            function(*operands)
        function(*operands).block_until_ready()

    run()
    return statistics.median(seconds(run) for _ in range(ROUNDS)) / times


def measure(freq: int, batch: int) -> dict[str, Any]:
    """Milliseconds of a step, of its products alone, and of the roofline."""
    config, steps = ModelConfig(modes=freq), num_measured(batch)
    run = ours(config, np.random.default_rng(0).standard_normal((steps * batch, freq, 3), np.float32), batch)
    run()
    step = statistics.median(seconds(run) for _ in range(ROUNDS)) / steps
    every = traced_products(config, batch)
    spent = {product: times * product_seconds(product) for product, times in every.items()}
    flops = {product: times * num_flops(product) for product, times in every.items()}
    listed = [
        {"shapes": product[:2], "times": every[product], "ms": 1000 * spent[product], "gflop": flops[product] / 1e9}
        for product in sorted(spent, key=lambda product: -spent[product])
    ]
    bound = roofline_seconds(config, batch)
    figures = {"step_ms": step, "products_ms": sum(spent.values()), "roofline_ms": bound}
    cell = {"freq": freq, "batch": batch, **{name: 1000 * value for name, value in figures.items()}}
    return cell | {"products": listed, "gflop": sum(flops.values()) / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freq", type=int, nargs="+", default=[4096, 1024])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--each", action="store_true", help="also list the products")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    announce()
    columns = ("products", "step ms", "products ms", "roofline ms", "% of it", "% at most")
    row, cells = table("Products of a training step, float32", "modes", "batch", *columns), []
    for freq in options.freq:
        for batch in options.batch:
            cell = measure(freq, batch)
            step, alone, bound = (cell[f"{name}_ms"] for name in ("step", "products", "roofline"))
            count = sum(each["times"] for each in cell["products"])
            row(freq, batch, count, step, alone, bound, 100 * bound / step, 100 * bound / alone)
            cells.append(cell)
    for cell in cells if options.each else ():
        row = table(f"{cell['freq']} modes, batch {cell['batch']}", "times", "ms", "GFLOP", "GFLOP/s", "shapes")
        for each in cell["products"]:
            row(each["times"], each["ms"], each["gflop"], 1000 * each["gflop"] / each["ms"], each["shapes"])
    save(options.json, {"ceilings": ceilings(), "cells": cells})


if __name__ == "__main__":
    main()
