"""Principal components against an exact SVD in float64."""

import numpy as np
import pytest
from rounding import product_rounding, rounding

from spectral_jax.network import principal


def exact(rows):
    """Mean, components and deviations by a singular value decomposition."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    _, singular, components = np.linalg.svd(flat - mean, full_matrices=False)
    return mean, components, singular / np.sqrt(len(rows) - 1)


def decaying(count, num_values, rate, seed=0):
    """Rows whose deviations fall by `rate` from one component to the next, about a mean far from 0."""
    rng = np.random.default_rng(seed)
    size = min(count, num_values)
    turn = np.linalg.qr(rng.standard_normal((num_values, size)))[0]
    rows = rng.standard_normal((count, size)) * rate ** np.arange(size) @ turn.T + 3 * rng.standard_normal(num_values)
    return rows.astype(np.float32)


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize(("rows", "values", "rate"), [(700, 90, 0.8), (60, 600, 0.8), (900, 300, 0.95)])
def test_components_are_those_of_an_exact_decomposition(rows, values, rate, count):
    data = decaying(rows, values, rate).reshape(rows, -1, 3)
    fitted = principal.fit(data, count)
    mean, components, deviations = exact(data)
    np.testing.assert_allclose(fitted.mean.ravel(), mean, atol=rounding(np.abs(data).mean(axis=0), rows))
    np.testing.assert_allclose(fitted.deviations, deviations[:count], rtol=1e-4)
    found = fitted.components.reshape(count, -1)
    np.testing.assert_allclose(found @ found.T, np.eye(count), atol=rounding(1, values))
    centred = data.reshape(rows, -1) - mean
    left = np.square(centred).sum() - np.square(centred @ found.T).sum()
    least = np.square(deviations[count:]).sum() * (rows - 1)
    assert left == pytest.approx(least, rel=1e-4)
    leading = np.abs((found * components[:count]).sum(axis=1))
    gaps = 1 - (deviations[1 : count + 1] / deviations[:count]) ** 2
    assert (1 - leading < 1e-4 / gaps.min()).all()


@pytest.mark.parametrize("passes", [2, 40])
def test_rows_that_are_not_held_give_the_components_of_all(monkeypatch, passes):
    """From a sample of 160 of 3,000 rows: two passes capture what is to be captured, more also find the directions."""
    data, count = decaying(3000, 200, 0.9), 8
    _, components, _ = exact(data)
    monkeypatch.setattr(principal, "SAMPLE_BYTES", 160 * 4 * 200)
    fitted = principal.fit(data, count, passes)
    centred = data - data.mean(axis=0, dtype=np.float64)
    captured, most = (np.square(centred @ rows.T).sum() for rows in (fitted.components, components[:count]))
    assert 1 - captured / most < 1e-4
    cosines = np.linalg.svd(fitted.components.astype(np.float64) @ components[:count].T)[1]
    assert np.arccos(np.minimum(cosines, 1)).max() < (0.05 if passes == 2 else 1e-3)


def test_a_tolerance_saves_passes(monkeypatch):
    data = decaying(3000, 200, 0.9)
    monkeypatch.setattr(principal, "SAMPLE_BYTES", 160 * 4 * 200)

    def fit(tolerance):
        read = []

        class Counted:
            shape, __len__ = data.shape, data.__len__

            def __getitem__(self, rows):
                read.append(len(data[rows]))
                return data[rows]

        return np.square(principal.fit(Counted(), 8, tolerance=tolerance).deviations).sum(), sum(read)

    (captured, few), (most, many) = fit(1e-3), fit(1e-9)
    assert few <= many - len(data)
    assert captured == pytest.approx(most, rel=1e-2)


def test_scores_and_what_they_reconstruct():
    data = decaying(80, 30, 0.7).reshape(80, 10, 3)
    fitted = principal.fit(data, 5)
    scores = np.asarray(principal.project(fitted, data))
    centred = (data - fitted.mean).reshape(80, -1)
    components = fitted.components.reshape(5, -1)
    np.testing.assert_allclose(scores, centred @ components.T, atol=product_rounding(centred, components.T))
    np.testing.assert_allclose(scores.std(axis=0, ddof=1), fitted.deviations, rtol=1e-4)
    for count in (0, 2, 5):
        expected = (scores[:, :count] @ components[:count]).reshape(data.shape) + fitted.mean
        found = principal.reconstruct(fitted, scores[:, :count])
        np.testing.assert_allclose(found, expected, atol=rounding(20, 10))
    with pytest.raises(ValueError, match=r"6 scores .* 5 components"):
        principal.reconstruct(fitted, np.ones((1, 6), np.float32))


def test_blocks_change_nothing(monkeypatch):
    data = decaying(100, 40, 0.8)
    whole = principal.fit(data, 3)
    monkeypatch.setattr(principal, "BLOCK", 7)
    for a, b in zip(whole, principal.fit(data, 3), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_components_have_one_sign_and_equal_rows_none():
    data = decaying(50, 20, 0.8)
    fitted, turned = principal.fit(data, 6), principal.fit(-data, 6)
    assert (np.abs(fitted.components).max(axis=1) == fitted.components.max(axis=1)).all()
    np.testing.assert_allclose(fitted.components, turned.components, atol=1e-3)
    np.testing.assert_array_equal(principal.fit(np.ones((9, 4), np.float32), 2).deviations, [0, 0])


def test_there_are_fewer_components_than_rows():
    data = decaying(5, 30, 0.8)
    assert principal.fit(data, 16).components.shape == (4, 30)
    one = principal.fit(data[:1], 16)
    np.testing.assert_array_equal(one.mean, data[0])
    assert one.components.shape == (0, 30)
    with pytest.raises(ValueError, match="not 0"):
        principal.fit(data[:0], 1)
