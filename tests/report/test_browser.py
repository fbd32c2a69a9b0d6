"""The report's page in a browser: it draws, reacts, fits a phone, follows the colour scheme and stays offline."""

import base64
import io
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import CHROMIUM, chromium

from spectral_jax.data import dataset
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.report import document, measurements
from spectral_jax.runs.run import Run, RunConfig
from spectral_jax.training.config import TrainConfig

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 1}


@pytest.fixture(scope="module")
def url(data_folder, tmp_path_factory):
    """A report whose network is as good as one that is trained: its meshes are a little off."""
    data = dataset.open_prepared(data_folder)
    train, test = dataset.read_split(data, "train"), dataset.read_split(data, "test")
    config = ModelConfig(modes=32, latent_size=4)
    params = init_params(config, jax.random.key(0))
    run = Run(Path("spheres"), SpectralAutoencoder(config), params, data.basis, RunConfig(config, TrainConfig(), ""), 3)
    found = measurements.measure_run(run, train, test)
    bumps = 0.1 * np.sin(5 * found.shown.original).astype(np.float32)
    amounts = np.linspace(0, 1, len(found.path.vertices), dtype=np.float32)[:, None, None]
    path = (1 - amounts) * found.path.ends[0] + amounts * found.path.ends[1]
    shown = found.shown._replace(decoded=found.shown.original + bumps)
    found = found._replace(shown=shown, path=found.path._replace(vertices=path))
    log = [{"epoch": k, "spectral_train_loss": 1 / k, "learning_rate": 1e-3} for k in (1, 2, 3)]
    page = tmp_path_factory.mktemp("report") / "report.html"
    page.write_text(document.page(document.Report(run, data, test.identities, [], found, log, {}, {})))
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
    assert {request for request in requests if not request.startswith("data:")} == {url}


def draw(page):
    """Wait until the page has drawn what it was told: it does so in the next frame."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def picture(page, selector):
    """The pixels (height, width, 3) of an element."""
    from PIL import Image

    page.locator(selector).scroll_into_view_if_needed()
    draw(page)
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
    draw(page)
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


def font(width):
    """A font as a data URL in which every character is a block of so many em."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen, advance = TTGlyphPen(None), round(1000 * width)
    points = [(0, 0), (0, 700), (advance - 50, 700), (advance - 50, 0)]
    pen.moveTo(points[0])
    for point in points[1:]:
        pen.lineTo(point)
    pen.closePath()
    builder, made = FontBuilder(1000), io.BytesIO()
    builder.setupGlyphOrder([".notdef", "block"])
    builder.setupCharacterMap(dict.fromkeys([*range(32, 127), *range(160, 384), *range(8192, 8304)], "block"))
    builder.setupGlyf(dict.fromkeys([".notdef", "block"], pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", "block"], (advance, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": "Blocks", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, sTypoDescender=-200, usWinAscent=900, usWinDescent=200)
    builder.setupPost()
    builder.save(made)
    return f"data:font/ttf;base64,{base64.b64encode(made.getvalue()).decode()}"


def assert_fits_a_phone(page):
    """Nothing is wider than the window of 360 pixels, and no cell of the table is wider than its column."""
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    boxes = "[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('legend'))"
    wide = page.evaluate(f"{boxes}.filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)")
    assert wide == []
    cells = "[...document.querySelectorAll('.summary td, .bar a')]"
    assert page.evaluate(f"{cells}.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML)") == []


@pytest.mark.parametrize("width", [0.38, 0.68], ids=["narrow", "wide"])
def test_a_phone_with_a_font_of_another_width(open_page, width):
    """0.38 em is the mean width of Arial Narrow's characters, 0.68 em wider than Verdana's and DejaVu's."""
    page = open_page(bypass_csp=True, **PHONE)
    rule = f"@font-face {{ font-family: Blocks; src: url({font(width)}) }} * {{ font-family: Blocks !important }}"
    page.add_style_tag(content=rule)
    page.evaluate("document.fonts.load('16px Blocks')")
    page.wait_for_function("document.fonts.check('16px Blocks')")
    link = page.locator("nav a", has_text="Meshes")
    size = link.evaluate("link => parseFloat(getComputedStyle(link).fontSize)")
    assert link.bounding_box()["width"] == pytest.approx(6 * width * size, rel=0.01)
    assert_fits_a_phone(page)


def test_a_phone_without_any_font(browser, url, tmp_path):
    """As in a container: the fonts that Chromium falls back to."""
    settings = tmp_path / "fonts.conf"
    settings.write_text(f"<fontconfig><dir>{tmp_path}</dir><cachedir>{tmp_path}</cachedir></fontconfig>")
    bare = browser.browser_type.launch(
        executable_path=chromium(), args=CHROMIUM.split(), env={**os.environ, "FONTCONFIG_FILE": str(settings)}
    )
    page = bare.new_context(**PHONE).new_page()
    page.goto(url)
    page.wait_for_selector("html[data-drawn]")
    assert_fits_a_phone(page)
    bare.close()


def test_a_phone_in_the_dark(open_page):
    page = open_page(color_scheme="dark", **PHONE)
    assert_fits_a_phone(page)
    ink = "getComputedStyle(document.querySelector('[data-figure=errors] .xtick text')).fill"
    light_text = page.evaluate(ink)
    assert brightness(page, "body") < 40
    assert brightness(page, "[data-figure=errors]") < 40
    page.locator("#scheme").click()
    assert brightness(page, "body") > 200
    assert page.evaluate(ink) != light_text
    page.emulate_media(color_scheme="light")
    assert painted(picture(page, '[data-shown="0"]')) > 0.05
