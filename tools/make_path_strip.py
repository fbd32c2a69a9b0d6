"""Draw the README's strip: paths between two test meshes, a row for each method.

python tools/make_path_strip.py runs/demo docs/pictures/paths.png --from 12 --to 700
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from spectral_jax.basis import spectral
from spectral_jax.commands.interpolate import METHODS, interpolate_between
from spectral_jax.geometry import render
from spectral_jax.runs.opened import open_run, read_coefficients

SIZE = 160  # pixels of a mesh


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("picture")
    parser.add_argument("--from", dest="start", default="102")
    parser.add_argument("--to", dest="end", default="305")
    parser.add_argument("--steps", type=int, default=7)
    options = parser.parse_args()

    opened = open_run(options.run)
    ends = [read_coefficients(opened, text, "test") for text in (options.start, options.end)]
    amounts = np.linspace(0, 1, options.steps, dtype=np.float32)
    found = [interpolate_between(ends, method, opened, amounts)["coefficients"] for method in METHODS]
    paths = np.asarray(spectral.reconstruct(opened.run.basis, np.stack(found)))  # (method, step, vertex, 3)
    view, faces = render.window(paths), np.asarray(opened.run.basis.faces)
    rows = [np.concatenate([render.draw(mesh, faces, view, SIZE) for mesh in path], axis=1) for path in paths]
    picture = Image.fromarray(np.concatenate(rows))
    for i, method in enumerate(METHODS):
        ImageDraw.Draw(picture).text((4, SIZE * i + 4), method, fill="black", font_size=13)
    picture.save(options.picture)


if __name__ == "__main__":
    main()
