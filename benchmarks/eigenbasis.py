"""Measure time, memory and accuracy of the eigensolver at real sizes, each size in its own process.

python benchmarks/eigenbasis.py                    # the sizes in the README
python benchmarks/eigenbasis.py --cell 12272 4096  # one size
python benchmarks/eigenbasis.py --dense            # LAPACK instead (takes minutes and gigabytes)
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
from build_dataset import closed_mesh

from spectral_jax.basis import eigen
from spectral_jax.bodies.smplh import demo_body_path, load_body
from spectral_jax.geometry import mesh

CELLS = [(12272, 4096), (6890, 4096), (50000, 512)]


def measure(vertices: int, modes: int, dense: bool) -> dict[str, object]:
    """Measure one size: the body of 12,272 vertices, or a sphere with another number of vertices."""
    faces = load_body(demo_body_path(12272)).faces if vertices == 12272 else closed_mesh(vertices)[1]
    laplacian = mesh.graph_laplacian(mesh.edges(faces, vertices), vertices)
    start = time.perf_counter()
    eigenvalues, found = (eigen.dense if dense else eigen.sliced)(laplacian, modes)
    seconds, memory = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    blocks = [slice(i, i + 256) for i in range(0, modes, 256)]
    residual = max(np.linalg.norm(laplacian @ found[:, b] - found[:, b] * eigenvalues[b], axis=0).max() for b in blocks)
    gram = max(abs(found[:, b].T @ found - np.eye(modes)[b]).max() for b in blocks)
    return {
        "vertices": vertices,
        "modes": modes,
        "solver": "dense" if dense else "sliced",
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(memory, 2),
        "residual": float(f"{residual:.1e}"),
        "orthonormality": float(f"{gram:.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", type=int, nargs=2, metavar=("VERTICES", "MODES"))
    parser.add_argument("--dense", action="store_true")
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(*options.cell, options.dense)), flush=True)
        return
    for vertices, modes in CELLS:
        cell = [sys.executable, __file__, "--cell", str(vertices), str(modes)]
        subprocess.run(cell + ["--dense"] * options.dense, check=True)


if __name__ == "__main__":
    main()
