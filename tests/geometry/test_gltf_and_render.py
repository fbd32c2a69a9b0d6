import numpy as np
import pytest
from helpers import bumpy_spheres, glb_array, read_glb

from spectral_jax.geometry import gltf, render


def test_an_animation_shows_each_mesh_at_its_time(sphere, tmp_path):
    path = bumpy_spheres(sphere, 4, 0)
    gltf.write_animation(tmp_path / "path.glb", path, sphere.faces, seconds=1.5)
    document, buffer = read_glb(tmp_path / "path.glb")
    (primitive,) = document["meshes"][0]["primitives"]
    np.testing.assert_array_equal(glb_array(document, buffer, primitive["indices"]).reshape(-1, 3), sphere.faces)
    base = glb_array(document, buffer, primitive["attributes"]["POSITION"])
    targets = np.stack([glb_array(document, buffer, target["POSITION"]) for target in primitive["targets"]])
    (sampler,) = document["animations"][0]["samplers"]
    times, weights = (glb_array(document, buffer, sampler[name]) for name in ("input", "output"))
    np.testing.assert_allclose(times, np.linspace(0, 3, 7), atol=1e-6)
    for row, wanted in zip(weights.reshape(7, 3), [0, 1, 2, 3, 2, 1, 0], strict=True):
        shown = base + np.einsum("t,tvc->vc", row, targets)
        np.testing.assert_allclose(shown, path[wanted], atol=1e-6)
    bounds = document["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_allclose(bounds["min"], path[0].min(axis=0))
    np.testing.assert_allclose(bounds["max"], path[0].max(axis=0))


def test_other_readers_open_an_animation(sphere, tmp_path):
    import trimesh

    path = bumpy_spheres(sphere, 3, 0)
    gltf.write_animation(tmp_path / "path.glb", path, sphere.faces)
    (mesh,) = trimesh.load_scene(tmp_path / "path.glb", process=False).geometry.values()
    np.testing.assert_allclose(mesh.vertices, path[0], atol=1e-6)


def test_one_mesh_is_no_animation(sphere, tmp_path):
    with pytest.raises(ValueError, match="at least 2 meshes, not 1"):
        gltf.write_animation(tmp_path / "path.glb", sphere.vertices[None], sphere.faces)


def test_sliders_bear_names_and_lead_to_their_shapes(sphere, tmp_path):
    import trimesh

    base, *shapes = bumpy_spheres(sphere, 3, 0)
    gltf.write_shapes(tmp_path / "shapes.glb", base, sphere.faces, {"thin": shapes[0], "tall": shapes[1]})
    document, buffer = read_glb(tmp_path / "shapes.glb")
    (mesh,) = document["meshes"]
    assert (mesh["extras"]["targetNames"], mesh["weights"]) == (["thin", "tall"], [0, 0])
    for target, shape in zip(mesh["primitives"][0]["targets"], shapes, strict=True):
        moved = glb_array(document, buffer, target["POSITION"])
        np.testing.assert_allclose(base + moved, shape, atol=1e-6)
        bounds = document["accessors"][target["POSITION"]]
        np.testing.assert_array_equal((bounds["min"], bounds["max"]), (moved.min(axis=0), moved.max(axis=0)))
    loaded = trimesh.load_mesh(tmp_path / "shapes.glb", process=False)
    np.testing.assert_array_equal(loaded.vertices, base)
    with pytest.raises(ValueError, match=r"none\.glb: .* at least 1 shape, not 0"):
        gltf.write_shapes(tmp_path / "none.glb", base, sphere.faces, {})


def test_normals_of_a_sphere_point_away_from_its_middle(sphere):
    np.testing.assert_allclose(gltf.vertex_normals(*sphere), sphere.vertices, atol=0.03)


def test_a_coloured_mesh_is_what_gltf_readers_take_it_for(sphere, tmp_path):
    import trimesh

    rgb = np.stack([np.linspace(0, 1, 162), np.full(162, 0.5), np.zeros(162)], axis=1)
    (tmp_path / "mesh.glb").write_bytes(gltf.coloured_mesh(*sphere, rgb))
    mesh = trimesh.load_mesh(tmp_path / "mesh.glb", process=False)
    np.testing.assert_array_equal(mesh.vertices, sphere.vertices)
    np.testing.assert_array_equal(mesh.faces, sphere.faces)
    document, buffer = read_glb(tmp_path / "mesh.glb")
    linear = glb_array(document, buffer, document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"])
    np.testing.assert_allclose(linear[:, 1], 0.21404, atol=1e-4)  # what sRGB calls a half
    assert linear[0, 0] == 0
    assert linear[-1, 0] == pytest.approx(1)


def test_a_picture_shows_the_mesh_in_the_middle_and_shaded(sphere):
    view = render.window(sphere.vertices)
    picture = render.draw(sphere.vertices, sphere.faces, view, size=64)
    assert picture.shape == (64, 64, 3)
    covered = (picture < 255).any(axis=-1)
    assert 0.8 < covered.sum() / (np.pi * (32 / 1.08) ** 2) < 1.1  # a disc, but for the margin
    assert np.abs(np.argwhere(covered).mean(axis=0) - 31.5).max() < 1
    assert np.ptp(picture[covered].mean(axis=-1)) > 60


def test_colours_are_those_of_the_faces_and_up_is_up(sphere):
    above = sphere.vertices[sphere.faces].mean(axis=1)[:, 1] > 0
    colours = np.where(above[:, None], [[1.0, 0, 0]], [[0, 0, 1.0]])
    picture = render.draw(sphere.vertices, sphere.faces, render.window(sphere.vertices), 64, colours=colours)
    top, bottom = picture[16, 32].astype(int), picture[48, 32].astype(int)
    assert top[0] > 60
    assert top[2] < 20
    assert bottom[2] > 60
    assert bottom[0] < 20


def test_a_gif_goes_there_and_back(sphere, tmp_path):
    from PIL import Image

    view = render.window(sphere.vertices)
    frames = [render.draw(sphere.vertices * scale, sphere.faces, view, 32) for scale in (1.0, 0.8, 0.6)]
    render.write_gif(tmp_path / "path.gif", frames)
    with Image.open(tmp_path / "path.gif") as image:
        assert image.n_frames == 4
        assert image.size == (32, 32)


def test_without_pillow_one_is_told_what_to_install(sphere, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"pip install 'spectral-jax\[pictures\]'"):
        render.draw(sphere.vertices, sphere.faces, render.window(sphere.vertices))
