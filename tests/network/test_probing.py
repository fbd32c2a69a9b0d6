"""What latents know, on latents of which that is known."""

import numpy as np
import pytest

from spectral_jax.network import probing

PEOPLE, FILES, FRAMES, LATENT = 8, 5, 6, 12


@pytest.fixture
def known():
    """Latents in which a person has four directions, a pose four, and four are noise."""
    rng = np.random.default_rng(0)
    people = rng.standard_normal((PEOPLE, 4))
    poses = np.tile(rng.standard_normal((FILES, FRAMES, 4)), (PEOPLE, 1, 1, 1))  # all people move alike
    turn = np.linalg.qr(rng.standard_normal((LATENT, LATENT)))[0]
    who, file = (x.ravel() for x in np.indices((PEOPLE, FILES, FRAMES))[:2])
    parts = [people[who], poses.reshape(-1, 4), 0.01 * rng.standard_normal((len(who), 4))]
    latents = (np.concatenate(parts, axis=1) @ turn).astype(np.float32)
    return latents, np.array([f"p{i}" for i in who]), [f"p{i}/{k}" for i, k in zip(who, file, strict=True)], parts, turn


def test_what_is_in_the_latents_is_found_and_what_is_not_is_not(known):
    latents, who, files, parts, _ = known
    identity = probing.probe("identity", latents, who, files)
    assert identity.score > 0.8  # eight people, two of which a linear rule may take for one another
    assert identity[2:] == (1 / PEOPLE, PEOPLE, True)
    numbers = probing.probe("pose", latents, parts[1], files)
    assert numbers.classes is None
    assert numbers.score > 0.99
    nothing = probing.probe("noise", latents, np.random.default_rng(1).standard_normal(len(latents)), files)
    assert abs(nothing.score) < 0.2
    assert probing.probe("set", latents, np.full(len(latents), "one"), files) is None
    with pytest.raises(ValueError, match="at least 10 meshes, not 4"):
        probing.probe("identity", latents[:4], who[:4], files[:4])


def test_a_class_of_a_single_file_is_not_left_out_whole(known):
    latents, who, _, _, _ = known
    probe = probing.probe("identity", latents, who, list(who))
    assert not probe.grouped
    assert probe.score > 0.8


def test_a_swap_keeps_the_pose_and_takes_the_identity(known):
    """Also for a person that was not there when they were told apart."""
    latents, who, _, parts, turn = known
    separation = probing.separate(latents, list(who))
    stranger = np.concatenate([[1.0, -1.0, 0.5, 2.0], parts[1][3], np.zeros(4)]) @ turn
    swapped = probing.swap(separation, latents[:7], np.tile(stranger.astype(np.float32), (7, 1))) @ turn.T
    np.testing.assert_allclose(swapped[:, :4], np.tile([1.0, -1.0, 0.5, 2.0], (7, 1)), atol=0.1)
    np.testing.assert_allclose(swapped[:, 4:8], parts[1][:7], atol=0.1)
    np.testing.assert_allclose(probing.swap(separation, latents, latents), latents, atol=1e-6)
    with pytest.raises(ValueError, match="20 meshes of 1 identities"):
        probing.separate(latents[:20], list(who[:20]))
