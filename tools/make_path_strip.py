"""Draw the README's strip: ways from one test mesh to another, one row a method.

python tools/make_path_strip.py runs/demo docs/paths.png --from 12 --to 700
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from spectral_jax.basis import spectral
from spectral_jax.commands.interpolate import METHODS, walk
from spectral_jax.commands.network import open_network, read_mesh
from spectral_jax.geometry import render


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("picture")
    parser.add_argument("--from", dest="start", default="102")
    parser.add_argument("--to", dest="end", default="305")
    parser.add_argument("--steps", type=int, default=7)
    options = parser.parse_args()

    network = open_network(options.run, None)
    ends = [read_mesh(text, network, "test") for text in (options.start, options.end)]
    amounts = np.linspace(0, 1, options.steps, dtype=np.float32)
    paths = {
        m: spectral.reconstruct(network.run.basis, walk(m, network, ends, amounts)["coefficients"]) for m in METHODS
    }
    view, faces = render.window(np.stack(list(paths.values()))), np.asarray(network.run.basis.faces)
    rows = [np.concatenate([render.draw(np.asarray(v), faces, view, 160) for v in path], 1) for path in paths.values()]
    picture = Image.fromarray(np.concatenate(rows))
    for i, method in enumerate(paths):
        ImageDraw.Draw(picture).text((4, 160 * i + 4), method, fill="black", font_size=13)
    picture.save(options.picture)


if __name__ == "__main__":
    main()
