import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import rounding

from spectral_jax.basis import spectral
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.paths.interpolate import (
    energy,
    geodesic,
    low_pass,
    metric,
    mix_bands,
    nearest,
    spherical,
    spline,
    straight,
    traverse,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


START, END = normal(2, 5)
AMOUNTS = np.linspace(0, 1, 9, dtype=np.float32)
WEIGHTS = normal(5, 12, seed=1)
ROTATION = np.linalg.qr(normal(3, 3, seed=2))[0]
IDENTITY = np.eye(3, dtype=np.float32)


def globe(latents):
    """The unit sphere by longitude and latitude."""
    longitude, latitude = latents.T
    x, y = jnp.cos(latitude) * jnp.cos(longitude), jnp.cos(latitude) * jnp.sin(longitude)
    return jnp.stack([x, y, jnp.sin(latitude)], axis=-1)[:, None]


def plane(latents):
    """The unit sphere by its stereographic projection."""
    square = jnp.sum(latents**2, axis=1, keepdims=True)
    return (jnp.concatenate([2 * latents, square - 1], axis=1) / (1 + square))[:, None]


def bent(latents, weights=WEIGHTS, wave=0.5):
    """A smooth decoder of five latents to 4 modes, linear without a wave."""
    mixed = jnp.einsum("bl,lo->bo", latents, weights)
    return (mixed + wave * jnp.sin(mixed)).reshape(-1, 4, 3)


@jax.jit
def solve_bent(start, end, weights, wave, rotation, shift):
    def decode(latents):
        return jnp.einsum("bfc,cd->bfd", bent(latents, weights, wave), rotation) + shift

    return geodesic(decode, start, end, num_points=9)


def bent_geodesic(start, end, weights=WEIGHTS, wave=0.5, rotation=IDENTITY, shift=0.0):
    return solve_bent(start, end, weights, wave, rotation, shift)


@jax.jit
def sphere_geodesic(start, end, projected):
    return geodesic(lambda latents: jnp.where(projected, plane(latents), globe(latents)), start, end, num_points=17)


PATHS = {
    "straight": lambda a, b: straight(a, b, AMOUNTS),
    "spherical": lambda a, b: spherical(a, b, AMOUNTS),
    "spline": lambda a, b: spline(jnp.stack([a, jnp.cos(a + b), b]), AMOUNTS),
    "geodesic": lambda a, b: bent_geodesic(a, b).latents,
}


@pytest.mark.parametrize("method", PATHS)
def test_paths_end_exactly_at_their_ends_and_the_way_back_is_the_same(method):
    path = np.asarray(PATHS[method](START, END))
    np.testing.assert_array_equal(path[[0, -1]], [START, END])
    np.testing.assert_allclose(np.asarray(PATHS[method](END, START))[::-1], path, atol=rounding(path, 20))
    assert path.shape == (9, 5)


@pytest.mark.parametrize("method", PATHS)
def test_paths_map_over_pairs(method):
    starts, ends = normal(2, 3, 5)
    together = jax.jit(jax.vmap(PATHS[method]))(starts, ends)
    alone = [PATHS[method](a, b) for a, b in zip(starts, ends, strict=True)]
    np.testing.assert_allclose(together, np.stack(alone), atol=2e-3 if method == "geodesic" else rounding(together, 20))


def test_amounts_outside_go_beyond_the_ends():
    a, b = np.array([2.0, 0, 0], np.float32), np.array([0, 3.0, 0], np.float32)
    beyond = np.array([-1.0, 2.0], np.float32)
    np.testing.assert_allclose(straight(a, b, beyond), [2 * a - b, 2 * b - a])
    np.testing.assert_allclose(spherical(a, b, beyond), [[0, -1, 0], [-4, 0, 0]], atol=rounding(4, 20))
    ahead = np.asarray(spline(np.stack([a, a + b, b]), np.array([-2, -1, -1e-3, 0, 1, 1 + 1e-3, 2, 3], np.float32)))
    np.testing.assert_allclose(ahead[0] - ahead[1], ahead[1] - ahead[3], rtol=1e-5)
    np.testing.assert_allclose(ahead[0] - ahead[1], 1e3 * (ahead[2] - ahead[3]), atol=2e-3)
    np.testing.assert_allclose(ahead[7] - ahead[6], ahead[6] - ahead[4], rtol=1e-5)
    np.testing.assert_allclose(ahead[7] - ahead[6], 1e3 * (ahead[5] - ahead[4]), atol=2e-3)


def test_straight_path_turns_and_moves_with_the_meshes(sphere, sphere_basis):
    kept = spectral.truncate(sphere_basis, 32)
    pair = np.stack([sphere.vertices, sphere.vertices**3])
    shift = np.array([1, 2, 3], np.float32)

    def frames(pair):
        start, end = spectral.project(kept, pair)
        return np.asarray(spectral.reconstruct(kept, straight(start, end, np.array([-0.5, 0, 0.3, 1, 2], np.float32))))

    modes, moved = abs(kept.modes), pair @ ROTATION + shift
    tolerance = rounding(modes @ (modes.T @ abs(moved)), 162)
    np.testing.assert_allclose(frames(moved), frames(pair) @ ROTATION + shift, atol=tolerance)


def test_spherical_turns_steadily_while_the_norm_grows_linearly():
    path = np.asarray(spherical(START, END, AMOUNTS))
    norms = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(norms, norms[0] + AMOUNTS * (norms[-1] - norms[0]), rtol=1e-6)
    units = path / norms[:, None]
    angles = np.arccos((units[:-1] * units[1:]).sum(axis=1))
    np.testing.assert_allclose(angles, np.arccos(units[0] @ units[-1]) / 8, rtol=1e-4)


@pytest.mark.parametrize("angle", [0, 1e-6, 1e-4, 1e-3])
def test_spherical_becomes_straight_as_ends_become_parallel(angle):
    a = np.array([1.0, 0.0, 0.0], np.float32)
    b = 2 * np.array([np.cos(angle), np.sin(angle), 0.0], np.float32)
    np.testing.assert_allclose(spherical(a, b, AMOUNTS), straight(a, b, AMOUNTS), atol=rounding(2, 20) + 0.3 * angle)


@pytest.mark.parametrize(("start", "end"), [((1, 2), (-2, -4)), ((0, 0), (1, 2)), ((1, 2), (0, 0)), ((0, 0), (0, 0))])
def test_spherical_is_straight_between_opposite_ends_and_from_zero(start, end):
    a, b = np.array(start, np.float32), np.array(end, np.float32)
    np.testing.assert_array_equal(spherical(a, b, AMOUNTS), straight(a, b, AMOUNTS))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_spline_is_the_natural_cubic_one_through_its_points(count):
    import scipy.interpolate

    points = normal(count, 4)
    knots = np.linspace(0, 1, count)
    np.testing.assert_allclose(spline(points, knots.astype(np.float32)), points, atol=rounding(points, 20))
    amounts = np.linspace(0, 1, 50, dtype=np.float32)
    expected = scipy.interpolate.CubicSpline(knots, points, bc_type="natural")(amounts)
    np.testing.assert_allclose(spline(points, amounts), expected, atol=rounding(expected, 50))
    if count == 2:
        np.testing.assert_allclose(
            spline(points, amounts), straight(points[0], points[1], amounts), atol=rounding(points, 20)
        )


@pytest.mark.parametrize(
    ("chart", "start", "end"),
    [
        (globe, (0.0, 0.0), (1.0, 0.5)),
        (globe, (0.0, 1.2), (2.5, 1.2)),
        (globe, (2.0, 0.1), (-0.3, -0.6)),
        (plane, (0.2, 0.1), (1.0, -1.0)),
        (plane, (-1.5, 0.5), (1.5, 0.7)),
    ],
)
def test_geodesics_of_a_sphere_are_great_circles_evenly_walked(chart, start, end):
    start, end = np.array(start, np.float32), np.array(end, np.float32)
    found = sphere_geodesic(start, end, chart is plane)
    points = np.asarray(chart(found.latents), np.float64)[:, 0]
    angle = np.arccos(points[0] @ points[-1])
    assert bool(found.converged)
    assert 0 < int(found.iterations) < 15
    assert float(found.energy) == pytest.approx((16 * 2 * np.sin(angle / 32)) ** 2, rel=1e-5)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert 32 * np.arcsin(steps / 2).mean() == pytest.approx(angle, rel=1e-5)
    assert steps.std() < 1e-3 * steps.mean()
    normal = np.cross(points[0], points[-1]) / np.sin(angle)
    assert np.abs(points @ normal).max() < 1e-3
    line = chart(straight(start, end, np.linspace(0, 1, 17, dtype=np.float32)))
    assert float(found.straight_energy) == pytest.approx(float(energy(line)), rel=1e-5)


@pytest.mark.parametrize("weights", [WEIGHTS, 0 * WEIGHTS])
def test_geodesic_of_a_linear_decoder_is_the_straight_line_at_once(weights):
    found = bent_geodesic(START, END, weights, 0.0)
    np.testing.assert_allclose(found.latents, straight(START, END, AMOUNTS), atol=1e-6)
    assert (int(found.iterations), bool(found.converged), found.energy) == (0, True, found.straight_energy)


def test_geodesic_between_equal_ends_does_not_move():
    found = bent_geodesic(START, START)
    np.testing.assert_array_equal(found.latents, np.broadcast_to(START, (9, 5)))
    assert (int(found.iterations), bool(found.converged), float(found.energy)) == (0, True, 0)


def test_geodesic_stays_when_the_decoder_turns_and_moves_its_meshes():
    moved = bent_geodesic(START, END, rotation=ROTATION, shift=1.0)
    here = bent_geodesic(START, END)
    np.testing.assert_allclose(moved.latents, here.latents, atol=2e-3)
    assert float(moved.energy) == pytest.approx(float(here.energy), rel=1e-5)


def test_geodesics_of_networks_never_have_more_energy_than_straight_paths():
    config = ModelConfig(modes=6, latent_size=3, activation="Tanh")
    model = SpectralAutoencoder(config)

    drawn = [jax.tree.map(np.asarray, init_params(config, jax.random.key(seed))) for seed in range(3)]

    @jax.jit
    def decode(params, latents):
        return model.apply({"params": params}, latents, method="decode")

    @jax.jit
    def find(params, start, end):
        return geodesic(functools.partial(decode, params), start, end, num_points=8, max_iterations=6)

    cases, decoded = [], []
    for i, (start, end) in enumerate(4 * normal(6, 2, 3)):
        params = jax.tree.map(functools.partial(np.multiply, np.float32(1 + 0.1 * i)), drawn[i % 3])
        for a, b in ((start, end), (end, start)):
            cases.append(find(params, a, b))
            line = straight(a, b, np.linspace(0, 1, 8, dtype=np.float32))
            decoded.append([decode(params, cases[-1].latents), decode(params, line)])
    found = jax.tree.map(lambda *x: np.stack(x), *cases)
    paths, lines = np.array(decoded).swapaxes(0, 1)
    energies, straight_energies = (7 * (np.diff(p, axis=1) ** 2).sum(axis=(1, 2, 3)) for p in (paths, lines))
    assert (found.energy <= found.straight_energy).all()
    assert (energies <= straight_energies * (1 + 1e-6)).all()
    np.testing.assert_allclose(found.energy, energies, rtol=1e-5)
    np.testing.assert_allclose(found.straight_energy, straight_energies, rtol=1e-5)
    assert (energies < 0.95 * straight_energies).any()
    lengths = np.sqrt((np.diff(paths, axis=1) ** 2).sum(axis=(2, 3))).sum(axis=1)[::2]
    apart = np.sqrt(((paths[::2] - paths[1::2, ::-1]) ** 2).sum(axis=(2, 3))).max(axis=1)
    assert (apart < 1e-3 * lengths).all()
    np.testing.assert_array_equal(found.converged, found.gradient_norm <= 3e-4)
    assert found.iterations.max() == 6  # fewer where it converged, or where no step lowers the energy in float32
    assert found.iterations[found.converged].min() < 6


def test_metric_is_the_one_of_finite_differences():
    latent = np.array([0.4, -0.7], np.float32)
    np.testing.assert_allclose(
        jax.jit(functools.partial(metric, globe))(latent), np.diag([np.cos(0.7) ** 2, 1]), atol=1e-6
    )
    offsets = 0.05 * np.eye(5, dtype=np.float32)
    around = np.asarray(jax.jit(bent)(START + np.concatenate([offsets, -offsets]))).reshape(2, 5, 12)
    differences = (around[0] - around[1]) / 0.1
    many = np.asarray(jax.jit(jax.vmap(functools.partial(metric, bent)))(np.stack([START, END])))
    np.testing.assert_allclose(many[0], differences @ differences.T, rtol=0.02, atol=0.02)
    assert np.linalg.eigvalsh(many).min() > 0


@pytest.mark.parametrize(
    ("method", "compiled"),
    [("straight", straight), ("spherical", spherical), ("spline", spline), ("geodesic", solve_bent)],
)
def test_paths_compile_once_for_a_shape(method, compiled):
    PATHS[method](START, END)
    before = compiled._cache_size()
    for start, end in normal(3, 2, 5):
        PATHS[method](start, end)
    assert compiled._cache_size() == before


@pytest.mark.parametrize("width", [0, 5, 100])
def test_mixed_bands(width):
    low, high = normal(2, 20, 3)
    np.testing.assert_array_equal(mix_bands(low, high, 0, width), high)
    np.testing.assert_array_equal(mix_bands(low, high, 20, width), low)
    np.testing.assert_array_equal(low_pass(low, 20, width), low)
    np.testing.assert_array_equal(low_pass(low, 0, width), np.zeros_like(low))
    np.testing.assert_allclose(mix_bands(low, low, 7, width), low, rtol=1e-5)
    mixed = mix_bands(low, high, 7, width)
    np.testing.assert_allclose(
        low_pass(low, 7, width) + high - low_pass(high, 7, width), mixed, atol=rounding(4 * mixed, 4)
    )
    weights = np.asarray(low_pass(jnp.ones((20, 3)), 7, width))[:, 0]
    assert (np.diff(weights) <= 0).all()
    assert weights.sum() == pytest.approx(7)  # the cross-over is as much before the cut as after
    half = min(width, 14) / 2
    assert set(weights[np.abs(np.arange(20) + 0.5 - 7) > half]) <= {0, 1}
    mapped = jax.jit(jax.vmap(lambda low, high: mix_bands(low, high, 7, width)))(low[None], high[None])
    np.testing.assert_allclose(mapped[0], mixed, atol=rounding(mixed, 4))


def test_nearest_latents_come_first():
    latents = normal(30, 4)
    query = latents[11] + 0.01
    indices, distances = nearest(latents, query, 6)
    expected = np.linalg.norm(latents - query, axis=1)
    np.testing.assert_array_equal(indices, np.argsort(expected)[:6])
    np.testing.assert_allclose(distances, np.sort(expected)[:6], rtol=1e-5)
    assert indices[0] == 11


def test_a_traverse_starts_at_the_latent_and_follows_the_direction():
    latent, direction = normal(2, 3)
    walk = np.asarray(traverse(latent, direction, np.array([-2, 0, 1], np.float32)))
    np.testing.assert_array_equal(walk[1], latent)
    np.testing.assert_allclose(walk - latent, np.array([-2, 0, 1])[:, None] * direction, atol=rounding(walk, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: straight(a, b, AMOUNTS), r"equal shapes, not \(5,\) and \(4,\)"),
        (lambda a, b: spherical(a, b, AMOUNTS), r"\(5,\) and \(4,\)"),
        (lambda a, b: geodesic(bent, a, b), r"\(5,\) and \(4,\)"),
        (lambda a, b: geodesic(bent, a, a, num_points=2), "at least 3 points, not 2"),
        (lambda a, b: spline(a[None], AMOUNTS), "at least 2 points, not 1"),
        (lambda a, b: mix_bands(jnp.ones((8, 3)), jnp.ones((9, 3)), 2), r"\(8, 3\) and \(9, 3\)"),
        (lambda a, b: mix_bands(jnp.ones((8, 3)), jnp.ones((8, 3)), 9), "0 to 8 modes, not 9"),
        (lambda a, b: low_pass(jnp.ones((8, 3)), -1), "not -1"),
        (lambda a, b: low_pass(jnp.ones((8, 3)), 4, -2), "at least 0, not -2"),
        (lambda a, b: nearest(a[None], a, 2), "1 to 1 latents, not 2"),
        (lambda a, b: nearest(a[None], a, 0), "not 0"),
    ],
)
def test_mistakes_are_refused_with_the_values(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones(5), jnp.ones(4))
