import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_jax.geometry.metrics import map_batches


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
