import numpy as np
import pytest

from spectral_jax.basis import raw, spectral
from spectral_jax.commands.basis import BasisImport


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("bits", [32, 64])
def test_type_and_order_are_found(sphere, tmp_path, bits, order):
    for count in (20, 162):
        modes = spectral.compute(sphere.faces, 162, count).modes
        (tmp_path / "evecs.bin").write_bytes(np.asarray(modes, f"<f{bits // 8}").tobytes(order))
        (tmp_path / "faces.bin").write_bytes(np.asarray(sphere.faces, f"<i{bits // 8}").tobytes(order))
        np.testing.assert_array_equal(raw.read_modes(tmp_path / "evecs.bin", 162), modes)
        np.testing.assert_array_equal(raw.read_faces(tmp_path / "faces.bin"), sphere.faces)
    out = tmp_path / "basis.npz"
    BasisImport(tmp_path / "evecs.bin", tmp_path / "faces.bin", out)()
    np.testing.assert_array_equal(spectral.load(out).modes, modes)


def test_what_fits_no_reading_is_refused_with_what_was_tried(sphere, tmp_path):
    path = tmp_path / "some.bin"
    noise = np.random.default_rng(0)
    cases = [b"", b"1234567", noise.bytes(162 * 8 * 12), np.full(162 * 24, np.nan, "<f4").tobytes()]
    for content in cases:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"some\.bin: {len(content):,} bytes .*(float32|int32)"):
            raw.read_modes(path, 162)
        with pytest.raises(ValueError, match=rf"some\.bin: {len(content):,} bytes .*int32"):
            raw.read_faces(path)
    path.write_bytes(np.asarray(sphere.faces, "<i4").tobytes() + np.asarray(sphere.faces[:4], "<i4").tobytes())
    with pytest.raises(ValueError, match="int32 row by row"):
        raw.read_faces(path)
