"""The options of the networks: the one place that lists, documents and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Network = Literal["sae-lp", "residual"]
TITLES = {"sae-lp": "SAE-LP", "residual": "residual network"}  # in tables
Activation = Literal["ELU", "ReLU", "Tanh", "Sigmoid", "LeakyReLU", "SiLU"]
Pooling = Literal["after-activation", "before-activation"]
PoolingMatrices = Literal["learned", "average"]
MOST_LAYERS = 16  # of an encoder
# options that the residual network lacks
OF_SAE_LP = ("conv_size", "activation", "pooled", "channels", "pooling", "pooling_matrices")
OF_RESIDUAL = ("directions", "hidden_size", "symmetric")  # options that SAE-LP lacks


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
    symmetric: bool = False
    """Whether the residual network treats a mesh and its mirror image exactly alike."""
    pooled: tuple[int, ...] = (256, 64, 32, 16)
    """Lengths along frequency after each pooling of SAE-LP, in any order; their number is that of its layers."""
    channels: tuple[int, ...] = (16, 32, 64, 128)
    """Channels after each convolution of SAE-LP's encoder, as many as lengths; the decoder mirrors them."""
    pooling: Pooling = "after-activation"
    """Where SAE-LP's encoder pools in each layer. The decoder's layers begin with their pooling in either case."""
    pooling_matrices: PoolingMatrices = "learned"
    """How SAE-LP pools. learned: by matrices that are trained. average: by matrices that stay what they are, means of
    neighbouring frequencies and repetitions of them, to compare with."""

    def __post_init__(self):
        if self.modes < 1:
            raise ValueError(f"modes must be at least 1, not {self.modes}")
        for name in ("latent_size", "directions", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")
        if self.network not in get_args(Network):
            raise ValueError(f"network must be one of {', '.join(get_args(Network))}, not {self.network!r}")
        for name in ("pooled", "channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list could not be hashed
        for name in OF_RESIDUAL if self.network == "sae-lp" else OF_SAE_LP:
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"the network {self.network} has no {name.replace('_', ' ')}")
        if self.conv_size < 1 or self.conv_size % 2 == 0:
            raise ValueError(f"conv size must be odd, so that convolutions keep the length, not {self.conv_size}")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, not {self.activation!r}")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, not {self.pooling!r}")
        if self.pooling_matrices not in get_args(PoolingMatrices):
            raise ValueError(f"pooling matrices must be learned or average, not {self.pooling_matrices!r}")
        for name in ("pooled", "channels"):
            if any(type(value) is not int or value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} must be whole numbers of at least 1, not {_listed(getattr(self, name))}")
        if len(self.pooled) != len(self.channels):
            raise ValueError(
                "pooled and channels must be as many, one of each for a layer, "
                f"not {_listed(self.pooled)} and {_listed(self.channels)}"
            )
        if not 1 <= len(self.channels) <= MOST_LAYERS:
            raise ValueError(f"the encoder has 1 to {MOST_LAYERS} layers, not {len(self.channels)}")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths along frequency before and after each pooling."""
        return (self.modes, *self.pooled)

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Channels after each convolution of the decoder but the last: those of the encoder mirrored, the first twice.

        A decoder's layer undoes an encoder's: it has the channels that came in there. The layer that would give back
        the three coordinates keeps the channels of its input instead, because the last convolution makes them.
        """
        return (*self.channels[-2::-1], self.channels[0])


def _listed(values: tuple) -> str:
    return " ".join(str(value)[:20] for value in values[:20]) or "none"
