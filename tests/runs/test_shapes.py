import numpy as np
import pytest
from helpers import glb_array, read_glb

from spectral_jax.cli import main
from spectral_jax.runs import shapes
from spectral_jax.runs.opened import open_run


@pytest.fixture(scope="module")
def train_latents(trained_run):
    opened = open_run(trained_run)
    return opened, opened.codec.encode(np.stack([example.coefficients for example in opened.data.splits["train"]]))


def test_sliders_move_the_mean_along_the_leading_directions(trained_run, train_latents, tmp_path, capsys):
    opened, latents = train_latents
    file = tmp_path / "shapes.glb"
    assert main(["export", str(trained_run), str(file), "--latents", "2"]) == 0
    assert f"{file}: 2 directions, epoch 2" in capsys.readouterr().out
    document, buffer = read_glb(file)
    (mesh,) = document["meshes"]
    names = ["direction 1 +", "direction 1 -", "direction 2 +", "direction 2 -"]
    assert mesh["extras"]["targetNames"] == names
    mean = latents.mean(axis=0)
    (primitive,) = mesh["primitives"]
    base, faces = (
        glb_array(document, buffer, at) for at in (primitive["attributes"]["POSITION"], primitive["indices"])
    )
    np.testing.assert_allclose(base, opened.codec.decode_vertices(mean[None])[0], atol=1e-4)
    np.testing.assert_array_equal(faces.reshape(-1, 3), opened.basis.faces)
    variances, directions = np.linalg.eigh(np.cov(latents.T.astype(np.float64)))
    step = 2 * np.sqrt(variances[-1]) * directions[:, -1]
    wanted = opened.codec.decode_vertices([mean + step, mean - step])
    found = [base + glb_array(document, buffer, t["POSITION"]) for t in primitive["targets"][:2]]
    if np.abs(found[0] - wanted[0]).max() > np.abs(found[0] - wanted[1]).max():
        wanted = wanted[::-1]  # which end of a direction is its plus is nobody's choice
    moved = np.abs(wanted - base).max()
    np.testing.assert_allclose(found, wanted, atol=1e-3 * moved)


def test_there_are_ten_directions_or_as_many_as_a_latent_has_numbers(train_latents, tmp_path):
    opened, _ = train_latents
    assert shapes.write(tmp_path / "all.glb", opened) == 4
    assert len(read_glb(tmp_path / "all.glb")[0]["meshes"][0]["extras"]["targetNames"]) == 8
    for count in (0, 5):
        with pytest.raises(ValueError, match=rf"new\.glb: {count} directions asked for, the train latents have 4"):
            shapes.write(tmp_path / "new.glb", opened, count)
    assert not (tmp_path / "new.glb").exists()
