"""Measure encoding, decoding and reconstruction in meshes per second, beside eager PyTorch in batches of 64.

    python benchmarks/inference.py   # --meshes 128 --vertices 1229 is smaller

Arrays start and end on the host; products are full float32. "ragged" passes the same number of meshes in pieces of
random sizes, as requests to a service arrive. All sides alternate. The ratio is PyTorch's time divided by ours for
full batches.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import torch
from machine import alternate, announce, save, table

from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.codec import BATCH, Codec
from spectral_jax.network.config import ModelConfig
from spectral_jax.pytorch.reference import TorchSpectralAutoencoder


def pieces(rows: np.ndarray) -> list[np.ndarray]:
    """Cut the rows into pieces of 1 to 100."""
    cuts = np.cumsum(np.random.default_rng(0).integers(1, 101, len(rows)))
    return np.split(rows, cuts[cuts < len(rows)])


def theirs(function, rows: np.ndarray):
    """Return a call of PyTorch's function on the rows in batches, from the host and back."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    @torch.inference_mode()
    def run():
        return torch.cat([function(batch.to(device)).cpu() for batch in torch.from_numpy(rows).split(BATCH)])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freq", type=int, default=4096)
    parser.add_argument("--vertices", type=int, default=6890)
    parser.add_argument("--meshes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config, rng = ModelConfig(modes=options.freq), np.random.default_rng(0)
    modes = rng.standard_normal((options.vertices, options.freq), np.float32) / np.sqrt(np.float32(options.vertices))
    basis = SpectralBasis(modes, np.zeros(options.freq), np.array([[0, 1, 2]], np.int32))
    codec = Codec(SpectralAutoencoder(config), init_params(config, jax.random.key(0)), jax.device_put(basis))
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, matrix = TorchSpectralAutoencoder(config).to(device), torch.from_numpy(modes).to(device)
    coefficients = rng.standard_normal((options.meshes, options.freq, 3), np.float32)
    latents = rng.standard_normal((options.meshes, config.latent_size), np.float32)
    works = {
        "encode": (codec.encode, network.encode, coefficients),
        "decode": (codec.decode, network.decode, latents),
        "reconstruct": (codec.reconstruct, lambda batch: matrix @ network(batch), coefficients),
    }
    announce()
    row = table(
        f"Meshes per second, {options.freq} modes, {options.vertices} vertices, {options.meshes} meshes",
        "", "ours", "ours, ragged", "torch eager", "eager/ours",
    )  # fmt: skip
    figures = {}
    for name, (own, other, rows) in works.items():
        parts = pieces(rows)
        sides = {
            "ours": lambda own=own, rows=rows: own(rows),
            "ours_ragged": lambda own=own, parts=parts: [own(part) for part in parts],
            "torch_eager": theirs(other, rows),
        }
        times = {side: timing.median for side, timing in alternate(sides, options.rounds).items()}
        rates = {side: options.meshes / median for side, median in times.items()}
        row(name, *rates.values(), times["torch_eager"] / times["ours"])
        ratio = {"ratio_torch_eager": times["torch_eager"] / times["ours"]}
        figures[name] = {f"{side}_meshes_per_second": rate for side, rate in rates.items()} | ratio
    save(options.json, {"freq": options.freq, "vertices": options.vertices, "meshes": options.meshes, **figures})


if __name__ == "__main__":
    main()
