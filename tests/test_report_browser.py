"""The report's page in a browser: it draws, reacts, fits a phone, follows the colour scheme and stays offline."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest

from spectral_jax import dataset, report, report_page
from spectral_jax.model import ModelConfig, SpectralAutoencoder, init_params
from spectral_jax.run import Run, RunConfig
from spectral_jax.train import TrainConfig

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 1}


@pytest.fixture(scope="module")
def url(data_folder, tmp_path_factory):
    """A report whose network is as good as one that is trained: its meshes are a little off."""
    data = dataset.open_data(data_folder)
    train, test = dataset.read_split(data, "train"), dataset.read_split(data, "test")
    config = ModelConfig(modes=32, latent_size=4)
    params = init_params(config, jax.random.key(0))
    run = Run(Path("spheres"), SpectralAutoencoder(config), params, data.basis, RunConfig(config, TrainConfig(), ""), 3)
    findings = report.measure(run, train, test)
    bumps = 0.1 * np.sin(5 * findings.shown).astype(np.float32)
    way = np.linspace(0, 1, len(findings.path), dtype=np.float32)[:, None, None]
    path = (1 - way) * findings.path_ends[0] + way * findings.path_ends[1]
    findings = findings._replace(shown_decoded=findings.shown + bumps, path=path)
    log = [{"epoch": k, "spectral_train_loss": 1 / k, "learning_rate": 1e-3} for k in (1, 2, 3)]
    page = tmp_path_factory.mktemp("report") / "report.html"
    page.write_text(report_page.page(run, data, test.identities, [], findings, log, {}, {}))
    return page.as_uri()


@pytest.fixture
def open_page(browser, url):
    """Opens the report in a page of some kind; in the end nothing must have gone wrong or over the network."""
    errors, requests = [], []

    def open_page(**options):
        page = browser.new_context(**options).new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.wait_for_selector("html[data-drawn]")
        return page

    yield open_page
    assert errors == []
    assert set(requests) == {url}


def picture(page, selector):
    """The pixels (height, width, 3) of an element."""
    from PIL import Image

    page.locator(selector).scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB"), int)


def painted(pixels):
    """Share of the pixels that are not as the first one."""
    return (np.abs(pixels - pixels[0, 0]).sum(axis=-1) > 24).mean()


def brightness(page, selector):
    return picture(page, selector)[2, 2].mean()


def test_plots_are_drawn_and_controls_change_them(open_page):
    page = open_page(viewport={"width": 1200, "height": 900})
    scenes = [f'[data-shown="{i}"]' for i in range(3)] + ["[data-way=latent]", "[data-way=straight]"]
    for scene in scenes:
        assert painted(picture(page, scene)) > 0.05, scene
    for name in ("errors", "identities", "bands", "latents", "curves"):
        assert painted(picture(page, f"[data-figure={name}]")) > 0.01, name

    decoded = picture(page, scenes[0])
    assert np.ptp(decoded, axis=-1).max() > 60  # errors have colours, the original is grey
    page.locator("input[value=original]").check(force=True)
    original = picture(page, scenes[0])
    assert np.ptp(original, axis=-1).max() < 40

    two, ways = scenes[:2], scenes[3:]
    before = {scene: picture(page, scene) for scene in (*two, *ways)}
    page.locator(scenes[0]).scroll_into_view_if_needed()
    box = page.locator(scenes[0]).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y + 20, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)
    turned = {scene: picture(page, scene) for scene in two}
    for scene in two:  # they turn together
        assert (turned[scene] != before[scene]).mean() > 0.01, scene
    for form in ("decoded", "original"):
        page.locator(f"input[value={form}]").check(force=True)
    for scene in two:  # and stay so
        assert (picture(page, scene) != turned[scene]).mean() < 0.001, scene

    page.locator("#amount").focus()
    page.keyboard.press("End")
    page.locator("output", has_text="100 %").wait_for()
    for scene in ways:
        pixels = picture(page, scene)
        assert painted(pixels) > 0.05
        assert (pixels != before[scene]).mean() > 0.01


def test_a_phone_in_the_dark(open_page):
    page = open_page(color_scheme="dark", **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    inside = "[...document.querySelectorAll('main *')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)"
    assert page.evaluate(inside)
    ink = "getComputedStyle(document.querySelector('[data-figure=errors] .xtick text')).fill"
    light_text = page.evaluate(ink)
    assert brightness(page, "body") < 40
    assert brightness(page, "[data-figure=errors]") < 40
    page.locator("#scheme").click()
    assert brightness(page, "body") > 200
    assert page.evaluate(ink) != light_text
    page.emulate_media(color_scheme="light")
    assert painted(picture(page, '[data-shown="0"]')) > 0.05
