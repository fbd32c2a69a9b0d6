"""Compare networks on the same data and clock: the error on the test split in mm against seconds of training.

    python benchmarks/peers.py                 # the demo dataset, 60 s each
    python benchmarks/peers.py --data folder --seconds 200 --methods residual spiral

pca: principal components of the coefficients. sae-lp: by the published recipe. sae-lp-short: by the demo's. residual:
by its recipe. spiral: SpiralNet++ (Gong et al. 2019) in PyTorch. All have 16 latents. A method trains until it has
used its seconds, or until its recipe ends, and stops at the end of an epoch. The clock runs from the data in memory:
it counts fitting PCA, building the spirals and compiling the training step, from nothing for every method, and
neither reading nor validations, of which compiling the validation is a part. The train split of a prepared dataset
holds coefficients only: the spiral network sees the vertices that all modes reconstruct from them. The error is the
mean distance to the original vertices of the test split.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from machine import announce, save, seconds, table

from spectral_jax.basis import spectral
from spectral_jax.commands.train import DEMO_TRAINING
from spectral_jax.data.dataset import read_split
from spectral_jax.data.open import open_data
from spectral_jax.geometry.metrics import vertex_errors_mm
from spectral_jax.network import networks, principal
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs.evaluate import spatial_errors_mm
from spectral_jax.training import scores
from spectral_jax.training.batches import FitData
from spectral_jax.training.config import RECIPES, TrainConfig
from spectral_jax.training.loop import fit
from spectral_jax.training.step import validate

LATENTS = 16
MARKS = (10, 30, 60, 120, 300, 600)  # seconds in the table
SPIRAL_EPOCHS, SPIRAL_BATCH, SPIRAL_RATE, SPIRAL_DECAY = 300, 32, 1e-3, 0.99

Curve = Iterator[tuple[float, float]]  # seconds of training, error in mm


def pca(basis, train, test, limit: float) -> Curve:
    """One point: PCA has no iterations that a clock could interrupt."""
    start = time.perf_counter()
    fitted = principal.fit(train.coefficients, LATENTS)
    spent = time.perf_counter() - start
    found = principal.reconstruct(fitted, principal.project(fitted, test.coefficients))
    yield spent, float(np.asarray(spatial_errors_mm(basis.modes, found, test.vertices)).mean())


def ours(model: ModelConfig, recipe: TrainConfig, basis, train, test, limit: float) -> Curve:
    """Train a network of spectral_jax: a point at every return to the host that ends an epoch."""
    recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, len(train.coefficients)))
    constants, spent = None, 0.0
    data = FitData(train.coefficients, basis.modes, test.coefficients, test.vertices)
    if model.network == "residual":
        start = time.perf_counter()
        model, constants = scores.fit_constants(model, train.coefficients)
        data = scores.from_coefficients(data, constants)
        spent = time.perf_counter() - start
    network = networks.trained_part(networks.build(model))
    for update in fit(model, recipe, data, constants=constants):
        spent += sum(figures.get("epoch_time", 0.0) for figures in update.figures.values())
        if update.figures:
            errors, _ = validate(network, update.position.state.params, *data[1:], constants)
            yield spent, float(np.asarray(errors).mean(dtype=np.float64))
        if spent >= limit:
            return


def spiral(basis, train, test, limit: float) -> Curve:
    """Train SpiralNet++ in PyTorch: a point after every epoch."""
    import torch
    from spiralnet import build

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    meshes, inputs = (np.array(spectral.reconstruct(basis, x.coefficients)) for x in (train, test))
    start = time.perf_counter()
    mean, deviation = meshes.mean(axis=0), meshes.std(axis=0) + 1e-8
    network = build(mean, basis.faces, LATENTS).to(device)
    optimiser = torch.optim.Adam(network.parameters(), SPIRAL_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, SPIRAL_DECAY)
    rows = torch.from_numpy((meshes - mean) / deviation).to(device)
    inputs = torch.from_numpy((inputs - mean) / deviation).to(device)
    spent = time.perf_counter() - start

    def epoch():
        for chosen in torch.randperm(len(rows)).split(SPIRAL_BATCH):
            batch = rows[chosen]
            optimiser.zero_grad()
            torch.nn.functional.l1_loss(network(batch), batch).backward()
            optimiser.step()
        schedule.step()
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(SPIRAL_EPOCHS):
        spent += seconds(epoch)
        with torch.no_grad():
            found = torch.cat([network(batch) for batch in inputs.split(SPIRAL_BATCH)]).cpu().numpy()
        yield spent, float(np.asarray(vertex_errors_mm(jnp.asarray(found * deviation + mean), test.vertices)).mean())
        if spent >= limit:
            return


def error_at(curve: list[tuple[float, float]], mark: float, limit: float) -> float | None:
    """The last error measured by then; None before the first and beyond the limit."""
    return next((error for spent, error in reversed(curve) if spent <= mark), None) if mark <= limit else None


def main() -> None:
    methods = {"pca": pca, "sae-lp": ours, "sae-lp-short": ours, "residual": ours, "spiral": spiral}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="a dataset, or the word demo")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--methods", nargs="+", choices=list(methods), default=list(methods))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if "spiral" in options.methods:
        try:
            import torch  # noqa: F401
        except ModuleNotFoundError:
            parser.error("the method spiral needs PyTorch (torch); leave it out with --methods")
    data = open_data(options.data)
    modes = min(ModelConfig.modes, data.basis.num_modes)
    recipes = {
        "sae-lp": ("sae-lp", RECIPES["sae-lp"]),
        "sae-lp-short": ("sae-lp", TrainConfig(**vars(DEMO_TRAINING))),
        "residual": ("residual", RECIPES["residual"]),
    }
    announce()
    marks = [mark for mark in MARKS if mark <= options.seconds]
    title = f"Error on the test split, mm, of {options.data}, {len(data.splits['train'])} train meshes"
    row = table(title, f"{'method':>12}", *(f"{mark} s" for mark in marks), "final", "seconds")
    train, test = (read_split(data, name) for name in ("train", "test"))
    limited = [split._replace(coefficients=split.coefficients[:, :modes]) for split in (train, test)]
    curves = {}
    for name in options.methods:
        if name in recipes:
            network, recipe = recipes[name]
            model = ModelConfig(modes, LATENTS, network=network)
            points = ours(model, recipe, spectral.truncate(data.basis, modes), *limited, options.seconds)
        else:
            points = methods[name](data.basis, train, test, options.seconds)
        curves[name] = list(points)
        spent, error = curves[name][-1]
        row(name, *(error_at(curves[name], mark, options.seconds) for mark in marks), error, spent)
    save(options.json, {"data": options.data, "seconds": options.seconds, "curves_s_mm": curves})


if __name__ == "__main__":
    main()
