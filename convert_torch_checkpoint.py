"""Convert between PyTorch checkpoints and run folders: `python convert_torch_checkpoint.py SOURCE TARGET`, `--help`."""

from spectral_jax.__main__ import run

if __name__ == "__main__":
    run("convert")
