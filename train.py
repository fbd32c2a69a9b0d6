"""Train a network: `python train.py --help`."""

from spectral_jax.__main__ import run

if __name__ == "__main__":
    run("train")
