"""Compare the JAX network with the published PyTorch code itself, which runs from a clone in a process of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from spectral_jax.files import safe_files
from spectral_jax.files.progress import SILENT, Progress, track
from spectral_jax.network.autoencoder import SpectralAutoencoder
from spectral_jax.network.config import ModelConfig
from spectral_jax.pytorch.infos import MODEL_OPTIONS
from spectral_jax.pytorch.state_dict import num_layers, state_dict_from_params, table
from spectral_jax.pytorch.verify import Row, Values, compare, difference_of, gather, jax_values, originals_of, row_of
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.schedule import Plateau, step_plateau
from spectral_jax.training.state import TrainState
from spectral_jax.training.step import train_step, validate

REPOSITORY = "https://github.com/MEPP-team/SAE"
NETWORK = "models/LearnedPooling.py"
PROGRAM = Path(__file__).with_name("published_program.py")
ANSWER_BYTES = 1 << 34
THERE = "the published code"
DTYPES = ("float32", "float64")
RATES = 1e-12  # tolerance of the learning rates, which are float64 in both
# Tolerances of what training changes: in float32, Adam's division by the size of a gradient magnifies its rounding.
TRAINED = {"float32": 1e-3, "float64": 1e-8}

_step = jax.jit(train_step, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


class Published(NamedTuple):
    """A clone of the published repository, and what runs it.

    Attributes:
      checkout: folder of the clone.
      python: path of the interpreter.
      versions: what the interpreter runs the code with, in words.
    """

    checkout: Path
    python: str
    versions: str


def find(checkout: Path, python: str) -> Published:
    """Import the published code in the interpreter `python`.

    Raises ValueError when the folder is no clone, or when the code does not run there: what is not installed is named.
    """
    if not (checkout / NETWORK).is_file():
        raise ValueError(f"{checkout}: no {NETWORK} in it, expected a clone of {REPOSITORY}")
    if (program := shutil.which(python)) is None:
        raise ValueError(f"{python}: no such Python interpreter")
    there = Published(checkout.absolute(), program, "")
    return there._replace(versions="".join(_run(there)).strip())


def verify_published(
    published: Published,
    model_config: ModelConfig,
    train_config: TrainConfig,
    state_dict: Mapping[str, Any],
    params: Any,
    coefficients: Float[np.ndarray, "batch freq 3"],
    modes: Float[np.ndarray, "vertex freq"],
    vertices: Float[np.ndarray, "batch vertex 3"] | None = None,
    steps: int = 0,
    progress: Progress = SILENT,
) -> list[Row]:
    """Compare JAX with `params` to the published code with `state_dict`, in the rows of `verify`.

    Then both train for so many steps on the meshes in their order, with a fresh Adam, by the published recipe; batch
    size, learning rate and interval of validations are those of `train_config`. Without `vertices`, the originals are
    reconstructed from the coefficients. Raises ValueError when the published code fails.
    """
    vertices = np.asarray(originals_of(coefficients, modes, vertices))
    meshes, rows = (coefficients, modes, vertices), []
    theirs = _theirs(published, model_config, train_config, state_dict, meshes, steps, progress)
    for dtype in DTYPES:
        expected, trained = theirs[dtype]
        rows += compare(jax_values(model_config, params, *meshes, dtype), expected, dtype)
        if steps:
            found = train(model_config, train_config, params, *meshes, steps, dtype, progress)
            rows += _compare_trained(found, trained, dtype)
    return rows


def train(
    model_config: ModelConfig,
    train_config: TrainConfig,
    params: Any,
    coefficients: Float[np.ndarray, "batch freq 3"],
    modes: Float[np.ndarray, "vertex freq"],
    vertices: Float[np.ndarray, "batch vertex 3"],
    steps: int,
    dtype: str,
    progress: Progress = SILENT,
) -> Values:
    """Train here as `published_program.py` trains there; return the same arrays by quantity.

    They are the loss and the learning rate of each step, the error of each validation in mm if there was one, and the
    parameters and decoded coefficients at the end.
    """
    model, size = SpectralAutoencoder(model_config), train_config.batch_size
    losses, rates, validations, plateau = [], [], [], Plateau(train_config.learning_rate)
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        params, coefficients, modes, vertices = jax.tree.map(
            lambda x: jnp.asarray(x, dtype), (params, coefficients, modes, vertices)
        )
        zeros = jax.jit(optax.tree.zeros_like)(params)
        start = jnp.zeros((), jnp.int32)
        state = TrainState(params, optax.ScaleByAdamState(start, zeros, zeros), start)
        batches = [coefficients[i : i + size] for i in range(0, len(coefficients), size)]
        for step in track(range(steps), progress, f"training here, {dtype}"):
            state, loss, _ = _step(model, state, batches[step % len(batches)], plateau.learning_rate)
            losses.append(float(loss))
            rates.append(plateau.learning_rate)
            epoch, left = divmod(step + 1, len(batches))
            if left == 0:
                if epoch % train_config.validate_every == 0:
                    errors_mm, _ = validate(model, state.params, modes, coefficients, vertices)
                    validations.append(float(errors_mm.mean()))
                plateau = step_plateau(plateau, validations[-1] if validations else None)
        decoded = jax.device_get(jax.jit(model.apply)({"params": state.params}, coefficients))
    figures = {"losses": losses, "rates": rates, "validations": validations, "trained coefficients": decoded}
    figures = {name: np.asarray(values) for name, values in figures.items()}
    return _trained(figures, state_dict_from_params(jax.device_get(state.params)))


def _trained(found: Mapping[str, Any], parameters: Mapping[str, Any]) -> Values:
    """What training gave, by quantity, in the order of the rows."""
    values = {f"training, {name}": [found[name]] for name in ("losses", "rates", "validations") if len(found[name])}
    together = np.concatenate([np.ravel(parameters[name]) for name in sorted(parameters)])
    return values | {"training, parameters": [together], "training, coefficients": [found["trained coefficients"]]}


def _compare_trained(found: Values, expected: Values, dtype: str) -> list[Row]:
    """One row for each quantity."""
    rows = []
    for quantity, (reference,) in expected.items():
        tolerance = RATES if quantity == "training, rates" else TRAINED[dtype]
        rows.append(row_of(quantity, dtype, [difference_of(found[quantity][0], reference)], tolerance))
    return rows


def _theirs(
    published: Published, model_config: ModelConfig, train_config: TrainConfig, state_dict, meshes, steps, progress
) -> dict[str, tuple[Values, Values]]:
    """The values of the published code by precision, and those of its training if any."""
    weights = [weight for weight in table(num_layers(state_dict)) if weight.name.endswith(".weight")]
    layers = {weight.name.removesuffix(".weight"): weight.path[0] for weight in weights}
    options = {theirs: getattr(model_config, ours) for theirs, ours in MODEL_OPTIONS.items()}
    task = {
        "options": options | {"learning_rate": train_config.learning_rate},
        "layers": list(layers),
        "weights": list(state_dict),
        "steps": steps,
        "batch_size": train_config.batch_size,
        "validate_every": train_config.validate_every,
    }
    arrays = dict(zip(("coefficients", "modes", "vertices"), meshes, strict=True))
    arrays |= {f"weights/{name}": np.asarray(value) for name, value in state_dict.items()}
    values, total = {}, len(DTYPES) * (1 + steps)
    with tempfile.TemporaryDirectory() as folder:
        given, answered = Path(folder) / "task.npz", Path(folder) / "answer.npz"
        np.savez(given, allow_pickle=False, task=np.array(json.dumps(task)), **arrays)
        progress.update(THERE, 0, total)
        for done, _ in enumerate(_run(published, given, answered), start=1):
            progress.update(THERE, done, total)
        with safe_files.open_npz(answered, ANSWER_BYTES) as answer:
            for dtype in DTYPES:
                found = {name.removeprefix(f"{dtype}/"): answer[name] for name in answer if name.startswith(dtype)}
                seen = {ours: found[f"seen/{name}"] for name, ours in layers.items()}
                gradient, trained = (_named(found, prefix) for prefix in ("gradient/", "trained/"))
                values[dtype] = gather(seen, found, gradient), _trained(found, trained) if steps else {}
    return values


def _named(found: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in found.items() if name.startswith(prefix)}


def _run(published: Published, *files: Path) -> Iterator[str]:
    """Run the program on the files and yield its lines. Raises ValueError that tells what is missing or went wrong."""
    command = [published.python, "-B", str(PROGRAM), str(published.checkout), *map(str, files)]
    text: Any = {"encoding": "utf-8", "errors": "replace"}
    pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    with tempfile.TemporaryFile("w+", **text) as errors:
        with subprocess.Popen(command, **pipes, stderr=errors, **text) as process:
            try:
                yield from process.stdout or ()
            except BaseException:
                process.kill()
                raise
        errors.seek(0)
        said = [line.strip() for line in errors.read().splitlines() if line.strip()]
    if process.returncode == 0 and all(file.is_file() for file in files):
        return
    last = said[-1] if said else f"exit code {process.returncode}"
    missing = re.search(r"No module named '(\w+)", last)
    if missing and not (published.checkout / missing[1]).exists():
        package = missing[1].replace("_", "-")
        raise ValueError(
            f"{published.python} has no {package}, which the published code needs: "
            f"{published.python} -m pip install {package}"
        )
    raise ValueError(f"{published.checkout}: the published code failed in {published.python}: {last}")
