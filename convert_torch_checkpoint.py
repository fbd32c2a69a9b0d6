"""Convert between PyTorch checkpoints and run folders: `python convert_torch_checkpoint.py SOURCE TARGET`, `--help`."""

import sys

from spectral_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
