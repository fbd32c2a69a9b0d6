"""The published network (Lemeunier et al. 2022, section 4) in plain PyTorch, as the reference for comparisons."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spectral_jax.network.autoencoder import COORDINATES
from spectral_jax.network.config import ModelConfig

ACTIVATIONS = {
    "ELU": nn.ELU,
    "ReLU": nn.ReLU,
    "Tanh": nn.Tanh,
    "Sigmoid": nn.Sigmoid,
    "LeakyReLU": nn.LeakyReLU,
    "SiLU": nn.SiLU,
}


class TorchSpectralAutoencoder(nn.Module):
    """Encoder and decoder on spectral coefficients (batch, freq, 3), with the published parameter names."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        activation, flat = ACTIVATIONS[config.activation], config.channels[-1] * config.pooled[-1]
        ends = list(itertools.pairwise(config.lengths))

        def convolutions(channels: tuple[int, ...]) -> nn.Sequential:
            layers = ((conv(before, after), activation()) for before, after in itertools.pairwise(channels))
            return nn.Sequential(*itertools.chain.from_iterable(layers))

        def conv(before: int, after: int) -> nn.Conv1d:
            return nn.Conv1d(before, after, config.conv_size, padding="same")

        self.encoder_features = convolutions((COORDINATES, *config.channels))
        self.encoder_linear = nn.Sequential(nn.Linear(flat, config.latent_size))
        self.decoder_linear = nn.Sequential(nn.Linear(config.latent_size, flat))
        self.decoder_features = convolutions((config.channels[-1], *config.decoder_channels))
        self.last_conv = conv(config.channels[0], COORDINATES)
        self.downsampling_mats = nn.ParameterList(torch.empty(before, after) for before, after in ends)
        self.upsampling_mats = nn.ParameterList(torch.empty(after, before) for before, after in reversed(ends))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def encode(self, coefficients: Float[Tensor, "batch freq 3"]) -> Float[Tensor, "batch latent"]:
        """Latents of coefficients."""
        x = coefficients.transpose(1, 2)
        layers = list(self.encoder_features)
        pool_first = self.config.pooling == "before-activation"
        for conv, activation, pooling in zip(layers[::2], layers[1::2], self.downsampling_mats, strict=True):
            x = activation(conv(x) @ pooling) if pool_first else activation(conv(x)) @ pooling
        return self.encoder_linear(x.flatten(1))

    def decode(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch freq 3"]:
        """Coefficients of latents."""
        x = self.decoder_linear(latents).unflatten(1, (self.config.channels[-1], self.config.pooled[-1]))
        layers = list(self.decoder_features)
        for conv, activation, pooling in zip(layers[::2], layers[1::2], self.upsampling_mats, strict=True):
            x = activation(conv(x @ pooling))
        return self.last_conv(x).transpose(1, 2)

    def forward(self, coefficients: Float[Tensor, "batch freq 3"]) -> Float[Tensor, "batch freq 3"]:
        """Encode coefficients, and decode their latents."""
        return self.decode(self.encode(coefficients))
