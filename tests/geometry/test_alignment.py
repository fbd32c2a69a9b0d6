import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spectral_jax.geometry.alignment import Similarity, align


def points(count=20, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)) * (1.0, 2.0, 0.5)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_known_motion_is_found(scale):
    known = Similarity(Rotation.from_quat((1, 2, 3, 4)).as_matrix(), np.array([1.0, -2.0, 30.0]), scale)
    found = align(points(), known.apply(points()), scaled=scale != 1)
    np.testing.assert_allclose(found.rotation, known.rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, known.translation, atol=1e-11)
    assert found.scale == pytest.approx(scale, rel=1e-12)
    np.testing.assert_allclose(found.inverse().apply(found.apply(points())), points(), atol=1e-11)


def test_no_motion_brings_noisy_points_nearer():
    random = np.random.default_rng(1)
    a, b = points(), points() @ Rotation.from_quat(random.normal(size=4)).as_matrix() + random.normal(size=(20, 3))
    found = align(a, b, scaled=True)
    least = np.square(found.apply(a) - b).sum()
    for _ in range(50):
        turn = Rotation.from_rotvec(random.normal(size=3) * 1e-2).as_matrix()
        other = Similarity(turn @ found.rotation, found.translation + 1e-2 * random.normal(size=3), found.scale * 1.01)
        assert np.square(other.apply(a) - b).sum() > least


def test_a_mirror_image_is_not_reflected_back():
    found = align(points(), points() * (-1, 1, 1))
    assert np.linalg.det(found.rotation) == pytest.approx(1)


@pytest.mark.parametrize("few", [points(2), np.outer(np.arange(5.0), (1, 2, 3)), np.ones((6, 3))])
def test_points_on_a_line_determine_no_rotation(few):
    with pytest.raises(ValueError, match=str(len(few))):
        align(few, few)
