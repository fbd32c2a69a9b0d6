"""The options of the network: the one place that lists, documents and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Activation = Literal["ELU", "ReLU", "Tanh", "Sigmoid", "LeakyReLU"]
POOLED = (256, 64, 32, 16)  # lengths along frequency after each pooling (Lemeunier et al. 2022, section 4)


@dataclass(frozen=True)
class ModelConfig:
    """Options of the network; the defaults are the published SAE-LP-4096-16. Raises ValueError for an invalid value."""

    modes: int = 4096
    """Number of spectral modes in and out (published: nb_freq)."""
    latent_size: int = 16
    """Size of the latent vector (published: size_latent)."""
    conv_size: int = 3
    """Width of every convolution along frequency, odd (published: size_conv)."""
    activation: Activation = "ELU"
    """Activation after every convolution but the last (published: activation_func)."""

    def __post_init__(self):
        if self.modes < 1:
            raise ValueError(f"modes must be at least 1, not {self.modes}")
        if self.latent_size < 1:
            raise ValueError(f"latent size must be at least 1, not {self.latent_size}")
        if self.conv_size < 1 or self.conv_size % 2 == 0:
            raise ValueError(f"conv size must be odd, so that convolutions keep the length, not {self.conv_size}")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, not {self.activation!r}")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths along frequency before and after each pooling."""
        return (self.modes, *POOLED)
