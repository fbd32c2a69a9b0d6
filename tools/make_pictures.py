"""Draw the README's picture: test meshes above, their reconstructions coloured by error below.

pip install matplotlib
python tools/make_pictures.py runs/demo data/demo docs/reconstructions.png
"""

import argparse

import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection

import spectral_jax as sj
from spectral_jax.geometry.metrics import vertex_errors_mm

LIGHT = np.array([0.3, 0.5, 0.8])
LARGEST_MM = 50.0


def draw(axes, vertices, faces, colours):
    """A mesh seen from the front, a little from the side; colours (face, 3) in [0, 1]."""
    turn = np.radians(25)
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    corners = (vertices @ rotation.T)[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    shade = 0.35 + 0.65 * np.clip(normals @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
    seen = np.flatnonzero(normals[:, 2] > 0)
    order = seen[np.argsort(corners[seen, :, 2].mean(axis=1))]
    shaded = np.clip(colours[order] * shade[order, None], 0, 1)
    axes.add_collection(PolyCollection(corners[order, :, :2], facecolors=shaded, edgecolors=shaded, linewidths=0.3))
    axes.set(xlim=(-0.95, 0.95), ylim=(-1.2, 1.3), aspect="equal")
    axes.axis("off")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("picture")
    parser.add_argument("--meshes", type=int, nargs="*", default=[102, 160, 212, 305, 424, 555])
    options = parser.parse_args()

    run = sj.load_run(options.run)
    examples = [sj.open_data(options.data).splits["test"][i] for i in options.meshes]
    vertices = np.stack([example.vertices for example in examples])
    coefficients = jnp.stack([example.coefficients[: run.config.model.modes] for example in examples])
    rebuilt = np.asarray(sj.reconstruct(run.basis, run.model.apply({"params": run.params}, coefficients)))
    errors = np.asarray(vertex_errors_mm(rebuilt, vertices))

    colours = matplotlib.colormaps["viridis"]
    figure, rows = plt.subplots(2, len(examples), figsize=(2 * len(examples), 5.2), layout="constrained")
    for column, (above, below) in enumerate(rows.T):
        draw(above, vertices[column], run.basis.faces, np.full((len(run.basis.faces), 3), 0.75))
        error = errors[column][run.basis.faces].mean(axis=1)
        draw(below, rebuilt[column], run.basis.faces, colours(error / LARGEST_MM)[:, :3])
        below.set_title(f"{errors[column].mean():.1f} mm", fontsize=9, y=-0.07)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, LARGEST_MM), colours)
    figure.colorbar(scale, ax=rows, shrink=0.5, label="vertex error (mm)")
    figure.savefig(options.picture, dpi=110)


if __name__ == "__main__":
    main()
