"""Checkpoints of a run: Orbax folders `last` and `best`, each holding one finished step folder."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from spectral_jax.model import ModelConfig
from spectral_jax.schedule import Plateau
from spectral_jax.train import Progress, TrainConfig, TrainState, init_state


class Checkpoint(NamedTuple):
    """A restored training position: `epoch` epochs are done; the rest continues from here."""

    state: TrainState
    plateau: Plateau
    epoch: int
    validation_mm: float | None
    best_mm: float | None


def save(folder: str | Path, progress: Progress, best_mm: float | None) -> None:
    """Write the position under `folder`/EPOCH and then remove the earlier ones: one complete is always there."""
    from orbax.checkpoint import v1 as ocp

    folder = Path(folder).absolute()
    metadata = {
        "epoch": progress.epoch,
        "plateau": [None if math.isinf(x) else x for x in progress.plateau],
        "validation_mm": progress.validation_mm,
        "best_mm": best_mm,
    }
    target = folder / str(progress.epoch)
    ocp.save(str(target), _tree(jax.device_get(progress.state)), overwrite=True, custom_metadata=metadata)
    for other in folder.iterdir():
        if other != target:
            shutil.rmtree(other)


def restore(folder: str | Path, model_config: ModelConfig, train_config: TrainConfig) -> Checkpoint:
    """Read the newest finished checkpoint under `folder` as host arrays.

    Raises ValueError naming the folder when there is none, or when its arrays are not those of the model.
    """
    from orbax.checkpoint import v1 as ocp

    folder = Path(folder).absolute()
    steps = [p for p in folder.glob("*") if p.name.isdigit() and ocp.is_orbax_checkpoint(str(p))]
    if not steps:
        raise ValueError(f"{folder}: no checkpoint here")
    newest = max(steps, key=lambda p: int(p.name))
    abstract = jax.eval_shape(lambda: init_state(model_config, train_config))
    template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _tree(abstract))
    try:
        stored = ocp.metadata(str(newest))
        _check_shapes(newest, stored.metadata, template)
        tree = ocp.load(str(newest), template)
    except ValueError:
        raise
    except Exception as error:  # Orbax and tensorstore raise KeyError, FileNotFoundError, their own types ...
        raise ValueError(f"{newest}: unreadable checkpoint ({error})") from error
    state = TrainState(tree["params"], optax.ScaleByAdamState(**tree["opt_state"]), tree["step"])
    extra: Any = stored.custom_metadata
    learning_rate, best, bad_epochs = extra["plateau"]
    plateau = Plateau(learning_rate, math.inf if best is None else best, bad_epochs)
    return Checkpoint(state, plateau, extra["epoch"], extra["validation_mm"], extra["best_mm"])


def _tree(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "opt_state": state.opt_state._asdict(), "step": state.step}


def _check_shapes(path: Path, stored: Any, template: Any) -> None:
    def shapes(tree):
        return {
            jax.tree_util.keystr(k, simple=True, separator="/"): v.shape for k, v in jax.tree.leaves_with_path(tree)
        }

    found, wanted = shapes(stored), shapes(template)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path}: checkpoint of another network: {name} is {found.get(name, 'absent')} in it "
                f"and {wanted.get(name, 'absent')} in the run's configuration"
            )
