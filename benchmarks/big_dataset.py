"""Make a dataset of the size of AMASS from the fine demo bodies, for `train`, `eval` and the other benchmarks.

    python benchmarks/big_dataset.py /tmp/big                    # a prepared dataset: 7.5 GB, minutes
    python benchmarks/big_dataset.py /tmp/big --layout 2026      # the same in the published layout of .npy files

Each mesh is a random blend of three demo bodies of its split, plus noise that is smaller at higher frequencies.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.commands.console import Bars
from spectral_jax.data import posed_bodies, writer
from spectral_jax.data.dataset import Data, Example, open_prepared
from spectral_jax.data.recipes import DemoRecipe
from spectral_jax.files.progress import Progress
from spectral_jax.geometry.mesh import Mesh

SIZES = {"train": 111_327, "test": 10_733}  # meshes of AMASS
BLENDED = 3  # bodies in a blend
NOISE = 0.02  # of a coefficient's standard deviation, in the noise
NAMES = {"train": "train", "test": "vald"}  # of the splits in the layout of 2026
SLAB = 512  # meshes made at once
TEXTS = ("identity", "dataset", "file", "frame_idx", "gender")


class Blends:
    """Random blends of the bodies of a split, as examples in order; equal seeds give equal ones."""

    def __init__(self, data: Data, split: str, count: int):
        self.bodies, self.count = list(data.splits[split]), count
        self.coefficients = np.stack([body.coefficients for body in self.bodies])
        self.scale = NOISE * self.coefficients.std(axis=0)
        self.modes = np.asarray(data.basis.modes)

    def slabs(self) -> Iterator[tuple[np.ndarray, np.ndarray | None, list[tuple]]]:
        """Yield coefficients, vertices if the split has them, and labels of the next meshes."""
        rng = np.random.default_rng(0)
        vertices = [body.vertices for body in self.bodies]
        for start in range(0, self.count, SLAB):
            size = min(SLAB, self.count - start)
            chosen = rng.integers(len(self.bodies), size=(size, BLENDED))
            weights = rng.dirichlet(np.ones(BLENDED), size).astype(np.float32)
            noise = rng.standard_normal((size, *self.scale.shape), np.float32) * self.scale
            coefficients = self.blend(self.coefficients, chosen, weights) + noise
            kept = None
            if vertices[0] is not None:
                kept = self.blend(vertices, chosen, weights) + np.einsum(
                    "vf,mfc->mvc", self.modes, noise, optimize=True
                )
            frames = range(start, start + size)
            labels = [
                (self.bodies[i].identity, "blends", f"{frame:06d}.ply", frame, self.bodies[i].gender)
                for i, frame in zip(chosen[:, 0], frames, strict=True)
            ]
            yield coefficients, kept, labels

    @staticmethod
    def blend(meshes, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the weighted sums of the chosen meshes."""
        rows = zip(chosen, weights, strict=True)
        return np.stack([sum(w * meshes[i] for i, w in zip(*row, strict=True)) for row in rows])

    def examples(self) -> Iterator[Example]:
        """Yield all meshes as examples."""
        for coefficients, vertices, labels in self.slabs():
            for i, label in enumerate(labels):
                yield Example(coefficients[i], None if vertices is None else vertices[i], *label)


def write_2026(out: Path, basis: SpectralBasis, splits: dict[str, Blends], progress: Progress) -> Path:
    """Write the published layout of 2026 into a root folder; return the dataset folder in it."""
    folder = out / "Datasets" / "BLENDS"
    folder.mkdir(parents=True)
    np.savetxt(out / "smpl_faces.txt", basis.faces, fmt="%d")
    np.save(out / f"evecs_GL_{basis.num_vertices}.npy", np.asarray(basis.modes))
    counts = {f"nb_{NAMES[name]}": split.count for name, split in splits.items()}
    (folder / "infos.json").write_text(json.dumps(counts))
    for name, split in splits.items():
        shapes = {"coeffs": (basis.num_modes, 3), "vertices": (basis.num_vertices, 3)}
        if split.bodies[0].vertices is None:
            del shapes["vertices"]
        labels, arrays = [], {}
        for part, shape in shapes.items():
            path = folder / f"{NAMES[name]}_{part}.npy"
            arrays[part] = np.lib.format.open_memmap(path, "w+", np.float32, (split.count, *shape))
        for coefficients, vertices, more in split.slabs():
            rows = slice(len(labels), len(labels) + len(more))
            arrays["coeffs"][rows] = coefficients
            if vertices is not None:
                arrays["vertices"][rows] = vertices
            labels += [dict(zip(TEXTS, label, strict=True)) for label in more]
            progress.update(f"writing {name}", len(labels), split.count)
        (folder / f"{NAMES[name]}_infos.json").write_text(json.dumps(labels))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--layout", choices=("prepared", "2026"), default="prepared")
    parser.add_argument("--meshes", type=int, default=SIZES["train"], help="of the train split")
    parser.add_argument("--test-meshes", type=int, default=SIZES["test"])
    parser.add_argument("--vertices", type=int, choices=(1229, 12272), default=12272)
    parser.add_argument("--modes", type=int, default=4096)
    options = parser.parse_args()
    writer.check_replaceable(options.out, overwrite=False)
    counts = {"train": options.meshes, "test": options.test_meshes}
    with Bars() as bars:
        with tempfile.TemporaryDirectory() as folder:
            recipe = DemoRecipe(out=Path(folder) / "bodies", vertices=options.vertices, modes=options.modes)
            data = open_prepared(posed_bodies.demo(recipe, bars))
            splits = {name: Blends(data, name, count) for name, count in counts.items()}
        if options.layout == "2026":
            write_2026(options.out, data.basis, splits, bars)
        else:
            template = Mesh(splits["test"].bodies[0].vertices, np.asarray(data.basis.faces))
            examples = {name: split.examples() for name, split in splits.items()}
            writer.write(options.out, data.basis, template, examples, {"recipe": "blends", **counts}, progress=bars)


if __name__ == "__main__":
    main()
