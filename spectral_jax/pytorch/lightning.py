"""Checkpoints of PyTorch Lightning with their infos.json as run folders of ours, and back: whole training positions."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import atomic, options, safe_files, torch_file
from spectral_jax.network.autoencoder import ModelConfig
from spectral_jax.pytorch.state_dict import TABLE, infer_config, params_from_state_dict, state_dict_from_params
from spectral_jax.runs import checkpoint, run
from spectral_jax.training.schedule import EPS, FACTOR, PATIENCE, THRESHOLD, Plateau
from spectral_jax.training.step import VALIDATION_BATCH, TrainConfig, TrainingProgress, TrainState

# Options: the published infos.json.

MODEL_OPTIONS = {
    "nb_freq": "modes",
    "size_latent": "latent_size",
    "size_conv": "conv_size",
    "activation_func": "activation",
}
TRAIN_OPTIONS = {
    "num_iterations": "epochs",
    "train_batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "check_val_every_n_epoch": "validate_every",
}
FIXED_OPTIONS = {"model_type": "LearnedPooling", "loss_type": "MSE"}
OTHER_OPTIONS = ("device", "job_id", "num_workers", "path", "test_batch_size")


def config_from_infos(
    infos: Mapping[str, Any], inferred: ModelConfig | None = None
) -> tuple[ModelConfig, TrainConfig, list[str]]:
    """Our options, and the names in infos that nobody knows; what infos lacks is as inferred, else the default.

    Raises ValueError for a value of the wrong type, another network or loss, or a number that the weights contradict.
    """
    for name, value in FIXED_OPTIONS.items():
        if infos.get(name, value) != value:
            raise ValueError(f"{name} is {infos[name]!r}, only {value!r} can be read")

    def filled(default, names):
        given = {ours: infos[theirs] for theirs, ours in names.items() if theirs in infos}
        return options.fill(default, given, {ours: theirs for theirs, ours in names.items()})

    model, train = filled(inferred or ModelConfig(), MODEL_OPTIONS), filled(TrainConfig(), TRAIN_OPTIONS)
    contradictions = [
        f"{theirs} is {infos[theirs]}, the weights say {getattr(inferred, ours)}"
        for theirs, ours in MODEL_OPTIONS.items()
        if inferred and ours != "activation" and getattr(model, ours) != getattr(inferred, ours)
    ]
    if contradictions:
        raise ValueError("; ".join(contradictions))
    known = {*MODEL_OPTIONS, *TRAIN_OPTIONS, *FIXED_OPTIONS, *OTHER_OPTIONS}
    return model, train, [name for name in infos if name not in known]


def infos_from_config(config: run.RunConfig, job_id: str) -> dict[str, Any]:
    """The published infos.json of our options; it has no place for the seed and the schedule."""
    infos = {theirs: getattr(config.model, ours) for theirs, ours in MODEL_OPTIONS.items()}
    infos |= {theirs: getattr(config.train, ours) for theirs, ours in TRAIN_OPTIONS.items()}
    infos |= FIXED_OPTIONS | {"device": "cpu", "job_id": job_id, "num_workers": 1, "path": config.data}
    return dict(sorted((infos | {"test_batch_size": VALIDATION_BATCH}).items()))


# Training positions: the checkpoints of PyTorch Lightning 1.6.

BETAS = (0.9, TrainConfig.beta2)
ADAM = {"eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
ADAM_SWITCHES = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
REDUCE_ON_PLATEAU = {
    "factor": FACTOR, "default_min_lr": 0, "min_lrs": [0], "patience": PATIENCE, "cooldown": 0, "eps": EPS,
    "mode_worse": math.inf, "mode": "min", "threshold": THRESHOLD, "threshold_mode": "rel", "cooldown_counter": 0,
}  # fmt: skip
OURS = "spectral_jax"  # the key of what Lightning has no place for; it ignores keys it does not know


def checkpoint_from_lightning(saved: Mapping[str, Any], config: ModelConfig) -> TrainingProgress:
    """The training position in a Lightning checkpoint; raises ValueError for another network or optimiser.

    Lightning's `epoch` counts the epochs it has closed. A checkpoint made by the validation that ends an epoch lacks
    that one, though its steps are taken, and holds the plateau rule before its step for that epoch; the error the rule
    would have seen is not in the file, so the rule goes on at the next validation, as in Lightning itself.
    """
    try:
        (optimizer,), schedulers = saved["optimizer_states"], saved["lr_schedulers"]
        (group,) = optimizer["param_groups"]
        other = {name: group[name] for name, value in ADAM.items() if group.get(name, value) != value}
        beta1, _ = group.get("betas", BETAS)
        plateau = Plateau(_real(group["lr"]))
        if schedulers:
            best, bad_epochs = schedulers[0]["best"], schedulers[0]["num_bad_epochs"]
            plateau = Plateau(plateau.learning_rate, float(best), _count(bad_epochs))
        epoch, step, weights = saved["epoch"], saved["global_step"], saved["state_dict"]
        if "loops" in saved:
            loop = saved["loops"]["fit_loop"]
            counts, whole = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]["is_last_batch"]
            epoch = counts["ready"] if whole else counts["completed"]
        epoch, step = _count(epoch), _count(step)
        moments = [optimizer["state"][index] for index in group["params"]] if optimizer["state"] else []
        steps = {_real(moment["step"]) for moment in moments} or {0.0}
        names = [weight.name for weight in TABLE]
        averages = [
            dict(zip(names, [moment[key] for moment in moments], strict=True)) if moments else None
            for key in ("exp_avg", "exp_avg_sq")
        ]
        ours = {name: value for name, value in saved.get(OURS, {}).items() if name in ("validation_mm", "best_mm")}
        ours = {name: None if value is None else float(value) for name, value in ours.items()}
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"not a Lightning checkpoint of this network ({type(error).__name__}: {error})") from error
    if other or beta1 != BETAS[0]:
        raise ValueError(
            f"trained by Adam with {other | {'beta1': beta1}}, only {ADAM | {'beta1': 0.9}} can be continued"
        )
    if len(steps) > 1:
        raise ValueError(f"Adam's state has several step counts: {sorted(steps)}")
    params = params_from_state_dict(weights, config)
    mu, nu = (params_from_state_dict(a, config) if a else jax.tree.map(np.zeros_like, params) for a in averages)
    (count,) = steps
    count = step if np.float32(step) == count else count  # PyTorch's float32 count is not exact beyond 2^24
    state = TrainState(params, optax.ScaleByAdamState(np.array(count, np.int32), mu, nu), np.array(step, np.int32))
    return TrainingProgress(state, plateau, epoch, ours.get("validation_mm"), ours.get("best_mm"))


def _count(value: Any) -> int:
    """A number of epochs or steps."""
    count = operator.index(value)
    if not 0 <= count < 1 << 31:
        raise ValueError(f"{count} epochs or steps")
    return count


def _real(value: Any) -> float:
    """A learning rate, or a number of steps kept as a float."""
    real = float(value)
    if not 0 <= real < 1 << 31:
        raise ValueError(f"{real} where a rate or a number of steps is expected")
    return real


def lightning_from_checkpoint(position: TrainingProgress, config: TrainConfig, job_id: str) -> dict[str, Any]:
    """A Lightning 1.6 checkpoint, as after an epoch that is closed, which the published code evaluates and continues.

    Lightning knows the plateau rule only: it continues a cosine run at the peak rate.
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
        "loops": _loops(epoch, step, plateau_steps, epoch // config.validate_every),
        "callbacks": {f"ModelCheckpoint{kind}": kept},
        "optimizer_states": [{"state": moments, "param_groups": [{**group, "params": list(moments)}]}],
        "lr_schedulers": [REDUCE_ON_PLATEAU | changing],
        OURS: {**ours, "seed": config.seed, "schedule": config.schedule},
    }


def _progress(total: int, current: int, names: str = "ready completed started processed") -> dict[str, Any]:
    return {"total": dict.fromkeys(names.split(), total), "current": dict.fromkeys(names.split(), current)}


def _loops(epoch: int, step: int, plateau_steps: int, validations: int) -> dict[str, Any]:
    """Lightning's counters after `epoch` closed epochs."""
    two, idle, in_epoch, seen = "ready completed", _progress(0, 0), step // max(epoch, 1), int(validations > 0)
    zero_grad = _progress(step, in_epoch, "ready completed started")
    optimizer = {"step": _progress(step, in_epoch, two), "zero_grad": zero_grad}
    nested = ("", "batch_loop.", "batch_loop.optimizer_loop.", "batch_loop.manual_loop.", "val_loop.")
    fit = {"state_dict": {}} | {f"epoch_loop.{name}state_dict": {} for name in (*nested, "val_loop.epoch_loop.")}
    fit |= {
        "epoch_progress": _progress(epoch, epoch),
        "epoch_loop.batch_progress": {**_progress(step, in_epoch), "is_last_batch": step > 0},
        "epoch_loop.scheduler_progress": _progress(plateau_steps, 0, two),
        "epoch_loop.batch_loop.optimizer_loop.optim_progress": {
            "optimizer": optimizer,
            "optimizer_position": int(step > 0),
        },
        "epoch_loop.batch_loop.manual_loop.optim_step_progress": _progress(0, 0, two),
        "epoch_loop.val_loop.dataloader_progress": _progress(validations, seen, two),
        "epoch_loop.val_loop.epoch_loop.batch_progress": {**_progress(seen, seen), "is_last_batch": seen > 0},
    }
    unused = {"state_dict": {}, "epoch_loop.state_dict": {}, "dataloader_progress": _progress(0, 0, two)}
    evaluating = {**unused, "epoch_loop.batch_progress": {**idle, "is_last_batch": False}}
    predicting = {**unused, "epoch_loop.batch_progress": idle}
    return {"fit_loop": fit, "validate_loop": evaluating, "test_loop": evaluating, "predict_loop": predicting}


# Files.


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """ValueErrors name the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def import_checkpoint(
    source: Path, target: Path, infos: Path | None = None, basis: SpectralBasis | None = None, data: str = ""
) -> list[str]:
    """Make the run folder `target` of a published .ckpt or .pth; returns lines that say what was found and assumed.

    `data` names the dataset of the basis. Raises ValueError as `read_checkpoint` does, or for a target that exists.
    """
    run.check_free(target)
    position, config, lines = read_checkpoint(source, infos)
    modes = config.model.modes
    if basis is None:
        lines.append("no basis: the folder lacks basis.npz, and a network only fits the basis it was trained on")
    elif basis.num_modes < modes:
        raise ValueError(f"{source}: the network has {modes} modes, the basis only {basis.num_modes}")
    target.mkdir(parents=True, exist_ok=True)
    # No best_mm: the weights that reached it are elsewhere, and `best` is the best in this folder.
    checkpoint.save(target / "last", position._replace(best_mm=None))
    if basis is not None:
        spectral.save(target / run.BASIS_FILE, spectral.truncate(basis, modes))
    run.save_config(target, run.RunConfig(config.model, config.train, data or config.data))
    return lines


def read_checkpoint(source: Path, infos: Path | None = None) -> tuple[TrainingProgress, run.RunConfig, list[str]]:
    """What a published .ckpt or .pth holds, and lines that say what was found and assumed.

    Options come from `infos` or the infos.json beside the source. Raises ValueError naming the file that is missing,
    unreadable or contradicted by the weights.
    """
    if not source.is_file():
        raise ValueError(f"{source}: no such file")
    saved = torch_file.load(source)
    if not isinstance(saved, dict):
        raise ValueError(f"{source}: holds a {type(saved).__name__}, neither a checkpoint nor a state dict")
    state_dict = saved.get("state_dict", saved)
    if not isinstance(state_dict, dict):
        raise ValueError(f"{source}: its state_dict is a {type(state_dict).__name__}, expected a dict")
    with _naming(source):
        inferred, lines = infer_config(state_dict)

    model, train, given = inferred, TrainConfig(), {}
    beside = source.with_name("infos.json")
    infos = beside if infos is None and beside.is_file() else infos
    if infos is None:
        lines.append("training options: the published defaults, for there is no infos.json")
    else:
        given = safe_files.read_json(infos)
        with _naming(infos):
            model, train, unknown = config_from_infos(given, inferred)
        if "activation_func" in given:
            lines.pop()  # nothing was assumed
        lines.append(f"options: from {infos}" + (f", but for the unknown {', '.join(unknown)}" if unknown else ""))

    if "optimizer_states" not in saved:
        lines.append("weights only: training would start at epoch 0 with Adam's moments at zero")
        optimizer = {"state": {}, "param_groups": [{"lr": train.learning_rate}]}
        saved = {"state_dict": state_dict, "epoch": 0, "global_step": 0}
        saved |= {"optimizer_states": [optimizer], "lr_schedulers": []}
    with _naming(source):
        position = checkpoint_from_lightning(saved, model)
        remembered = {name: saved[OURS][name] for name in ("seed", "schedule") if name in saved.get(OURS, {})}
        _, beta2 = saved["optimizer_states"][0]["param_groups"][0].get("betas", BETAS)
        train = options.fill(train, {"beta2": beta2, **remembered})
    rate = position.plateau.learning_rate
    lines.append(f"{position.epoch} epochs and {position.state.step} steps done, learning rate {rate:.4g}")
    return position, run.RunConfig(model, train, str(given.get("path", ""))), lines


def export_checkpoint(run_folder: Path, target: Path) -> None:
    """Write a run's last checkpoint as `target` for the published code, which wants checkpoints/JOB/last.ckpt, and the
    options as infos.json beside it. Raises ValueError naming a file that exists or a folder that is no run."""
    infos = target.with_name("infos.json")
    for path in (target, infos):
        if path.exists():
            raise ValueError(f"{path} exists already")
    config = run.load_config(run_folder)
    position = checkpoint.restore(run_folder / "last", config.model, config.train)
    job_id = target.absolute().parent.name
    target.parent.mkdir(parents=True, exist_ok=True)
    torch_file.save(target, lightning_from_checkpoint(position, config.train, job_id))
    atomic.write_json(infos, infos_from_config(config, job_id))
