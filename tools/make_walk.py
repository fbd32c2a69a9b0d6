"""Draw the README's animation: bodies walk through latent space from one unseen test mesh to the next, and back.

pip install pillow
python tools/make_walk.py runs/demo-residual docs/pictures/walk.gif
"""

import argparse

import numpy as np
from PIL import Image

import spectral_jax as sj
from spectral_jax.geometry import render

SIZE = 210  # pixels of a body
STEPS = 18  # frames from one mesh to the next
WALKS = (
    (12, 305, 650),
    (102, 555, 700),
    (424, 160, 30),
    (600, 212, 400),
)  # test meshes
INKS = 64  # of the animation: greys


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("picture")
    options = parser.parse_args()

    run = sj.load_run(options.run)
    codec, test, faces = sj.Codec.of(run), sj.open_data(run.config.data).splits["test"], np.asarray(run.basis.faces)
    ease = (1 - np.cos(np.linspace(0, np.pi, STEPS, endpoint=False))) / 2
    paths = []
    for rows in WALKS:
        latents = codec.encode(np.stack([test[row].coefficients for row in rows]))
        legs = [a + ease[:, None] * (b - a) for a, b in zip(latents, np.roll(latents, -1, axis=0), strict=True)]
        paths.append(codec.decode_vertices(np.concatenate(legs)))
    view = render.window(np.concatenate(paths))
    frames = [
        Image.fromarray(np.concatenate([render.draw(mesh, faces, view, SIZE) for mesh in meshes], axis=1))
        for meshes in zip(*paths, strict=True)
    ]
    palette = frames[0].quantize(INKS)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    small[0].save(options.picture, save_all=True, append_images=small[1:], duration=55, loop=0, optimize=True)


if __name__ == "__main__":
    main()
