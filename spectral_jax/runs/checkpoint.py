"""Checkpoints of a run: the folders `last` and `best`, each with one Orbax checkpoint in a folder EPOCH or EPOCH.STEP.

A checkpoint holds a `TrainingProgress`, everything needed to resume training:

    arrays    params             the network's parameters
              opt_state          count, mu and nu of Adam (optax.ScaleByAdamState)
              step               number of steps taken
    metadata  epoch, step        finished epochs, and steps taken in the next one
              plateau            learning rate, best error (null: none yet) and bad epochs of the plateau rule
              validation_mm      error of the latest validation that the rule has seen, mm, or null
              best_mm            lowest validation error, mm, or null
              sums               totals of the unfinished epoch (`EpochMetrics`)

Options are in the run's config.json. The order of the meshes follows from the seed and the epoch.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from spectral_jax.network.config import ModelConfig
from spectral_jax.training import devices
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.schedule import Plateau
from spectral_jax.training.state import EpochMetrics, TrainingProgress, TrainState, init_state


def save(folder: str | Path, position: TrainingProgress) -> None:
    """Write a checkpoint, then remove the older ones: a complete one exists at any time.

    A checkpoint of the same position is kept. Raises OSError naming the folder when it cannot be written. Of several
    processes, all call this with the same position and the main one writes.
    """
    from orbax.checkpoint import v1 as ocp

    folder = Path(folder).absolute()
    metadata: dict[str, Any] = {
        "plateau": [None if math.isinf(value) else value for value in position.plateau],
        "epoch": position.epoch,
        "validation_mm": position.validation_mm,
        "best_mm": position.best_mm,
        "step": position.step,
        "sums": [value.item() for value in position.sums],
    }
    target = folder / (f"{position.epoch}.{position.step}" if position.step else f"{position.epoch}")
    if not ocp.is_orbax_checkpoint(str(target)):
        tree = _tree(jax.device_get(position.state))
        _check_room(target, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
        try:
            ocp.save(str(target), tree, overwrite=True, custom_metadata=metadata)
        except Exception as error:  # Orbax and tensorstore raise ValueError, OSError, their own types ...
            raise OSError(f"{target}: not written ({error})") from error
    for other in folder.iterdir() if devices.is_main() else ():
        if other != target:
            shutil.rmtree(other)


def find(folder: str | Path) -> Path | None:
    """The newest complete checkpoint under `folder`, if any."""
    from orbax.checkpoint import v1 as ocp

    steps = [p for p in Path(folder).absolute().glob("*") if re.fullmatch(r"\d+(\.\d+)?", p.name)]
    finished = [p for p in steps if ocp.is_orbax_checkpoint(str(p))]
    return max(finished, key=lambda p: [int(number) for number in p.name.split(".")], default=None)


def restore(folder: str | Path, model_config: ModelConfig, train_config: TrainConfig) -> TrainingProgress:
    """Read the newest complete checkpoint under `folder` as host arrays.

    Raises ValueError naming the folder when there is none, or when its arrays are not those of the network.
    """
    from orbax.checkpoint import v1 as ocp

    newest = find(folder)
    if newest is None:
        raise ValueError(f"{folder}: no checkpoint here")
    abstract = jax.eval_shape(lambda: init_state(model_config, train_config))
    template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _tree(abstract))
    try:
        stored = ocp.metadata(str(newest))
        _check_shapes(newest, stored.metadata, template)
        tree = ocp.load(str(newest), template)
        state = TrainState(tree["params"], optax.ScaleByAdamState(**tree["opt_state"]), tree["step"])
        extra: Any = stored.custom_metadata
        learning_rate, best, bad_epochs = extra["plateau"]
        plateau = Plateau(learning_rate, math.inf if best is None else best, bad_epochs)
        zeros = EpochMetrics()  # absent from early checkpoints
        sums = EpochMetrics(*(type(zero)(x) for zero, x in zip(zeros, extra.get("sums", zeros), strict=True)))
        return TrainingProgress(
            state, plateau, extra["epoch"], extra["validation_mm"], extra["best_mm"], extra.get("step", 0), sums
        )
    except ValueError:
        raise
    except Exception as error:  # Orbax and tensorstore raise KeyError, FileNotFoundError, their own types ...
        raise ValueError(f"{newest}: unreadable checkpoint ({error})") from error


def _check_room(target: Path, size: int) -> None:
    """Raise OSError naming the target when `size` bytes do not fit. Orbax's threads would each print an error."""
    if not devices.is_main():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not hasattr(os, "posix_fallocate"):  # macOS and Windows: quotas go unnoticed
        if shutil.disk_usage(target.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return
    try:
        with tempfile.TemporaryFile(dir=target.parent) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # the file system cannot reserve space
            raise OSError(error.errno, error.strerror, str(target)) from error


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
