"""Checkpoints of a run: Orbax folders `last` and `best`, each holding one finished step folder."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from spectral_jax import devices
from spectral_jax.model import ModelConfig
from spectral_jax.schedule import Plateau
from spectral_jax.train import Position, TrainConfig, TrainState, init_state


def save(folder: str | Path, position: Position) -> None:
    """Write the position under `folder`/EPOCH or EPOCH.STEP, then remove the others: one complete is always there.

    Of several processes, all call this with the same position and the main one writes.
    """
    from orbax.checkpoint import v1 as ocp

    folder = Path(folder).absolute()
    metadata: Any = position._asdict() | {"plateau": [None if math.isinf(x) else x for x in position.plateau]}
    del metadata["state"]
    target = folder / (f"{position.epoch}.{position.step}" if position.step else f"{position.epoch}")
    ocp.save(str(target), _tree(jax.device_get(position.state)), overwrite=True, custom_metadata=metadata)
    for other in folder.iterdir() if devices.is_main() else ():
        if other != target:
            shutil.rmtree(other)


def restore(folder: str | Path, model_config: ModelConfig, train_config: TrainConfig) -> Position:
    """Read the newest finished checkpoint under `folder` as host arrays.

    Raises ValueError naming the folder when there is none, or when its arrays are not those of the model.
    """
    from orbax.checkpoint import v1 as ocp

    folder = Path(folder).absolute()
    found = [p for p in folder.glob("*") if re.fullmatch(r"\d+(\.\d+)?", p.name) and ocp.is_orbax_checkpoint(str(p))]
    if not found:
        raise ValueError(f"{folder}: no checkpoint here")
    newest = max(found, key=lambda p: [int(number) for number in p.name.split(".")])
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
    learning_rate, best, bad_epochs = extra.pop("plateau")
    return Position(state, Plateau(learning_rate, math.inf if best is None else best, bad_epochs), **extra)


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
