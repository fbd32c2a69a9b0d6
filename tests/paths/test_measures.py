import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.network.density import fit_gaussian
from spectral_jax.paths.measures import measure, round_trip

AMOUNTS = np.linspace(0, 1, 9, dtype=np.float32)[:, None, None]


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]], np.float32)


def test_a_shift_is_even_and_changes_no_shape(sphere):
    shift = np.array([0.3, 0, 0.4], np.float32)
    found = measure(sphere.vertices + AMOUNTS * shift, sphere.faces)
    assert found.length_mm == pytest.approx(500, rel=1e-5)
    assert found.longest_step_mm == pytest.approx(500 / 8, rel=1e-5)
    rest = (found.step_unevenness, found.edge_distortion, found.area_distortion, found.volume_change)
    np.testing.assert_allclose(rest, 0, atol=1e-5)
    assert found.nearest_mm is None


def test_unevenness_is_the_deviation_of_the_steps_over_their_mean(sphere):
    found = measure(sphere.vertices + AMOUNTS**2, sphere.faces)
    steps = np.diff(AMOUNTS.ravel() ** 2)
    assert found.step_unevenness == pytest.approx(steps.std() / steps.mean(), rel=1e-4)
    assert found.longest_step_mm == pytest.approx(1000 * np.sqrt(3) * steps.max(), rel=1e-4)
    np.testing.assert_allclose((found.edge_distortion, found.volume_change), 0, atol=1e-5)


@pytest.mark.parametrize("pace", [1, 2])
def test_growth_is_measured_against_the_ends_whatever_its_pace(sphere, pace):
    scales = 1 + AMOUNTS**pace
    found = measure(scales * sphere.vertices, sphere.faces)
    s = scales.ravel().astype(np.float64)
    assert found.length_mm == pytest.approx(1000 * np.linalg.norm(sphere.vertices, axis=1).mean(), rel=1e-5)
    assert found.edge_distortion == pytest.approx(0, abs=1e-5)
    assert found.area_distortion == pytest.approx(np.abs(np.log(s**2 / (3 * s - 2)))[1:-1].mean(), rel=1e-3)
    assert found.volume_change == pytest.approx(np.abs(s**3 / (7 * s - 6) - 1).max(), rel=1e-4)


def test_a_straight_quarter_turn_shrinks_and_a_true_one_does_not(sphere):
    turned = sphere.vertices @ rotation(np.pi / 2).T
    line = measure(sphere.vertices + AMOUNTS * (turned - sphere.vertices), sphere.faces)
    assert line.volume_change == pytest.approx(0.5, rel=1e-4)  # (1 - t)^2 + t^2 of it is left at t
    assert line.edge_distortion > 0.1
    assert line.area_distortion > 0.1
    arc = measure(np.stack([sphere.vertices @ rotation(a).T for a in np.pi / 2 * AMOUNTS.ravel()]), sphere.faces)
    assert arc.length_mm > 1.1 * line.length_mm
    np.testing.assert_allclose((arc.edge_distortion, arc.area_distortion, arc.volume_change), 0, atol=1e-5)


def test_measures_do_not_depend_on_where_the_meshes_stand_nor_on_the_direction(sphere):
    path = sphere.vertices * (1 + AMOUNTS * np.array([0.2, -0.3, 1.0], np.float32)) ** 2
    here = measure(path, sphere.faces)
    for other in (path @ rotation(1).T + np.array([1, 2, 3], np.float32), path[::-1]):
        there = measure(other, sphere.faces)
        for name in ("length_mm", "step_unevenness", "edge_distortion", "area_distortion", "volume_change"):
            assert getattr(there, name) == pytest.approx(getattr(here, name), rel=1e-3), name


def test_collapsed_and_standing_meshes_have_finite_measures(sphere):
    still = measure(np.repeat(sphere.vertices[None], 9, axis=0), sphere.faces)
    np.testing.assert_allclose(list(vars(still).values())[:-1], 0, atol=1e-6)
    through_a_point = measure((1 - 2 * AMOUNTS) * sphere.vertices, sphere.faces)
    assert np.isfinite(list(vars(through_a_point).values())[:-1]).all()
    assert through_a_point.edge_distortion > 1
    two = measure(sphere.vertices + AMOUNTS[[0, -1]], sphere.faces)
    assert (two.edge_distortion, two.step_unevenness) == (0, 0)


@pytest.mark.parametrize("count", [1, 8, 19])
def test_distance_to_the_nearest_reference_is_that_of_a_search_over_all(sphere, count):
    rng = np.random.default_rng(count)
    path = sphere.vertices + AMOUNTS
    references = (sphere.vertices + rng.uniform(0, 1, (count, 1, 3))).astype(np.float32)
    found = measure(path, sphere.faces, references)
    distances = 1000 * np.linalg.norm(path[1:-1, None] - references, axis=-1).mean(axis=-1)
    assert found.nearest_mm == pytest.approx(distances.min(axis=1).mean(), rel=1e-4)
    assert measure(path, sphere.faces, path).nearest_mm == 0


def test_round_trip_is_relative_to_the_spread():
    latents = np.random.default_rng(0).standard_normal((50, 3), np.float32)
    spread = float(jnp.linalg.norm(fit_gaussian(latents).factor))
    assert spread == pytest.approx(np.sqrt(((latents - latents.mean(axis=0)) ** 2).sum() / 49), rel=1e-5)
    assert round_trip(lambda x: x[..., 0] / 2, lambda z: 2 * z[..., None], latents, spread) == 0
    shift = jnp.array([[0.3, 0, 0.4]])
    assert round_trip(lambda x: x + shift, lambda z: z, latents, spread) == pytest.approx(0.5 / spread, rel=1e-4)


def test_mistakes_are_refused_with_the_values(sphere):
    path = sphere.vertices + AMOUNTS
    with pytest.raises(ValueError, match="at least 2 meshes, not 1"):
        measure(path[:1], sphere.faces)
    with pytest.raises(ValueError, match=r"of 162 vertices, not \(9, 161\)"):
        measure(path, sphere.faces, path[:, 1:])
    with pytest.raises(ValueError, match=r"one or more meshes of 162 vertices, not \(0, 162\)"):
        measure(path, sphere.faces, path[:0])
    with pytest.raises(ValueError, match="there are 162 vertices"):
        measure(path, sphere.faces + 1)
