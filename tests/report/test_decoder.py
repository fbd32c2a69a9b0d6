"""The page decodes latents as Python does: what is packed for it, and what it makes of that in a browser."""

import base64
from pathlib import Path

import jax
import numpy as np
import pytest

from spectral_jax.basis import spectral
from spectral_jax.data import dataset
from spectral_jax.geometry.mesh import read_mesh
from spectral_jax.network import networks, principal, residual
from spectral_jax.network.codec import Codec
from spectral_jax.network.config import ModelConfig
from spectral_jax.report import decoder, document, measurements, packing
from spectral_jax.runs.run import Run, RunConfig
from spectral_jax.training.config import TrainConfig

CONFIGS = {
    "sae-lp": ModelConfig(modes=32, latent_size=18, pooled=(16, 8), channels=(4, 6), conv_size=5, activation="SiLU"),
    "residual": ModelConfig(modes=32, latent_size=4, network="residual", directions=9, hidden_size=7, symmetric=True),
}


@pytest.fixture(scope="module")
def data(data_folder):
    return dataset.open_prepared(data_folder)


@pytest.fixture(scope="module", params=CONFIGS)
def run(request, data):
    """A network with random parameters, whose meshes are as large as the data's."""
    config, rng = CONFIGS[request.param], np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: (x + 0.1 * rng.standard_normal(x.shape)).astype(np.float32),
        jax.device_get(networks.init_params(config, jax.random.key(0))),
    )
    constants = None
    if config.network == "residual":
        rows = dataset.read_split(data, "train").coefficients
        signs = np.where(np.arange(config.directions) % 3, 1, -1).astype(np.float32)
        constants = residual.constants(principal.fit(rows, config.directions)) | {"signs": signs}
    options = RunConfig(config, TrainConfig(), "")
    return Run(Path("spheres"), networks.build(config), params, data.basis, options, 3, constants)


@pytest.fixture(scope="module")
def found(run, data):
    return measurements.measure_run(run, *(dataset.read_split(data, name) for name in ("train", "test")))


def unpacked(packed):
    values = np.frombuffer(base64.b64decode(packed["values"]), "<i2").reshape(packed["shape"])
    return values * np.frombuffer(base64.b64decode(packed["steps"]), "<f4")


def test_weights_are_as_near_as_16_bits_allow():
    array = np.random.default_rng(0).standard_normal((3, 40, 5)).astype(np.float32) * [1, 1e-6, 0, 1e6, -1]
    packed = packing.weights(array)
    most = np.abs(array).max(axis=(0, 1))
    assert (np.abs(unpacked(packed) - array) <= most * (0.5 / 32767 + 1e-6)).all()
    assert packing.weight_bytes(array) == sum(len(base64.b64decode(packed[name])) for name in ("values", "steps"))


def test_a_page_has_the_lowest_modes_that_fit(run, found, monkeypatch):
    whole = decoder.pack(run, found, 10**6)
    assert (whole.num_modes, whole.error_mm) == (32, 0)
    if run.config.model.network == "sae-lp":
        np.testing.assert_allclose(unpacked(whole.content["modes"]), run.basis.modes, atol=2e-5)
    else:  # directions of vertices
        assert whole.content["modes"] is None
        kernel = unpacked(whole.content["weights"]["directions"]["kernel"]).reshape(9, 3, -1)
        scaled = run.constants["scales"][:, None, None] * run.constants["directions"]
        np.testing.assert_allclose(kernel, np.einsum("vf,sfc->scv", run.basis.modes, scaled), atol=1e-4)
    assert "all modes of the network" in decoder.section(whole, run)

    monkeypatch.setattr(decoder, "LEAST_MODES", 4)
    size = sum(len(text) for text in strings(whole.content))
    counts = []
    for characters in range(size // 2, 9 * size // 10, size // 10):
        part = decoder.pack(run, found, characters)
        count = part.num_modes
        counts.append(count)
        assert sum(len(text) for text in strings(part.content)) <= characters + 200  # each text ends in padding
        assert part.content["modes"]["shape"] == [162, count]
        decoded = np.concatenate([found.path.vertices, found.shown.decoded])
        coefficients = np.asarray(spectral.project(run.basis, decoded))[:, count:]
        left = np.einsum("vf,mfc->mvc", run.basis.modes[:, count:], coefficients)
        assert part.error_mm == pytest.approx(1000 * np.linalg.norm(left, axis=-1).mean(), rel=1e-3)
        assert f"lowest {count} of 32 modes" in decoder.section(part, run)
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] < 32
    assert decoder.pack(run, found, 1000) is None
    assert "do not fit" in decoder.section(None, run)


def strings(tree):
    if isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from strings(part)
    elif isinstance(tree, str):
        yield tree


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_sliders_span_the_latents(run, found):
    names = [f"person {i % 2}" for i in range(9)]
    sliders = decoder.sliders(run, found, names)
    size = run.config.model.latent_size
    starts = floats(sliders["startLatents"]).reshape(-1, size)
    np.testing.assert_array_equal(starts[3:], found.latents.test)
    worst = found.shown.rows[2]
    assert sliders["starts"][2] == f"Worst: mesh {worst}, person {worst % 2}"
    assert sliders["starts"][3:] == [f"mesh {i}, person {i % 2}" for i in range(9)]
    np.testing.assert_array_equal(starts[2], found.latents.test[worst])
    components = floats(sliders["components"]).reshape(-1, size)
    np.testing.assert_allclose(components @ components.T, np.eye(len(components)), atol=1e-5)
    along = (found.latents.train - floats(sliders["mean"])) @ components.T
    np.testing.assert_allclose(along.std(axis=0, ddof=1), floats(sliders["deviations"]), rtol=1e-3)
    shares = 100 * along.var(axis=0) / found.latents.train.var(axis=0).sum()
    assert sliders["shares"] == pytest.approx(shares.tolist(), rel=1e-3)


def test_the_page_decodes_as_python_does(run, found, data, browser, tmp_path, monkeypatch):
    """Of SAE-LP only some of the modes, which its convolutions mix with those beyond."""
    model, pack, count = run.config.model, decoder.pack, 32
    if model.network == "sae-lp":
        monkeypatch.setattr(decoder, "LEAST_MODES", 4)
        monkeypatch.setattr(decoder, "pack", lambda run, found, _: pack(run, found, 11_000))
        count = decoder.pack(run, found, 0).num_modes
        assert 4 <= count < 32
    path = tmp_path / "report.html"
    path.write_text(document.page(document.Report(run, data, ["</script>"] * 9, [], found, [], {}, {})))
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]")

    def saved():
        with page.expect_download() as download:
            page.get_by_role("button", name="Save .obj").click()
        download.value.save_as(tmp_path / "mesh.obj")
        return read_mesh(tmp_path / "mesh.obj")

    def expected(latent):
        coefficients = Codec.of(run).decode(latent[None])[:, :count]
        return np.asarray(spectral.reconstruct(run.basis, coefficients))[0]

    mean, spread = found.latents.train.mean(axis=0), found.latents.train.std(axis=0)
    mesh = saved()
    np.testing.assert_array_equal(mesh.faces, run.basis.faces)
    assert np.ptp(mesh.vertices, axis=0).min() > 0.1
    np.testing.assert_allclose(mesh.vertices, expected(mean), atol=5e-4)

    page.locator('[data-shown="2"]').dblclick()  # the worst
    latent = found.shown.latents[2].copy()
    np.testing.assert_allclose(saved().vertices, expected(latent), atol=5e-4)

    fitted = principal.fit(found.latents.train, model.latent_size)
    page.get_by_label("Direction 2,").fill("-2.5")
    place = (latent - mean) @ fitted.components[1] / fitted.deviations[1]
    latent += (-2.5 - place) * fitted.deviations[1] * fitted.components[1]
    np.testing.assert_allclose(saved().vertices, expected(latent), atol=5e-4)

    page.get_by_text("All latents").click()
    last = page.get_by_label(f"Latent {model.latent_size},")
    if model.latent_size > 16:
        assert not last.is_visible()
        page.get_by_label("Latents", exact=True).select_option("17 to 18")
    last.focus()
    page.keyboard.press("Home")
    least, before = float(last.get_attribute("min")), (latent[-1] - mean[-1]) / spread[-1]
    assert least == min(-3, np.floor(before))  # a slider reaches what it shows
    latent[-1] = mean[-1] + least * spread[-1]
    np.testing.assert_allclose(saved().vertices, expected(latent), atol=5e-4)

    page.get_by_label("Start from").select_option("mesh 4, </script>")
    np.testing.assert_allclose(saved().vertices, expected(found.latents.test[4]), atol=5e-4)
    assert errors == []
