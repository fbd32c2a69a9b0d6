"""Options in the published infos.json, and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_jax.files import options, safe_files
from spectral_jax.network.config import ModelConfig
from spectral_jax.pytorch.state_dict import UNTOLD
from spectral_jax.runs import run
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.step import VALIDATION_BATCH

# Published names of options, and our names for them.

MODEL_OPTIONS = {
    "nb_freq": "modes",
    "size_latent": "latent_size",
    "size_conv": "conv_size",
    "activation_func": "activation",
}
SHAPE_OPTIONS = ("pooled", "channels", "pooling")  # constants of the published network: only our files name them
TRAIN_OPTIONS = {
    "num_iterations": "epochs",
    "train_batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "check_val_every_n_epoch": "validate_every",
}
ARGUMENTS = {"path": "data", "job_id": "run"}  # of the published train.py; a job is a run folder under runs/
FIXED_OPTIONS = {"model_type": "LearnedPooling", "loss_type": "MSE"}
OTHER_OPTIONS = ("device", "job_id", "num_workers", "path", "test_batch_size")


def read_infos(source: Path, infos: Path | None = None) -> tuple[dict[str, Any], Path | None]:
    """The published options for a checkpoint, and their file: `infos`, else infos.json beside it, else none."""
    beside = source.with_name("infos.json")
    infos = beside if infos is None and beside.is_file() else infos
    return ({} if infos is None else safe_files.read_json(infos)), infos


def config_from_infos(
    infos: Mapping[str, Any], inferred: ModelConfig | None = None
) -> tuple[ModelConfig, TrainConfig, list[str]]:
    """Our options from a published infos.json, and the names in it that are unknown.

    Options that infos lacks are as inferred from the weights, else the defaults. Raises ValueError for a value of the
    wrong type, another network or loss, or a number that the weights contradict.
    """
    for name, value in FIXED_OPTIONS.items():
        if infos.get(name, value) != value:
            raise ValueError(f"{name} is {infos[name]!r}, expected {value!r}")

    def filled(default, names):
        given = {ours: infos[theirs] for theirs, ours in names.items() if theirs in infos}
        return options.fill(default, given, {ours: theirs for theirs, ours in names.items()})

    model_options = MODEL_OPTIONS | {name: name for name in SHAPE_OPTIONS}
    model, train = filled(inferred or ModelConfig(), model_options), filled(TrainConfig(), TRAIN_OPTIONS)
    contradictions = [
        f"{theirs} is {infos[theirs]}, the weights say {getattr(inferred, ours)}"
        for theirs, ours in model_options.items()
        if inferred and ours not in UNTOLD and getattr(model, ours) != getattr(inferred, ours)
    ]
    if contradictions:
        raise ValueError("; ".join(contradictions))
    known = {*model_options, *TRAIN_OPTIONS, *FIXED_OPTIONS, *OTHER_OPTIONS}
    return model, train, [name for name in infos if name not in known]


def infos_from_config(config: run.RunConfig, job_id: str) -> dict[str, Any]:
    """The published infos.json for our options; it has no entries for the seed and the schedule.

    The shape of the network is in it only where it differs from the published one.
    """
    infos = {theirs: getattr(config.model, ours) for theirs, ours in MODEL_OPTIONS.items()}
    shape = {name: getattr(config.model, name) for name in SHAPE_OPTIONS}
    infos |= {name: value for name, value in shape.items() if value != getattr(ModelConfig, name)}
    infos |= {theirs: getattr(config.train, ours) for theirs, ours in TRAIN_OPTIONS.items()}
    infos |= FIXED_OPTIONS | {"device": "cpu", "job_id": job_id, "num_workers": 1, "path": config.data}
    return dict(sorted((infos | {"test_batch_size": VALIDATION_BATCH}).items()))


def translate_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments of `train` with the published names of options replaced by ours, and a note on each one replaced.

    Options without a counterpart here are left out with a note. Raises ValueError for another network or loss, and for
    a published option without a value.
    """
    arguments, notes, rest = [], [], list(argv)
    names = MODEL_OPTIONS | TRAIN_OPTIONS | ARGUMENTS
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        known = {*names, *FIXED_OPTIONS, *OTHER_OPTIONS} - {"learning_rate"}  # which is our name too
        if not word.startswith("--") or name not in known:
            arguments.append(word)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"--{name} needs a value")
            value = rest.pop(0)
        if name in FIXED_OPTIONS:
            if value != FIXED_OPTIONS[name]:
                raise ValueError(f"--{name} is {value}, expected {FIXED_OPTIONS[name]}")
            notes.append(f"--{name} {value} is the only choice here and can be left out")
        elif name in names:
            ours = [f"--{names[name].replace('_', '-')}", f"runs/{value}" if name == "job_id" else value]
            arguments += ours
            notes.append(f"--{name} is called {ours[0]} here: {' '.join(ours)}")
        else:
            notes.append(f"--{name} {value} has no counterpart here and is ignored")
    return arguments, notes


def other_than_published(model: ModelConfig) -> list[str]:
    """A line that tells what the published code must change before it loads a network, if it must."""
    names = (*SHAPE_OPTIONS, *(["activation"] if model.activation == "SiLU" else []))
    values = {name: getattr(model, name) for name in names}
    told = [
        f"{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in values.items()
        if value != getattr(ModelConfig, name)
    ]
    return [f"the published code has no option for {', '.join(told)}: change its network so"] if told else []
