"""Draw the README's picture: test meshes above, their reconstructions coloured by error below.

pip install pillow
python tools/make_pictures.py runs/demo data/demo docs/pictures/reconstructions.png
"""

import argparse

import numpy as np
from PIL import Image, ImageDraw

import spectral_jax as sj
from spectral_jax.geometry import render
from spectral_jax.geometry.colours import error_colours
from spectral_jax.geometry.metrics import vertex_errors_mm

MAX_MM = 50.0  # the error of the last colour
SIZE = 220  # pixels of a mesh
FOOT = 90  # pixels below the meshes, for their errors and the colour scale
SCALE = 400  # pixels of the width of the colour scale


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
    coefficients = np.stack([example.coefficients[: run.config.model.modes] for example in examples])
    rebuilt = sj.Codec.of(run).reconstruct(coefficients)
    errors_mm = np.asarray(vertex_errors_mm(rebuilt, vertices))

    faces, columns = np.asarray(run.basis.faces), []
    view = render.window(np.concatenate([vertices, rebuilt]))
    for original, mesh, mm in zip(vertices, rebuilt, errors_mm, strict=True):
        colours = error_colours(mm[faces].mean(axis=1), 0.0, MAX_MM)
        below = render.draw(mesh, faces, view, SIZE, colours=colours)
        columns.append(np.concatenate([render.draw(original, faces, view, SIZE), below]))
    meshes = Image.fromarray(np.concatenate(columns, axis=1))
    picture = Image.new("RGB", (meshes.width, meshes.height + FOOT), "white")
    picture.paste(meshes)
    draw = ImageDraw.Draw(picture)
    for i, mm in enumerate(errors_mm):
        draw.text((SIZE * (i + 0.5), 2 * SIZE), f"{mm.mean():.1f} mm", fill="black", font_size=14, anchor="ma")
    left, top = (picture.width - SCALE) // 2, 2 * SIZE + 38
    scale = error_colours(np.linspace(0, 1, SCALE), 0.0, 1.0)
    picture.paste(Image.fromarray(np.tile((255 * scale).round().astype(np.uint8), (14, 1, 1))), (left, top))
    for share in (0, 0.5, 1):
        text = f"{share * MAX_MM:g}" + (" mm vertex error" if share == 1 else "")
        draw.text((left + share * SCALE, top + 18), text, fill="black", font_size=13, anchor="ma")
    picture.save(options.picture)


if __name__ == "__main__":
    main()
