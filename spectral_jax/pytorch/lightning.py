"""Convert checkpoints of PyTorch Lightning to run folders and back, with the whole training state."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import atomic, options, torch_file
from spectral_jax.network.config import ModelConfig
from spectral_jax.pytorch.counters import loops
from spectral_jax.pytorch.infos import (
    MODEL_OPTIONS,
    config_from_infos,
    infos_from_config,
    other_than_published,
    read_infos,
)
from spectral_jax.pytorch.state_dict import (
    infer_config,
    num_layers,
    params_from_state_dict,
    state_dict_from_params,
    table,
)
from spectral_jax.pytorch.weights import as_dict, find_weights
from spectral_jax.runs import checkpoint, run
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.schedule import EPS, FACTOR, PATIENCE, THRESHOLD, Plateau
from spectral_jax.training.state import TrainingProgress, TrainState

# Training state: the checkpoints of PyTorch Lightning 1.6.

BETAS = (0.9, TrainConfig.beta2)
ADAM = {"eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
ADAM_SWITCHES = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
REDUCE_ON_PLATEAU = {
    "factor": FACTOR, "default_min_lr": 0, "min_lrs": [0], "patience": PATIENCE, "cooldown": 0, "eps": EPS,
    "mode_worse": math.inf, "mode": "min", "threshold": THRESHOLD, "threshold_mode": "rel", "cooldown_counter": 0,
}  # fmt: skip
MASS = "mass.npy"  # beside the checkpoint of a run with a cotangent basis
OURS = "spectral_jax"  # our own entry in a checkpoint; Lightning ignores entries that it does not know


class _Saved(NamedTuple):
    """What we read of a Lightning checkpoint.

    Attributes:
      epoch: epochs done.
      step: optimiser steps done.
      weights: the published state dict.
      plateau: state of the plateau rule, with the learning rate.
      other: settings of Adam that we cannot continue with.
      steps: Adam's step counts, of which there should be one.
      averages: Adam's exp_avg and exp_avg_sq by weight, or None before the first step.
      ours: errors in mm that only our exports hold.
    """

    epoch: int
    step: int
    weights: Mapping[str, Any]
    plateau: Plateau
    other: dict[str, Any]
    steps: set[float]
    averages: tuple[dict[str, Any] | None, dict[str, Any] | None]
    ours: dict[str, float | None]


def checkpoint_from_lightning(saved: Mapping[str, Any], config: ModelConfig) -> TrainingProgress:
    """The training position in a Lightning checkpoint. Raises ValueError for another network or optimiser.

    A checkpoint written by the validation that ends an epoch holds the plateau rule before its step for that epoch. The
    error that the rule would have seen is not in the file, so the rule continues at the next validation, as it does in
    Lightning itself.
    """
    try:
        found = _read(saved)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"not a Lightning checkpoint of this network ({type(error).__name__}: {error})") from error
    if found.other:
        expected = ADAM | {"beta1": BETAS[0]}
        raise ValueError(f"trained by Adam with {found.other}, only {expected} can be continued")
    if len(found.steps) > 1:
        raise ValueError(f"Adam's state has several step counts: {sorted(found.steps)}")
    params = params_from_state_dict(found.weights, config)
    zeros = jax.tree.map(np.zeros_like, params)
    mu, nu = (params_from_state_dict(a, config) if a else zeros for a in found.averages)
    (count,) = found.steps
    count = found.step if np.float32(found.step) == count else count  # PyTorch's float32 count is inexact beyond 2^24
    adam = optax.ScaleByAdamState(np.array(count, np.int32), mu, nu)
    state = TrainState(params, adam, np.array(found.step, np.int32))
    return TrainingProgress(
        state, found.plateau, found.epoch, found.ours.get("validation_mm"), found.ours.get("best_mm")
    )


def _read(saved: Mapping[str, Any]) -> _Saved:
    """Pick what we need from a checkpoint; a checkpoint of another layout raises errors of many kinds."""
    (optimizer,) = saved["optimizer_states"]
    (group,) = optimizer["param_groups"]
    moments = [optimizer["state"][index] for index in group["params"]] if optimizer["state"] else []
    names = [weight.name for weight in table(num_layers(saved["state_dict"]))]

    def average(key: str) -> dict[str, Any] | None:
        return dict(zip(names, [moment[key] for moment in moments], strict=True)) if moments else None

    kept = {name: value for name, value in saved.get(OURS, {}).items() if name in ("validation_mm", "best_mm")}
    return _Saved(
        epoch=_epochs_done(saved),
        step=_count(saved["global_step"]),
        weights=saved["state_dict"],
        plateau=_plateau(group, saved["lr_schedulers"]),
        other=_other_adam(group),
        steps={_real(moment["step"]) for moment in moments} or {0.0},
        averages=(average("exp_avg"), average("exp_avg_sq")),
        ours={name: None if value is None else float(value) for name, value in kept.items()},
    )


def _epochs_done(saved: Mapping[str, Any]) -> int:
    """Epochs whose steps are all taken; Lightning's own `epoch` lacks one that its validation has not closed yet."""
    epoch = saved["epoch"]
    if "loops" in saved:
        loop = saved["loops"]["fit_loop"]
        counts, whole = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]["is_last_batch"]
        epoch = counts["ready"] if whole else counts["completed"]
    return _count(epoch)


def _plateau(group: Mapping[str, Any], schedulers: Any) -> Plateau:
    """The plateau rule: with the learning rate alone if no scheduler was saved."""
    plateau = Plateau(_real(group["lr"]))
    if not schedulers:
        return plateau
    best, bad_epochs = schedulers[0]["best"], schedulers[0]["num_bad_epochs"]
    return Plateau(plateau.learning_rate, float(best), _count(bad_epochs))


def _other_adam(group: Mapping[str, Any]) -> dict[str, Any]:
    """Adam's settings, if any of them is not ours; beta2 is an option of ours and may differ."""
    other = {name: group[name] for name, value in ADAM.items() if group.get(name, value) != value}
    beta1, _ = group.get("betas", BETAS)
    return other | {"beta1": beta1} if other or beta1 != BETAS[0] else {}


def _count(value: Any) -> int:
    """Check a number of epochs or steps."""
    count = operator.index(value)
    if not 0 <= count < 1 << 31:
        raise ValueError(f"{count} epochs or steps, expected 0 to {(1 << 31) - 1}")
    return count


def _real(value: Any) -> float:
    """Check a learning rate, or a number of steps stored as a float."""
    real = float(value)
    if not 0 <= real < 1 << 31:
        raise ValueError(f"{real}, expected a learning rate or a number of steps")
    return real


def lightning_from_checkpoint(position: TrainingProgress, config: TrainConfig, job_id: str) -> dict[str, Any]:
    """A Lightning 1.6 checkpoint, as at the end of an epoch, which the published code can evaluate and continue.

    The published code has only the plateau rule, so it continues a cosine run at the peak rate.
    """
    epoch, step, plateau = position.epoch, int(position.state.step), position.plateau
    adam: Any = position.state.opt_state
    averages = zip(state_dict_from_params(adam.mu).values(), state_dict_from_params(adam.nu).values(), strict=True)
    count = np.array(adam.count, np.float32)
    moments = {i: {"step": count, "exp_avg": mu, "exp_avg_sq": nu} for i, (mu, nu) in enumerate(averages)}
    group = {"lr": plateau.learning_rate, "betas": (BETAS[0], config.beta2), **ADAM, **ADAM_SWITCHES}
    group["decoupled_weight_decay"] = False
    plateau_steps = max(0, epoch - config.validate_every + 1)
    changing = {"last_epoch": plateau_steps, "_last_lr": [plateau.learning_rate]}
    changing |= {"best": plateau.best, "num_bad_epochs": plateau.bad_epochs}
    monitor, folder = "spatial_validation_loss", f"checkpoints/{job_id}"
    kind = {
        "monitor": monitor, "mode": "min", "every_n_train_steps": 0, "every_n_epochs": config.validate_every,
        "train_time_interval": None, "save_on_train_epoch_end": False,
    }  # fmt: skip
    kept = {
        "monitor": monitor, "best_model_score": None, "best_model_path": "", "current_score": None, "dirpath": folder,
        "best_k_models": {}, "kth_best_model_path": "", "kth_value": np.array(math.inf, np.float32),
        "last_model_path": f"{folder}/last.ckpt",
    }  # fmt: skip
    ours = {"validation_mm": position.validation_mm, "best_mm": position.best_mm}
    return {
        "epoch": epoch,
        "global_step": step,
        "pytorch-lightning_version": "1.6.0",
        "state_dict": state_dict_from_params(position.state.params),
        "loops": loops(epoch, step, plateau_steps, epoch // config.validate_every),
        "callbacks": {f"ModelCheckpoint{kind}": kept},
        "optimizer_states": [{"state": moments, "param_groups": [{**group, "params": list(moments)}]}],
        "lr_schedulers": [REDUCE_ON_PLATEAU | changing],
        OURS: {**ours, "seed": config.seed, "schedule": config.schedule},
    }


# Files.


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make ValueErrors name the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def import_checkpoint(
    source: Path,
    target: Path,
    infos: Path | None = None,
    basis: SpectralBasis | None = None,
    data: str = "",
    weights: str | None = None,
    ignore: Sequence[str] = (),
    told: Mapping[str, str] | None = None,
) -> list[str]:
    """Make the run folder `target` from a checkpoint. Returns lines that tell what was found or assumed.

    `data` is the dataset of the basis; the others are as for `read_checkpoint`. Raises ValueError as it does, for a
    target that exists, and for a basis with too few modes.
    """
    run.check_free(target)
    position, config, lines = read_checkpoint(source, infos, weights, ignore, told)
    modes = config.model.modes
    if basis is None:
        lines.append("no basis: the folder lacks basis.npz, the basis that the network was trained on")
    elif basis.num_modes < modes:
        raise ValueError(f"{source}: the network has {modes} modes, the basis only {basis.num_modes}")
    target.mkdir(parents=True, exist_ok=True)
    # Without best_mm: the weights that reached it are not here, and `best` is the best checkpoint of this folder.
    checkpoint.save(target / "last", position._replace(best_mm=None))
    if basis is not None:
        spectral.save(target / run.BASIS_FILE, spectral.truncate(basis, modes))
    run.save_config(target, run.RunConfig(config.model, config.train, data or config.data))
    return lines


def read_checkpoint(
    source: Path,
    infos: Path | None = None,
    weights: str | None = None,
    ignore: Sequence[str] = (),
    told: Mapping[str, str] | None = None,
) -> tuple[TrainingProgress, run.RunConfig, list[str]]:
    """Read a checkpoint: training state, options, and lines that tell what was found or assumed.

    Weights are found as by `find_weights`; those outside `state_dict` have no training state. Options come from
    `infos`, or from infos.json beside the source, but for those that are `told`. Raises ValueError naming the file
    that is missing, unreadable or contradicted by the weights.
    """
    saved, state_dict, keys, lines = read_weights(source, weights, ignore)
    (given, infos), told = read_infos(source, infos), told or {}
    with _naming(source):
        inferred, more = infer_config(state_dict, {*told, *(MODEL_OPTIONS.get(name, name) for name in given)})
    lines += more
    model, train = inferred, TrainConfig()
    if infos is None:
        lines.append("training options: the published defaults, as there is no infos.json")
    else:
        with _naming(infos):
            model, train, unknown = config_from_infos(given, inferred)
        lines.append(f"options: from {infos}" + (f", ignoring the unknown {', '.join(unknown)}" if unknown else ""))

    model = options.fill(model, told)
    if "optimizer_states" not in saved or keys != ["state_dict"]:
        lines.append("weights only: training starts at epoch 0 with Adam's moments at zero")
        optimizer = {"state": {}, "param_groups": [{"lr": train.learning_rate}]}
        fresh: dict[str, Any] = {"epoch": 0, "global_step": 0, "optimizer_states": [optimizer], "lr_schedulers": []}
        saved = fresh
    with _naming(source):
        position = checkpoint_from_lightning({**saved, "state_dict": state_dict}, model)
        remembered = {name: saved[OURS][name] for name in ("seed", "schedule") if name in saved.get(OURS, {})}
        _, beta2 = saved["optimizer_states"][0]["param_groups"][0].get("betas", BETAS)
        train = options.fill(train, {"beta2": beta2, **remembered})
    rate = position.plateau.learning_rate
    lines.append(f"{position.epoch} epochs and {position.state.step} steps done, learning rate {rate:.4g}")
    return position, run.RunConfig(model, train, str(given.get("path", ""))), lines


def read_weights(
    source: Path, weights: str | None = None, ignore: Sequence[str] = ()
) -> tuple[dict, dict[str, Any], list[str], list[str]]:
    """Read a checkpoint: all that is in it, and what `find_weights` finds there. Raises ValueError naming the file."""
    if not source.is_file():
        raise ValueError(f"{source}: no such file")
    loaded = torch_file.load(source)
    with _naming(source):
        saved = as_dict(loaded)
        return saved, *find_weights(saved, weights, ignore)


def export_checkpoint(run_folder: Path, target: Path) -> list[str]:
    """Write a run's last checkpoint as `target`, and its options as infos.json beside it. Returns warnings.

    The published code expects checkpoints/JOB/last.ckpt. It knows no mass, so that of a cotangent basis is written as
    mass.npy (vertex,) beside it. Raises ValueError naming a file that exists, or a folder that is not a run of SAE-LP.
    """
    infos, mass_file, basis_file = target.with_name("infos.json"), target.with_name(MASS), run_folder / run.BASIS_FILE
    mass = spectral.load(basis_file).mass if basis_file.is_file() else None
    for path in (target, infos, *([] if mass is None else [mass_file])):
        if path.exists():
            raise ValueError(f"{path} exists already")
    config = run.load_config(run_folder)
    if config.model.network != "sae-lp":
        raise ValueError(f"{run_folder}: the PyTorch code has no {config.model.network} network, only sae-lp")
    position = checkpoint.restore(run_folder / "last", config.model, config.train)
    job_id = target.absolute().parent.name
    target.parent.mkdir(parents=True, exist_ok=True)
    torch_file.save(target, lightning_from_checkpoint(position, config.train, job_id))
    atomic.write_json(infos, infos_from_config(config, job_id))
    warnings = other_than_published(config.model)
    if mass is None:
        return warnings
    with atomic.replacing(mass_file) as partial, partial.open("wb") as file:
        np.save(file, np.asarray(mass), allow_pickle=False)
    return [
        *warnings,
        "the modes are those of the cotangent Laplacian, but the PyTorch code projects without their mass: multiply "
        f"the vertices by {mass_file} before it projects them, coefficients = modes.T @ (mass[:, None] * vertices)",
    ]
