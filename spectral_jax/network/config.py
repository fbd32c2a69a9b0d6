"""The options of the networks: the one place that lists, documents and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Network = Literal["sae-lp", "residual"]
TITLES = {"sae-lp": "SAE-LP", "residual": "residual network"}  # in tables
Activation = Literal["ELU", "ReLU", "Tanh", "Sigmoid", "LeakyReLU"]
POOLED = (256, 64, 32, 16)  # lengths along frequency after each pooling (Lemeunier et al. 2022, section 4)


@dataclass(frozen=True)
class ModelConfig:
    """Options of a network; the defaults are the published SAE-LP-4096-16. Raises ValueError for an invalid value."""

    modes: int = 4096
    """Number of spectral modes in and out (published: nb_freq)."""
    latent_size: int = 16
    """Size of the latent vector (published: size_latent)."""
    conv_size: int = 3
    """Width of every convolution of SAE-LP along frequency, odd (published: size_conv)."""
    activation: Activation = "ELU"
    """Activation of SAE-LP after every convolution but the last (published: activation_func)."""
    network: Network = "sae-lp"
    """sae-lp: the published network. residual: PCA, and what two small networks add to it."""
    directions: int = 128
    """Number of principal directions that the residual network sees and moves; fewer where the meshes have fewer."""
    hidden_size: int = 256
    """Width of the hidden layers of the residual network."""

    def __post_init__(self):
        if self.modes < 1:
            raise ValueError(f"modes must be at least 1, not {self.modes}")
        for name in ("latent_size", "directions", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")
        if self.network not in get_args(Network):
            raise ValueError(f"network must be one of {', '.join(get_args(Network))}, not {self.network!r}")
        for name in ("directions", "hidden_size") if self.network == "sae-lp" else ("conv_size", "activation"):
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"the network {self.network} has no {name.replace('_', ' ')}")
        if self.conv_size < 1 or self.conv_size % 2 == 0:
            raise ValueError(f"conv size must be odd, so that convolutions keep the length, not {self.conv_size}")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, not {self.activation!r}")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths along frequency before and after each pooling."""
        return (self.modes, *POOLED)
