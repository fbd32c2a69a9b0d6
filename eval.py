"""Evaluate a run: `python eval.py RUN`, `python eval.py --help`."""

from spectral_jax.__main__ import run

if __name__ == "__main__":
    run("eval")
