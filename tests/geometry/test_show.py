"""Interactive pictures of meshes."""

import numpy as np
import pytest

import spectral_jax as sj


def paths_of(mesh, count):
    return [mesh._replace(vertices=mesh.vertices * (1 + 0.1 * i)) for i in range(count)]


def test_a_mesh_is_drawn_to_scale_with_its_faces(sphere):
    figure = sj.show(sphere._replace(vertices=sphere.vertices * (1, 2, 3)))
    (drawn,) = figure.data
    np.testing.assert_array_equal(
        np.stack([drawn.x, drawn.y, drawn.z], axis=1), sphere.vertices * np.float32((1, 2, 3))
    )
    np.testing.assert_array_equal(np.stack([drawn.i, drawn.j, drawn.k], axis=1), sphere.faces)
    scene = figure.layout.scene
    per_metre = [scene.aspectratio[axis] / np.ptp(scene[f"{axis}axis"].range) for axis in "xyz"]
    np.testing.assert_allclose(per_metre, per_metre[0], rtol=1e-6)
    assert not figure.frames
    assert "vertex %{pointNumber}" in drawn.hovertemplate


@pytest.mark.parametrize(("up", "right"), [("x", (0, -1, 0)), ("y", (1, 0, 0)), ("z", (1, 0, 0))])
def test_the_up_axis_points_up_and_the_front_is_that_of_the_datasets(sphere, up, right):
    scene = sj.show(sphere, up=up).layout.scene
    assert scene.dragmode == "orbit"  # with a turntable, plotly takes z for up
    camera = scene.camera
    upwards, eye = (np.array([side[axis] for axis in "xyz"]) for side in (camera.up, camera.eye))
    np.testing.assert_array_equal(upwards, [axis == up for axis in "xyz"])
    assert eye @ np.cross(right, upwards) == eye @ np.cross(right, upwards).clip(-1, 1) == max(abs(eye))


def test_a_path_has_a_frame_a_mesh_in_a_box_that_holds_all(sphere):
    path = paths_of(sphere, 4)
    figure = sj.show(path)
    assert len(figure.frames) == len(figure.layout.sliders[0].steps) == 4
    for mesh, frame in zip(path, figure.frames, strict=True):
        np.testing.assert_array_equal(frame.data[0].y, mesh.vertices[:, 1])
    assert figure.layout.scene.yaxis.range[1] >= path[-1].vertices[:, 1].max() - 1e-6
    assert [step.args[0] for step in figure.layout.sliders[0].steps] == [(frame.name,) for frame in figure.frames]
    play, pause = figure.layout.updatemenus[0].buttons
    assert (play.method, play.args[0], pause.method) == ("animate", None, "animate")


def test_values_of_a_path_share_one_scale(sphere):
    path, errors = paths_of(sphere, 3), np.linspace(0, 7, 3 * 162).reshape(3, 162)
    figure = sj.show(path, errors)
    assert (figure.data[0].cmin, figure.data[0].cmax) == (0, 7)
    np.testing.assert_allclose(figure.frames[2].data[0].intensity, errors[2], rtol=1e-6)
    signed = sj.show(sphere, sphere.vertices[:, 0] * 2)  # such as an eigenmode: 0 in the middle
    assert signed.data[0].cmin == -signed.data[0].cmax
    assert "intensity" in signed.data[0].hovertemplate


def test_a_mesh_of_a_path_takes_no_more_than_its_numbers(sphere):
    """Less than 8 bytes a coordinate, as float32 in base64 and not as text, and some words around them."""
    few, many = (len(sj.show(paths_of(sphere, count)).to_json()) for count in (10, 20))
    assert many - few < 10 * (8 * 3 * 162 + 600)


def test_what_cannot_be_shown_is_refused(sphere):
    with pytest.raises(ValueError, match="at least 1"):
        sj.show([])
    with pytest.raises(ValueError, match=r"mesh 1.*319.*320"):
        sj.show([sphere, sphere._replace(faces=sphere.faces[:-1])])
    with pytest.raises(ValueError, match=r"mesh 1.*\(100, 3\).*\(162, 3\)"):
        sj.show([sphere, sphere._replace(vertices=sphere.vertices[:100])])
    with pytest.raises(ValueError, match=r"\(5,\).*\(162,\)"):
        sj.show(sphere, np.zeros(5))
    with pytest.raises(ValueError, match="not finite"):
        sj.show(sphere._replace(vertices=sphere.vertices * np.float32(np.nan)))
