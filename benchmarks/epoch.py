"""Time a whole epoch, from files on disk to trained parameters: the published way and ours on the same dataset.

    python benchmarks/epoch.py                  # random meshes in the 2022 layout; --quick takes few
    python benchmarks/epoch.py --amass          # ours alone, at the size of AMASS, on a GPU
    python benchmarks/epoch.py --amass --precision highest default bf16

The published way reads the tar again in every epoch, in a worker of PyTorch's DataLoader, and trains eagerly. Ours
reads it once with `spectral_jax.data.pytorch_layouts`; reading and compiling count as part of the first epoch. Later
epochs alternate between the two. The ratio is the median time of the published way divided by ours.
"""

import argparse
import functools
import tempfile
from pathlib import Path
from typing import get_args

import jax
import numpy as np
from machine import alternate, announce, ceilings, save, seconds, table
from ours import ours
from train_step import theirs
from work import roofline_seconds

from spectral_jax.network.config import ModelConfig
from spectral_jax.training.batches import num_steps
from spectral_jax.training.config import Precision

AMASS = 111_327  # meshes


def end_to_end(config: ModelConfig, folder: Path, batch: int, precision: Precision, figures: dict):
    """Return a function that trains one epoch; its first call also reads the dataset and adds the time to `figures`."""
    run = None

    def read():
        from published import TarMeshes

        try:
            from spectral_jax.data.dataset import read_split
            from spectral_jax.data.pytorch_layouts import open_pytorch_layout
        except ModuleNotFoundError as error:  # TensorFlow Datasets is not installed
            figures["reader"] = f"PyTorch's, because ours is not available: {error}"
            return np.stack([mesh.numpy() for mesh in TarMeshes(folder / "train.tar").meshes()])
        return read_split(open_pytorch_layout(folder), "train", config.modes).coefficients

    def epoch():
        nonlocal run
        if run is None:
            coefficients = []
            figures["ours_reading_s"] = seconds(lambda: coefficients.append(read()))
            run = ours(config, coefficients[0], batch, precision)
        run()

    return epoch


def compare(options: argparse.Namespace, precision: Precision) -> dict[str, object]:
    """Time both ways on a dataset in a temporary folder."""
    from published import loader, write

    meshes, config = (64 if options.quick else options.meshes), ModelConfig(modes=options.freq)
    figures: dict = {"meshes": meshes, "freq": options.freq, "batch": options.batch, "precision": precision}
    with tempfile.TemporaryDirectory() as root:
        coefficients = np.random.default_rng(0).standard_normal((meshes, options.freq, 3), np.float32)
        folder = write(Path(root), coefficients)
        batches = loader(folder / "train.tar", options.batch, options.workers)
        sides = {
            "published": theirs(config, batches, precision),
            "ours": end_to_end(config, folder, options.batch, precision, figures),
        }
        timings = alternate(sides, options.rounds)
        del sides, batches  # ends the workers before the folder is removed
    for name, timing in timings.items():
        figures |= {f"{name}_first_s": timing.first, f"{name}_later_s": timing.median}
    published, own = timings["published"], timings["ours"]
    return figures | {"ratio_first": published.first / own.first, "ratio_later": published.median / own.median}


def amass(options: argparse.Namespace, precision: Precision) -> list[dict[str, object]]:
    """Time an epoch of as many random meshes as AMASS gives, all on the device, for two batch sizes."""
    meshes, config = (1000 if options.quick else AMASS), ModelConfig(modes=options.freq)
    draw = jax.jit(functools.partial(jax.random.normal, shape=(meshes, options.freq, 3)))
    coefficients, cells = draw(jax.random.key(0)), []
    for batch in (16, 1024):
        timing = alternate({"ours": ours(config, coefficients, batch, precision)}, options.rounds)["ours"]
        whole, rest = divmod(meshes, batch)
        bound = whole * roofline_seconds(config, batch, precision) + (
            roofline_seconds(config, rest, precision) if rest else 0
        )
        cell = {"meshes": meshes, "freq": options.freq, "batch": batch, "precision": precision}
        cell |= {"steps": num_steps(meshes, batch), "first_s": timing.first, "epoch_s": timing.median}
        cells.append(cell | {"roofline_s": bound, "roofline_fraction": bound / timing.median})
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freq", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--meshes", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=1, help="workers of the DataLoader")
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), default=["default"])
    parser.add_argument("--rounds", type=int, default=5, help="epochs to time after the first")
    parser.add_argument("--amass", action="store_true")
    parser.add_argument("--quick", action="store_true", help="use few meshes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    announce()
    cells = []
    if options.amass:
        row = table(
            "Epoch at the size of AMASS", "meshes", "modes", "batch", "precision", "first s", "epoch s", "% of roofline"
        )
        for precision in options.precision:
            for cell in amass(options, precision):
                keys = ("meshes", "freq", "batch", "precision", "first_s", "epoch_s")
                row(*(cell[key] for key in keys), 100 * cell["roofline_fraction"])
                cells.append(cell)
        save(options.json, {"ceilings": {p: ceilings(p) for p in options.precision}, "amass": cells})
        return
    keys = ("meshes", "freq", "batch", "precision", "published_first_s", "published_later_s", "ours_reading_s")
    keys = (*keys, "ours_first_s", "ours_later_s", "ratio_first", "ratio_later")
    row = table("Epoch from files, seconds", *(key.removesuffix("_s").replace("_", " ") for key in keys))
    for precision in options.precision:
        cells.append(compare(options, precision))
        row(*(cells[-1].get(key) for key in keys))
        if "reader" in cells[-1]:
            print(f"reader: {cells[-1]['reader']}")
    save(options.json, cells[0] if len(cells) == 1 else {"cells": cells})


if __name__ == "__main__":
    main()
