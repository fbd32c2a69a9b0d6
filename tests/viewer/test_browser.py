import re
import socket
import time

import jax
import numpy as np
import pytest

from spectral_jax.data import dataset
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs.opened import OpenedRun
from spectral_jax.runs.run import Run, RunConfig
from spectral_jax.training.config import TrainConfig
from spectral_jax.viewer import scene, web
from spectral_jax.viewer.scene import Choice, Gallery

NAME = "<img src=x onerror=window.harmed=1> **bold**"


@pytest.fixture(scope="module")
def gallery(data_folder, tmp_path_factory):
    """Two untrained runs, with latents of 4 and 3 numbers, on spheres of somebody with an odd name."""
    data = dataset.open_prepared(data_folder)
    meshes = [example._replace(identity=NAME, file=NAME) for example in data.splits["test"]]
    data = dataset.Data(data.path, data.basis, {"identities": {"test": {NAME: len(meshes)}}}, {"test": meshes})

    def load(latent_size):
        config = ModelConfig(modes=32, latent_size=latent_size)
        params = jax.tree.map(lambda leaf: 2 * leaf, init_params(config, jax.random.key(0)))  # bigger shapes
        model, told = SpectralAutoencoder(config), RunConfig(config, TrainConfig(), "")
        run = Run(tmp_path_factory.mktemp("run"), model, params, data.basis, told, 0)
        return scene.Subject(OpenedRun(run, data))

    subjects = {"four": load(4), "three": load(3)}
    return Gallery(lambda: ["four", "three"], subjects.__getitem__)


@pytest.fixture(scope="module")
def served(gallery):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    viewing = web.serve(gallery, "four", Choice(show="interpolation", start=2, end=5), "127.0.0.1", port)
    yield viewing
    viewing.server.stop()


@pytest.fixture
def open_page(browser, served):
    """A function that opens the page in a window of its own: the page, what its console said, and the server's part."""
    contexts = []

    def open_page():
        before = set(served.browsers)
        context = browser.new_context(viewport={"width": 640, "height": 480})
        contexts.append(context)
        page, said = context.new_page(), []
        page.on("console", lambda message: said.append((message.type, message.text)))
        page.on("pageerror", lambda error: said.append(("error", str(error))))
        page.goto(f"http://127.0.0.1:{served.server.get_port()}")
        until(page, lambda: any(hasattr(served.browsers[i], "picture") for i in set(served.browsers) - before))
        (mine,) = set(served.browsers) - before
        page.get_by_text("Split").wait_for()
        return page, said, served.browsers[mine]

    yield open_page
    for context in contexts:
        context.close()
    end = time.monotonic() + 60
    while served.browsers and time.monotonic() < end:
        time.sleep(0.05)
    assert not served.browsers  # each has been let go


def until(page, condition, seconds=120):
    """Wait for a condition while the page goes on."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        page.wait_for_timeout(50)


def canvas(page):
    """What is drawn, as a picture."""
    return page.screenshot(clip={"x": 0, "y": 150, "width": 310, "height": 330})


def settle(page):
    """The picture, when it no longer changes and shows something."""
    last = [b"", canvas(page)]

    def still():
        last[:] = last[1], canvas(page)
        return last[0] == last[1] and len(last[1]) > 2000

    until(page, still)
    return last[1]


def label(page, text):
    return page.locator("label", has_text=re.compile(f"^{text}$"))


def slider(page, text):
    """The thumb of the slider with this label."""
    return page.locator(f"[id='{label(page, text).get_attribute('for')}'] [role=slider]")


def vertices(looking):
    return looking.meshes["latent"].vertices.copy()


def test_keys_change_the_mesh_and_play(open_page):
    page, _, mine = open_page()
    page.keyboard.press("PageUp")
    until(page, lambda: mine.choice.end == 4)
    page.keyboard.press("Space")
    until(page, lambda: mine.controls.play.value and mine.choice.amount != 0.5)
    page.keyboard.press("Space")
    until(page, lambda: not mine.controls.play.value)
    mine.controls.show.value = "reconstruction"
    page.keyboard.press("PageDown")
    until(page, lambda: mine.choice.index == 1)


def test_the_slider_moves_the_mesh_and_no_one_elses(open_page):
    page, said, mine = open_page()
    _, other_said, other = open_page()
    before, pixels, others = vertices(mine), settle(page), vertices(other)
    thumb = slider(page, "a")
    thumb.focus()
    thumb.press("End")
    until(page, lambda: mine.choice.amount == 1)
    until(page, lambda: canvas(page) != pixels)
    assert np.abs(vertices(mine) - before).max() > 1e-4
    assert other.controls.amount.value == 0.5
    np.testing.assert_array_equal(vertices(other), others)
    assert [text for kind, text in said + other_said if kind == "error"] == []


def test_another_run_is_loaded_and_odd_names_are_text(open_page):
    page, said, mine = open_page()
    assert NAME in page.inner_text("body").replace("\n", " ")
    mine.controls.show.value = "latent walk"
    label(page, "z4").wait_for(state="attached")
    page.get_by_label("Run", exact=True).click()
    page.get_by_role("option", name="three").click()
    until(page, lambda: mine.name == "three" and len(mine.controls.latent) == 3)
    label(page, "z4").wait_for(state="detached")
    label(page, "z3").wait_for(state="attached")
    thumb = slider(page, "z1")
    thumb.focus()
    before = mine.meshes["walk"].vertices.copy()
    thumb.press("End")
    until(page, lambda: np.abs(mine.meshes["walk"].vertices - before).max() > 1e-4)
    assert page.evaluate("window.harmed") is None
    assert [text for kind, text in said if kind == "error"] == []


def test_a_picture_and_a_mesh_are_downloaded(open_page, tmp_path):
    page, _, _ = open_page()
    for kind, beginning in (("picture", b"\x89PNG"), (".ply", b"ply")):
        with page.expect_download(timeout=120_000) as download:
            page.get_by_role("button", name=kind, exact=True).click()
        download.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(beginning)
        assert download.value.suggested_filename == ("latent.png" if kind == "picture" else "latent.ply")
