import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import rounding
from scipy.spatial.transform import Rotation

from spectral_jax.geometry.metrics import map_batches, rigidly_aligned


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 24))
def test_every_row_is_computed_once_in_its_place(count, batch_size):
    seen = []

    def function(a, b):
        jax.debug.callback(lambda rows: seen.extend(rows.tolist()), b[:, 0])
        return 2 * a + b, b.sum(axis=-1)

    a, b = np.arange(3 * count, dtype=np.float32).reshape(count, 3), np.ones((count, 3), np.float32)
    b[:, 0] = np.arange(count)
    mapped = map_batches(function, batch_size, jnp.asarray(a), jnp.asarray(b))
    jax.effects_barrier()
    for found, direct in zip(mapped, (2 * a + b, b.sum(axis=-1)), strict=True):
        np.testing.assert_array_equal(found, direct)
    assert sorted(seen) == list(range(count))


def test_rigid_alignment_undoes_a_motion_and_no_mirroring():
    rng = np.random.default_rng(0)
    target = rng.standard_normal((3, 40, 3)).astype(np.float32)
    turns = Rotation.random(3, random_state=0).as_matrix()
    moved = (np.einsum("bij,bvj->bvi", turns, target) + rng.standard_normal((3, 1, 3))).astype(np.float32)
    np.testing.assert_allclose(rigidly_aligned(moved, target), target, atol=rounding(target, 40))
    mirrored = target * np.float32([-1, 1, 1])
    found = np.asarray(rigidly_aligned(mirrored, target))
    for mesh, before, wanted in zip(found, mirrored, target, strict=True):
        turn, _ = Rotation.align_vectors(wanted - wanted.mean(axis=0), before - before.mean(axis=0))
        expected = turn.apply(before - before.mean(axis=0)) + wanted.mean(axis=0)
        np.testing.assert_allclose(mesh, expected, atol=1e-4)  # directions of similar singular values round more
