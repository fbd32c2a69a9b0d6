"""Options in the published infos.json, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectral_jax.files import options
from spectral_jax.network.config import ModelConfig
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
    """The published infos.json for our options; it has no entries for the seed and the schedule."""
    infos = {theirs: getattr(config.model, ours) for theirs, ours in MODEL_OPTIONS.items()}
    infos |= {theirs: getattr(config.train, ours) for theirs, ours in TRAIN_OPTIONS.items()}
    infos |= FIXED_OPTIONS | {"device": "cpu", "job_id": job_id, "num_workers": 1, "path": config.data}
    return dict(sorted((infos | {"test_batch_size": VALIDATION_BATCH}).items()))
