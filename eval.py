"""Evaluate a run: `python eval.py RUN`, `python eval.py --help`."""

import sys

from spectral_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
