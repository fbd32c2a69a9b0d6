"""Train the network that the package brings, spectral_jax/assets/demo_network.npz, and print its error.

    python tools/make_demo_network.py [RUN]

It is the residual network of `spectral-jax demo` with half the hidden size, trained on the demo dataset by its usual
recipe and seed, in the folder RUN (default: runs/demo-network). A folder that holds the trained run is used as it is.
On the same machine and versions the result is the same. spectral_jax/assets/demo_network.md is its card.
"""

import argparse
from pathlib import Path

import spectral_jax as sj
from spectral_jax.runs import pretrained

OPTIONS = {"network": "residual", "mirror": True, "directions": 128, "hidden_size": 256}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/demo-network"), metavar="RUN")
    folder = parser.parse_args().run
    run = sj.load_run(folder) if folder.exists() else sj.train("demo", folder, **OPTIONS)
    config, parts = run.config, (run.epoch, run.params, run.constants, run.require_basis())
    pretrained.save(pretrained.path(), pretrained.Pretrained(config.model, config.train, *parts))
    size = pretrained.path().stat().st_size
    for name, each in {"trained": run, f"stored, {size / 1e6:.2f} MB": sj.load_run("demo")}.items():
        found = sj.evaluate(each)
        print(f"{name}: epoch {each.epoch}, {found.mean_mm:.2f} mm on the test split, PCA {found.pca_mm:.2f} mm")


if __name__ == "__main__":
    main()
