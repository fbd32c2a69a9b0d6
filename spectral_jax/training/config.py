"""The options of training: the one place that lists, documents and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from spectral_jax.network.config import Network

Schedule = Literal["plateau", "cosine"]
Loss = Literal["squared", "distance"]
Precision = Literal["default", "highest", "bf16"]
Placement = Literal["device", "host", "stream"]
Storage = Literal["float32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """Options of training; the defaults are the published recipe. Raises ValueError for an unusable value.

    The PyTorch system calls them num_iterations (epochs), train_batch_size, learning_rate and check_val_every_n_epoch
    (validate_every).
    """

    epochs: int = 10_000
    """Number of passes over the train split."""
    batch_size: int = 16
    """Number of meshes in a step. The last batch of an epoch may be smaller."""
    learning_rate: float = 1e-4
    """Adam's learning rate: the initial rate of the plateau schedule, the peak of the cosine schedule."""
    beta2: float = 0.999
    """Decay rate of Adam's running mean of squared gradients, at least 0 and below 1. The mean covers about
    1 / (1 - beta2) steps, 1,000 by default; use 0.95 (20 steps) for short runs."""
    schedule: Schedule = "plateau"
    """How the learning rate changes. plateau: reduce it by 1 % whenever the validation error stops improving, as
    published. cosine: warm up over at most 200 steps, then fall to zero at the last epoch; for short runs."""
    validate_every: int = 10
    """Number of epochs between validations. Each validation also writes a checkpoint."""
    seed: int = 42
    """Seed of the initial parameters and of the order of the meshes."""
    precision: Precision = "default"
    """Arithmetic of the network. default: the device's own (TF32 on recent NVIDIA GPUs). highest: full float32.
    bf16: bfloat16."""
    loss: Loss = "squared"
    """What is minimised. squared: the mean squared error of the coefficients, as published. distance: the mean over
    meshes of the square root of that; with all modes, of the root mean square distance of the vertices."""
    laplacian_weight: float = 0.0
    """Weight of the Laplacian (smoothness) loss beside the loss of positions: the squared error of each mode counts
    1 + weight * eigenvalue / mean eigenvalue times. 0: positions alone, as published."""
    mirror: bool = False
    """Use that mirror images of meshes are meshes too: SAE-LP trains on them as well, the residual network is made
    symmetric. The connectivity must be symmetric."""
    holdout: int = 0
    """Number of identities of the train split to validate on, chosen by the seed and not trained on. With 0,
    validations use the test split, which then also chooses the best checkpoint."""
    clip_norm: float = 0.0
    """Scale gradients with a larger norm down to this norm. 0 disables clipping."""
    skip_bad_steps: bool = False
    """Skip steps whose loss or gradient is not finite. Without this option, training stops at the first one."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning rate must be positive, not {self.learning_rate}")
        if self.holdout < 0:
            raise ValueError(f"holdout must be at least 0, not {self.holdout}")
        if not 0 <= self.clip_norm < float("inf"):
            raise ValueError(f"clip norm must be at least 0, not {self.clip_norm}")
        if not 0 <= self.laplacian_weight < float("inf"):
            raise ValueError(f"laplacian weight must be at least 0, not {self.laplacian_weight}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be at least 0 and below 1, not {self.beta2}")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be plateau or cosine, not {self.schedule!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be default, highest or bf16, not {self.precision!r}")
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss must be squared or distance, not {self.loss!r}")


RECIPES: dict[Network, TrainConfig] = {
    "sae-lp": TrainConfig(),
    "residual": TrainConfig(
        epochs=80,
        batch_size=64,
        learning_rate=2e-3,
        beta2=0.99,
        schedule="cosine",
        validate_every=8,
        loss="distance",
    ),
}
"""What each network is trained with unless options say otherwise: the published recipe for SAE-LP."""
