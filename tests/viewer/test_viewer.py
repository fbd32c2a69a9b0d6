import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import viser

from spectral_jax import cli
from spectral_jax.basis import spectral
from spectral_jax.geometry.mesh import read_mesh
from spectral_jax.network import probing
from spectral_jax.runs.opened import OpenedRun, open_run
from spectral_jax.viewer import origins, panel, scene, web
from spectral_jax.viewer.scene import Choice, Gallery


@pytest.fixture(scope="module")
def runs(data_folder, tmp_path_factory):
    """A folder of two runs on the spheres, with latents of 4 and 3 numbers, and one of a newer version."""
    folder = tmp_path_factory.mktemp("viewed") / "runs"
    for name, latent in (("four", "4"), ("three", "3")):
        options = ["--epochs", "1", "--latent-size", latent, "--learning-rate", "1e-2", "--validate-every", "1"]
        assert cli.main(["train", "--data", str(data_folder), "--run", str(folder / name), *options]) == 0
    (folder / "newer").mkdir()
    (folder / "newer" / "config.json").write_text('{"schema": 99}')
    return folder


@pytest.fixture(scope="module")
def gallery(runs):
    subjects = {}

    def load(name):
        if name not in subjects:
            subjects[name] = scene.Subject(open_run(runs / name))
        return subjects[name]

    return Gallery(lambda: ["four", "newer", "three"], load)


@pytest.fixture(scope="module")
def subject(gallery):
    return gallery.load("four")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, seconds=60):
    """Wait for a condition of another thread's doing."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# the model


@pytest.mark.parametrize("modes", [32, 9])
@pytest.mark.parametrize("through", ["network", "basis alone"])
def test_a_reconstruction_and_its_errors(subject, through, modes):
    picture = scene.compose(subject, Choice(index=3, through=through, modes=modes))
    example = subject.data.splits["test"][3]
    coefficients = example.coefficients
    if through == "network":
        coefficients = subject.codec.decode(subject.codec.encode(coefficients[None]))[0]
    wanted = spectral.reconstruct(subject.run.basis, coefficients[:modes])
    rebuilt, original = picture.layers
    np.testing.assert_allclose(rebuilt.vertices, wanted, atol=1e-5)
    np.testing.assert_array_equal(original.vertices, example.vertices)
    errors = 1000 * np.linalg.norm(np.asarray(wanted) - example.vertices, axis=1)
    np.testing.assert_allclose(rebuilt.errors_mm, errors, atol=0.02)
    assert picture.mean_mm == pytest.approx(errors.mean(), abs=0.02)
    assert picture.max_mm == pytest.approx(errors.max(), abs=0.02)
    assert picture.origin == ["test 3: id2, 003.ply, frame 3"]


def test_no_number_of_modes_compiles_anew(subject):
    before = scene._shapes._cache_size()
    for modes in range(1, 33):
        scene.compose(subject, Choice(modes=modes))
    assert scene._shapes._cache_size() == before


def test_train_meshes_are_compared_with_what_their_coefficients_hold(subject):
    picture = scene.compose(subject, Choice(split="train", index=2, through="basis alone"))
    assert picture.max_mm < 1e-3
    assert "this is what 32 modes hold of it" in picture.origin[0]


def test_a_subject_reads_few_meshes_however_many_there_are(subject, monkeypatch):
    read = []
    monkeypatch.setattr(scene, "NUM_ENCODED", 6)
    monkeypatch.setattr(scene, "example", lambda data, *place: read.append(place) or data.splits[place[0]][place[1]])
    other = scene.Subject(OpenedRun(subject.run, subject.data))
    assert [place for place in read if place[0] == "train"] == read
    assert len(read) == 6
    assert (np.abs(other.high - subject.high) < subject.high - subject.low).all()


@pytest.mark.parametrize("method", ["latent", "spherical", "geodesic"])
@pytest.mark.parametrize("amount", [0, 1])
def test_an_interpolation_ends_at_the_ends(subject, method, amount):
    chosen = Choice(show="interpolation", start=2, end=5, amount=float(amount), method=method)
    way, straight, start, end = scene.compose(subject, chosen).layers
    sample = subject.mesh("test", (2, 5)[amount])
    assert way.name == method
    decoded = spectral.reconstruct(subject.run.basis, sample.decoded)
    np.testing.assert_allclose(way.vertices, decoded, atol=1e-4)
    np.testing.assert_allclose(
        straight.vertices, spectral.reconstruct(subject.run.basis, sample.coefficients), atol=1e-5
    )
    np.testing.assert_array_equal((start, end)[amount].vertices, sample.vertices)
    assert start.opacity < 1
    assert end.opacity < 1


def test_an_identity_changes_and_the_pose_stays(subject):
    """At the end of the path is what `swap` makes of the two meshes."""
    data = subject.data
    train = [each._replace(identity=f"person {i % 3}") for i, each in enumerate(data.splits["train"])]
    people = dataclasses.replace(data, splits={"train": train, "test": data.splits["test"]})
    other = scene.Subject(OpenedRun(subject.run, people))
    chosen = Choice(show="interpolation", start=2, end=5, amount=1.0, method="identity")
    separation = probing.separate(
        other.codec.encode(np.stack([each.coefficients for each in train])), [each.identity for each in train]
    )
    swapped = probing.swap(separation, subject.mesh("test", 2).latent, subject.mesh("test", 5).latent)
    way = scene.compose(other, chosen).layers[0]
    assert way.name == "identity"
    np.testing.assert_allclose(way.vertices, other.codec.decode_vertices(swapped[None])[0], atol=1e-3)
    with pytest.raises(ValueError, match="44 meshes of 1 identities"):
        scene.compose(subject, chosen)


def test_a_walk_starts_at_the_mesh_and_goes_where_the_latent_says(subject):
    chosen = Choice(show="latent walk", index=4)
    assert scene.compose(subject, chosen).max_mm == 0
    latent = subject.mesh("test", 4).latent + np.array([0.5, 0, 0, -1], np.float32)
    picture = scene.compose(subject, Choice(show="latent walk", index=4, latent=tuple(latent.tolist())))
    wanted = subject.codec.decode_vertices(latent[None])[0]
    np.testing.assert_allclose(picture.layers[0].vertices, wanted, atol=1e-5)
    assert picture.mean_mm > 1


def test_a_choice_is_fitted_to_what_there_is(subject):
    wanted = Choice(
        split="vald", index=99, start=-1, end=50, modes=4096, low_mm=9.0, high_mm=3.0, amount=2.0, latent=(1.0,)
    )
    fitted = scene.clamp(wanted, subject)
    assert fitted.split in subject.data.splits
    last = len(subject.data.splits[fitted.split]) - 1
    assert (fitted.index, fitted.start, fitted.end) == (last, 0, min(50, last))
    assert (fitted.modes, fitted.amount, fitted.latent) == (32, 1, ())
    assert fitted.high_mm > fitted.low_mm


@pytest.mark.parametrize(
    ("split", "index", "message"),
    [
        ("test", 9, "no mesh 9 in split test (available: 0 to 8)"),
        ("test", -1, "no mesh -1 in split test (available: 0 to 8)"),
        ("vald", 0, "no split 'vald', available: train, test"),
    ],
)
def test_a_mesh_that_is_not_there_is_named(subject, split, index, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        subject.mesh(split, index)


def test_an_identity_is_found_wherever_its_meshes_are(subject):
    assert scene.first_mesh(subject.data, "test", "id2") == 0
    meshes = [subject.data.splits["test"][0]._replace(identity=name) for name in ("b", "a", "b", "c")]
    counts = {"a": 1, "b": 2, "c": 1, "lost": 0}
    mixed = replace(subject.data, splits={"test": meshes}, metadata={"identities": {"test": counts}})
    assert [meshes[scene.first_mesh(mixed, "test", name)].identity for name in "abc"] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="no mesh of 'lost' in split test"):
        scene.first_mesh(mixed, "test", "lost")


@pytest.mark.parametrize("layout", ["beside", "overlaid"])
@pytest.mark.parametrize("show", ["reconstruction", "interpolation", "latent walk"])
def test_the_eye_sees_the_whole_row(subject, show, layout):
    picture = scene.compose(subject, Choice(show=show, layout=layout))
    xs = scene.places(picture, subject.box)
    position, target = scene.eye(picture, subject.box, 0.5, 1.5)
    size = subject.box[1] - subject.box[0]
    assert max(xs) == -min(xs)
    assert np.all((np.diff(sorted(set(xs))) - size[0]) > 0)
    distance = position[2] - subject.box[1, 2]
    assert distance * np.tan(0.25) >= size[1] / 2
    assert distance * np.tan(0.25) * 1.5 >= max(xs) + size[0] / 2
    assert target[0] == pytest.approx(subject.box[:, 0].mean())


def test_names_are_text_whatever_is_in_them():
    table = panel.as_table({"<b>": "<img src=x onerror=alert(1)>", "a": "'\"&"})
    assert "<img" not in table
    assert "<b>" not in table
    assert "&lt;img src=x onerror=alert(1)&gt;" in table


# the controls, without a browser


@pytest.fixture(scope="module")
def server():
    server = viser.ViserServer("127.0.0.1", free_port(), verbose=False)
    yield server
    server.stop()


@pytest.fixture
def client(server):
    """What a browser's connection is to the viewer, with a note of what it was told and sent."""
    server.gui.reset()
    server.scene.reset()
    told, sent = [], []

    def add_notification(title, body, **_):
        told.append(f"{title}: {body}")
        return SimpleNamespace(remove=lambda: None)

    return SimpleNamespace(
        gui=server.gui,
        scene=server.scene,
        camera=SimpleNamespace(aspect=1.5, image_width=32, image_height=24),
        flush=server.flush,
        add_notification=add_notification,
        send_file_download=lambda name, content, **_: sent.append((name, content)),
        get_render=lambda height, width, **_: np.zeros((height, width, 4), np.uint8),
        told=told,
        sent=sent,
    )


@pytest.fixture
def opened(client, gallery):
    browser = web.Browser(client, gallery, "four", Choice(index=1))
    browser.open()
    assert not client.told
    yield browser
    browser.gone = True


def shown(browser, name):
    """Vertices of the plain mesh of that name, if it can be seen."""
    handle = browser.meshes.get(name)
    return handle.vertices if handle is not None and handle.visible else None


def test_the_index_changes_the_mesh_its_identity_and_its_latent(opened, subject):
    np.testing.assert_array_equal(shown(opened, "original"), subject.mesh("test", 1).vertices)
    opened.controls.index.value = 6
    sample = subject.mesh("test", 6)
    np.testing.assert_array_equal(shown(opened, "original"), sample.vertices)
    assert opened.controls.identity.value == "id2"
    assert "test 6: id2, 006.ply" in opened.controls.measured.content
    assert opened.choice.latent == pytest.approx(sample.latent.tolist())
    for slider, value in zip(opened.controls.latent, sample.latent, strict=True):
        assert slider.value == pytest.approx(value, abs=slider.step)


def test_modes_and_colours_change_what_is_drawn(opened, subject):
    opened.controls.through.value = "basis alone"
    before = opened.picture.mean_mm
    opened.controls.modes.value = 3
    assert opened.picture.mean_mm > before
    assert f"mean {opened.picture.mean_mm:.1f} mm" in opened.controls.measured.content
    coloured = [handle.glb_data for name, handle in opened.meshes.items() if name != "original" and handle.visible]
    opened.controls.high_mm.value = 20.0
    assert ">20<" in opened.controls.measured.content
    again = [handle.glb_data for name, handle in opened.meshes.items() if name != "original" and handle.visible]
    assert len(coloured) == len(again) == 1
    assert coloured != again


def test_overlaid_meshes_stand_in_one_place_and_one_is_faint(opened):
    opened.controls.layout.value = "overlaid"
    original = opened.meshes["original"]
    assert original.opacity < 1
    assert {tuple(handle.position) for handle in opened.meshes.values() if handle.visible} == {(0, 0, 0)}
    assert [label.text for label in opened.labels.values()] == ["reconstruction, original"]
    opened.controls.layout.value = "beside"
    assert original.opacity is None
    assert sorted(label.text for label in opened.labels.values()) == ["original", "reconstruction"]


def test_an_interpolation_follows_its_slider_and_its_way(opened, subject):
    c = opened.controls
    c.show.value = "interpolation"
    assert not opened.client.told
    assert shown(opened, "original") is None
    c.start.value, c.end.value, c.amount.value = 2, 5, 1.0
    np.testing.assert_allclose(shown(opened, "latent"), opened.picture.layers[0].vertices)
    decoded = spectral.reconstruct(subject.run.basis, subject.mesh("test", 5).decoded)
    np.testing.assert_allclose(shown(opened, "latent"), decoded, atol=1e-5)
    np.testing.assert_array_equal(shown(opened, "to"), subject.mesh("test", 5).vertices)
    assert opened.meshes["from"].opacity < 1
    c.method.value = "geodesic"  # found in a thread, till then the straight way is shown
    until(lambda: shown(opened, "geodesic") is not None)
    until(lambda: shown(opened, "latent") is None)  # that thread draws one mesh after the other
    until(lambda: "geodesic" in [label.text for label in list(opened.labels.values())])
    assert opened.client.told == ["finding the geodesic: "]
    c.random_pair.value = True
    assert c.start.value != c.end.value


def test_playing_moves_the_slider_until_it_is_stopped(opened):
    c = opened.controls
    c.show.value = "interpolation"
    seen = set()
    c.amount.on_update(lambda _: seen.add(c.amount.value))
    c.play.value = True
    until(lambda: len(seen) > 3)
    c.play.value = False
    until(lambda: not any(thread.name.endswith("(_play)") for thread in threading.enumerate()))
    assert all(0 <= amount <= 1 for amount in seen)


def test_a_walk_follows_its_sliders_and_goes_back(opened, subject):
    c = opened.controls
    c.show.value = "latent walk"
    start = shown(opened, "walk").copy()  # viser writes into its arrays
    np.testing.assert_allclose(start, shown(opened, "start"), atol=1e-5)
    c.latent[2].value = c.latent[2].max
    assert np.abs(shown(opened, "walk") - start).max() > 1e-4
    wanted = subject.codec.decode_vertices(np.array([opened.choice.latent], np.float32))[0]
    np.testing.assert_allclose(shown(opened, "walk"), wanted, atol=1e-5)
    c.reset.value = True
    np.testing.assert_allclose(shown(opened, "walk"), start, atol=1e-5)


def test_numbers_of_a_latent_without_a_slider_are_kept(client, gallery, subject, monkeypatch):
    monkeypatch.setattr(panel, "MAX_SLIDERS", 2)
    browser = web.Browser(client, gallery, "four", Choice(index=1))
    browser.open()
    assert len(browser.controls.latent) == 2
    assert browser.choice.latent == pytest.approx(subject.mesh("test", 1).latent.tolist())


def test_every_number_of_a_latent_has_a_slider_on_some_page(client, gallery, subject, monkeypatch):
    monkeypatch.setattr(panel, "MAX_SLIDERS", 2)
    browser = web.Browser(client, gallery, "four", Choice(index=1, show="latent walk"))
    browser.open()
    c = browser.controls
    latent = subject.mesh("test", 1).latent.tolist()
    c.page.value = "z3 to z4"
    assert [slider.label for slider in c.latent] == ["z3", "z4"]
    assert browser.choice.latent == pytest.approx(latent)
    c.latent[1].value = c.latent[1].max
    assert browser.choice.latent[3] == pytest.approx(c.latent[1].max, abs=c.latent[1].step)
    latent[3] = browser.choice.latent[3]
    assert browser.choice.latent == pytest.approx(latent)
    c.page.value = "z1 to z2"
    assert browser.choice.latent == pytest.approx(latent)
    c.index.value = 3  # on the first page, the sliders are those of its mesh
    assert browser.choice.latent == pytest.approx(subject.mesh("test", 3).latent.tolist())
    three = web.Browser(client, gallery, "three", Choice(show="latent walk"))
    three.open()
    three.controls.page.value = "z3 to z3"  # not as many as there are sliders
    assert [slider.visible for slider in three.controls.latent] == [True, False]
    assert three.choice.latent == pytest.approx(gallery.load("three").mesh("test", 0).latent.tolist())


def test_another_split_begins_with_its_first_mesh(opened, subject):
    opened.controls.split.value = "train"
    assert (opened.choice.split, opened.choice.index) == ("train", 0)
    assert opened.controls.index.max == 43
    assert opened.controls.identity.value == "id1"
    opened.controls.random_mesh.value = True
    np.testing.assert_array_equal(shown(opened, "original"), subject.mesh("train", opened.choice.index).vertices)


def test_another_run_is_loaded_with_its_own_controls(opened):
    opened.controls.run.value = "three"
    assert opened.name == opened.controls.run.value == "three"
    assert len(opened.controls.latent) == 3
    assert opened.choice.index == 1
    assert opened.client.told == ["loading three: "]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("newer", "config.json: written by a newer version (schema 99, this version reads 1)"),
        ("../elsewhere", "no run '../elsewhere' (available: four, newer, three)"),
    ],
)
def test_a_run_that_cannot_be_loaded_leaves_the_one_there_was(opened, name, message):
    opened.controls.run.value = name
    assert opened.name == opened.controls.run.value == "four"
    assert opened.client.told[-1].startswith("This cannot be shown")
    assert message in opened.client.told[-1]
    opened.controls.index.value = 2
    assert opened.choice.index == 2


def test_moves_that_waited_are_drawn_once(opened, monkeypatch):
    drawn, compose = [], scene.compose
    monkeypatch.setattr(scene, "compose", lambda *arguments: drawn.append(1) or compose(*arguments))
    with opened.lock:  # as if a drawing took long
        threads = [threading.Thread(target=setattr, args=[opened.controls.modes, "value", 5 + i]) for i in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: opened.controls.modes.value >= 5 and all(thread.is_alive() for thread in threads))
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert len(drawn) <= 2
    assert opened.choice.modes == opened.controls.modes.value


def test_what_is_shown_is_saved(opened, tmp_path):
    for kind in panel.FILES:
        opened.controls.save.value = kind
    names, contents = zip(*opened.client.sent, strict=True)
    assert names == ("reconstruction.ply", "reconstruction.obj", "reconstruction.png")
    for name, content in opened.client.sent[:2]:
        (tmp_path / name).write_bytes(content)
        np.testing.assert_allclose(read_mesh(tmp_path / name).vertices, opened.picture.layers[0].vertices, atol=1e-6)
    assert contents[2].startswith(b"\x89PNG")


def test_nothing_is_drawn_for_a_browser_that_has_gone(opened):
    opened.gone = True
    opened.controls.index.value = 5
    assert opened.choice.index == 1


def test_pairs_that_show_something(subject, monkeypatch):
    """By the latents: the farthest, and the nearest of two identities; all test spheres are of one."""
    found = scene.pairs(subject, "test")
    assert found.keys() == {"most different", "most different of one identity"}
    samples = [subject.mesh("test", i) for i in range(9)]
    apart = {(i, j): np.linalg.norm(samples[i].latent - samples[j].latent) for i in range(9) for j in range(i)}
    assert tuple(sorted(found["most different"], reverse=True)) == max(apart, key=apart.get)
    monkeypatch.setattr(scene, "PUBLISHED_PAIR", (3, 8))
    assert scene.pairs(subject, "test")["published, figure 11"] == (3, 8)
    assert "published, figure 11" in scene.pairs(subject, "train")


# the command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "0"], "--port must be from 1 to 65535, not 0"),
        (["--port", "70000"], "--port must be from 1 to 65535, not 70000"),
        (["--host", "not a host"], "cannot listen at --host not a host"),
        (["--index", "9"], "no mesh 9 in split test (available: 0 to 8)"),
        (["--split", "vald"], "no split 'vald', available: train, test"),
        (["--data", "nowhere"], "nowhere: no such data folder"),
        (["--interpolate", "0", "9"], "no mesh 9 in split test (available: 0 to 8)"),
        (["--interpolate", "0", "1", "--amount", "1.5"], "--amount must be from 0 to 1, not 1.5"),
        (["--screenshot", "a.png"], "--screenshot a.png needs --backend polyscope, not web"),
        (["--backend", "polyscope", "--screenshot", "a.gif"], "a.gif: expected a name that ends in .png or .jpg"),
    ],
)
def test_mistakes_are_named(runs, capsys, options, message):
    options = options if "--port" in options else ["--port", str(free_port()), *options]
    assert cli.main(["view", str(runs / "four"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error:") == 1


def test_a_port_in_use_is_named(runs, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["view", str(runs / "four"), "--port", str(port)]) == 2
    assert f"--host 127.0.0.1 --port {port}: Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [("none", "none: no such run folder"), ("newer", "schema 99, this version reads 1")],
)
def test_a_run_that_cannot_be_loaded_is_named(runs, capsys, name, message):
    assert cli.main(["view", str(runs / name), "--port", str(free_port())]) == 2
    assert message in capsys.readouterr().err


def test_data_of_another_basis_is_refused(runs, sphere, sphere_basis, tmp_path, capsys):
    from conftest import sphere_examples

    from spectral_jax.data import writer

    flipped = spectral.truncate(sphere_basis, 32)
    modes = np.array(flipped.modes)
    modes[:, 7] *= -1
    flipped = spectral.SpectralBasis(modes, flipped.eigenvalues, flipped.faces)
    splits = {name: sphere_examples(sphere, flipped, 2, 1, name == "test") for name in ("train", "test")}
    other = writer.write(tmp_path / "other", flipped, sphere, splits, {"recipe": "test"})
    assert cli.main(["view", str(runs / "four"), "--data", str(other), "--port", str(free_port())]) == 2
    assert "have different modes (1 of 32 differ, the first is mode 7)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("viser", [], "the web viewer needs viser: pip install 'spectral-jax[view]'"),
        (
            "polyscope",
            ["--backend", "polyscope"],
            "--backend polyscope needs polyscope: pip install 'spectral-jax[view]'",
        ),
    ],
)
def test_a_missing_extra_is_named(runs, capsys, monkeypatch, module, options, message):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["view", str(runs / "four"), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child alone")
def test_ctrl_c_ends_the_server_with_code_0(runs):
    port = free_port()
    command = [sys.executable, "-m", "spectral_jax", "view", str(runs / "four"), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.strip() == f"http://127.0.0.1:{port}" for line in lines)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors


# polyscope


@pytest.fixture(scope="module")
def polyscope_picture(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "deep" / "four.png"
    assert cli.main(["view", str(runs / "four"), "--backend", "polyscope", "--screenshot", str(path)]) == 0
    return path


@pytest.mark.needs("polyscope", "egl")
def test_polyscope_draws_a_picture_without_a_display(polyscope_picture):
    from PIL import Image

    with Image.open(polyscope_picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels // 32, axis=0, return_counts=True)
    assert len(colours) > 10
    assert counts.max() < 0.98 * len(pixels)


@pytest.mark.needs("polyscope", "egl")
def test_polyscope_draws_an_interpolation_without_a_display(polyscope_picture, runs, tmp_path):
    pictures = []
    for amount in ("0", "1"):
        path = tmp_path / f"{amount}.png"
        options = ["--interpolate", "2", "7", "--amount", amount, "--screenshot", str(path)]
        assert cli.main(["view", str(runs / "four"), "--backend", "polyscope", *options]) == 0
        pictures.append(path.read_bytes())
    assert len({polyscope_picture.read_bytes(), *pictures}) == 3


class Imgui:
    """Controls of Polyscope's that a hand has moved: by label, what each is set to."""

    def __init__(self, **moved):
        self.moved = moved

    def Combo(self, label, current, options):
        wanted = self.moved.get(label)
        return (True, options.index(wanted)) if wanted else (False, current)

    def _slider(self, label, value, *_):
        return label in self.moved, self.moved.get(label, value)

    SliderInt = SliderFloat = Checkbox = _slider

    def DragFloatRange2(self, label, low, high, *_):
        return (label in self.moved, *self.moved.get(label, (low, high)))

    def Button(self, label):
        return self.moved.get(label, False)

    CollapsingHeader = Button


@pytest.mark.needs("polyscope", "egl")
def test_the_window_follows_its_controls(polyscope_picture, gallery, subject):
    import polyscope as ps

    from spectral_jax.viewer import polyscope

    window = polyscope.Window(gallery, "four", Choice())
    window.draw()
    assert window.controls(Imgui()) == window.choice
    ps.set_user_callback(window.frame)
    ps.frame_tick()  # with the real controls, which nobody moves
    ps.clear_user_callback()
    assert (window.wrong, window.choice.index) == ("", 0)

    window.choice = window.controls(Imgui(index=4, modes=20))
    window.draw()
    assert (window.choice.index, window.choice.modes) == (4, 20)
    assert window.picture.origin == ["test 4: id2, 004.ply, frame 4"]
    window.choice = window.controls(Imgui(show="interpolation", **{"from": 2, "to": 5, "a": 1.0, "play": True}))
    window.draw()
    assert (window.choice.start, window.choice.end) == (2, 5)
    assert window.playing
    assert ps.get_surface_mesh("latent").is_enabled()
    assert not ps.get_surface_mesh("original").is_enabled()
    window.playing = False
    window.choice = window.controls(Imgui(**{"most different": True}))
    assert (window.choice.start, window.choice.end) == scene.pairs(subject, "test")["most different"]
    window.choice = window.controls(Imgui(show="latent walk"))
    window.choice = window.controls(Imgui(z1=0.25))
    assert window.choice.latent[0] == 0.25
    assert window.controls(Imgui(reset=True)).latent == ()
    assert window.controls(Imgui(split="train")).split == "train"
    window.change_run("three")
    assert len(window.subject.low) == 3
    with pytest.raises(ValueError, match="schema 99"):
        window.change_run("newer")
    assert window.name == "three"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have a display, or say so otherwise")
@pytest.mark.needs("polyscope")
def test_a_window_without_a_display_is_refused(runs, capsys, monkeypatch):
    for name in {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        monkeypatch.delenv(name)
    assert cli.main(["view", str(runs / "four"), "--backend", "polyscope"]) == 2
    assert "a window needs a display" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("origin", "host", "listening", "own"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1", True),
        ("http://localhost:9000", "localhost:9000", "127.0.0.1", True),  # through a tunnel
        ("http://[::1]:8080", "[::1]:8080", "::1", True),
        ("http://Machine:8080", "machine:8080", "0.0.0.0", True),
        (None, "127.0.0.1:8080", "127.0.0.1", True),
        ("https://example.org", "127.0.0.1:8080", "127.0.0.1", False),
        ("http://localhost:3000", "localhost:8080", "127.0.0.1", False),
        ("http://example.org:8080", "example.org:8080", "127.0.0.1", False),  # its name was made to mean this machine
        ("https://example.org", "machine:8080", "0.0.0.0", False),
        ("null", "127.0.0.1:8080", "127.0.0.1", False),
    ],
)
def test_whose_page_it_is(origin, host, listening, own):
    assert origins.is_own(origin, host, listening) == own


def test_a_page_of_another_site_cannot_connect(gallery):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    port = free_port()
    server = web.serve(gallery, "four", Choice(), "127.0.0.1", port).server
    address, kind = f"ws://127.0.0.1:{port}", [f"viser-v{viser.__version__}"]
    with connect(address, origin=f"http://127.0.0.1:{port}", subprotocols=kind) as connection:
        assert connection.recv(timeout=20)
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, origin="https://example.org", subprotocols=kind)
    server.stop()
