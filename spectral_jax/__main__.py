"""Where the command line starts: `spectral-jax`, `python -m spectral_jax`, and train.py, eval.py and the converter."""

from __future__ import annotations

import sys

from spectral_jax.files import huge_pages


def run(*command: str) -> None:
    """Run the command line on the arguments of the process, after those given, and exit with its code."""
    huge_pages.ask_for()
    from spectral_jax.cli import main  # only now: imports would be lost when the process starts again

    sys.exit(main([*command, *sys.argv[1:]]))


if __name__ == "__main__":
    run()
