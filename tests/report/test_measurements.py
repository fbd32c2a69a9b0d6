"""The report's page without a browser: its figures are evaluate's, names stay names, a mistake leaves no file."""

import base64
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import sphere_examples

from spectral_jax.basis import spectral
from spectral_jax.bodies import regions
from spectral_jax.bodies.smplh import demo_body_path, load_body
from spectral_jax.cli import main
from spectral_jax.data import coefficients, dataset, writer
from spectral_jax.data.coefficients import LazySplit
from spectral_jax.data.dataset import Split
from spectral_jax.files import safe_files
from spectral_jax.geometry.metrics import summarise
from spectral_jax.network import principal
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.report import document, measurements, plots
from spectral_jax.runs import evaluate
from spectral_jax.runs.run import Run, RunConfig, load_run
from spectral_jax.training.config import TrainConfig

HOSTILE = (
    "</script><script>alert(1)</script>",
    '<img src="https://example.org/x" onerror=alert(2)>',
    "<b>&amp;%{x}\n$title",
)


@pytest.fixture(scope="module")
def trained(data_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("report") / "spheres"
    options = ["--epochs", "4", "--batch-size", "11", "--latent-size", "4", "--validate-every", "2"]
    assert main(["train", "--data", str(data_folder), "--run", str(run), *options]) == 0
    return run


@pytest.fixture(scope="module")
def page(trained):
    assert main(["report", str(trained)]) == 0
    return (trained / "report.html").read_text()


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("report.html"))


@pytest.fixture
def splits(data_folder):
    data = dataset.open_prepared(data_folder)
    return data, dataset.read_split(data, "train"), dataset.read_split(data, "test")


def untrained(basis, latent_size=3):
    config = ModelConfig(modes=20, latent_size=latent_size)
    params = init_params(config, jax.random.key(0))
    return Run(Path(), SpectralAutoencoder(config), params, basis, RunConfig(config, TrainConfig(), ""), 0)


def content(page):
    (found,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


def unpacked(packed):
    return np.frombuffer(base64.b64decode(packed["bytes"]), "<i2") * packed["step"]


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def test_the_page_has_everything_and_asks_for_nothing(page, trained, data_folder):
    assert len(page) < 15e6
    assert page.count("plotly.js v") == 1
    outside = page.replace(re.search(r"<script>\s*/\*.*?</script>", page, re.DOTALL)[0], "")  # plotly.js
    assert not re.search(r"""(src|href)=(?!"#)|url\(|https?:""", outside)
    assert "default-src 'none'" in outside
    for section in ("summary", "meshes", "errors", "latents", "training", "origin"):
        assert f'<section id="{section}">' in page
    for words in ("Best", "Median", "Worst", "Network, latent 4", "PCA, 4 components", "4 epochs", "id2, 00"):
        assert words in outside, words
    config, data = json.loads((trained / "config.json").read_text()), dataset.open_prepared(data_folder)
    (start,) = config["history"]
    facts = config["train"] | start["versions"] | {"data_fingerprint": start["data_fingerprint"]}
    for name, value in {**facts, "connectivity": data.basis.fingerprint}.items():
        value = value if isinstance(value, str) else json.dumps(value)
        assert value in ("", "null") or f'<th scope="row">{name}</th><td>{value}</td>' in outside, name
    figures = content(page)["figures"]
    assert figures.keys() == {"errors", "identities", "bands", "latents", "curves", "shown", "way"}
    assert len(figures["curves"]["data"]) == 4


def test_the_figures_are_those_of_evaluate(page, trained, splits):
    data, train, test = splits
    run = load_run(trained)
    summary = evaluate.evaluate_split(run, data.basis, train, test)
    found = measurements.measure_run(run, train, test)
    errors = found.errors
    assert summarise(errors.network.mesh_mm) == pytest.approx(
        [getattr(summary, f"{name}_mm") for name in ("mean", "median", "std", "min", "max")], rel=1e-5
    )
    baselines = summary.pca_mm, summary.mean_shape_mm, summary.truncation_mm
    assert [method.mesh_mm.mean() for method in errors[1:]] == pytest.approx(baselines, rel=1e-4)
    row = "".join(f"<td>{mm:.2f}</td>" for mm in summarise(errors.network.mesh_mm))
    assert f'<tr><th scope="row">Network, latent 4</th>{row}</tr>' in page

    mesh_mm = errors.network.mesh_mm
    best, median, worst = found.shown.rows
    assert np.median(mesh_mm) == pytest.approx(mesh_mm[median])
    assert (best, worst) == (mesh_mm.argmin(), mesh_mm.argmax())
    for i, shown in enumerate(content(page)["shown"]):
        vertex_mm = unpacked(shown["errors"])
        assert vertex_mm.mean() == pytest.approx(mesh_mm[found.shown.rows[i]], rel=1e-3)
        original, decoded = (unpacked(shown[name]).reshape(3, -1).T for name in ("original", "decoded"))
        np.testing.assert_allclose(original, test.vertices[found.shown.rows[i]], atol=1e-4)
        np.testing.assert_allclose(1000 * np.linalg.norm(original - decoded, axis=1), vertex_mm, atol=0.2)
    faces = np.frombuffer(base64.b64decode(content(page)["faces"]["bytes"]), "<u2").reshape(3, -1).T
    np.testing.assert_array_equal(faces, data.basis.faces)


def test_other_runs_and_measures_of_shape_models(trained, data_folder, tmp_path):
    options = ["--data", str(data_folder), "--network", "residual", "--epochs", "2", "--latent-size", "4"]
    assert main(["train", "--run", str(tmp_path / "residual"), *options, "--batch-size", "11"]) == 0
    out = tmp_path / "both.html"
    assert main(["report", str(trained), "--compare", str(tmp_path / "residual"), "--measures", "--out", str(out)]) == 0
    page = out.read_text()
    summary = evaluate.evaluate(tmp_path / "residual")
    row = "".join(f"<td>{getattr(summary, f'{name}_mm'):.2f}</td>" for name in ("mean", "median", "std", "min", "max"))
    assert f'<tr><th scope="row">residual network, latent 4</th>{row}</tr>' in page
    assert '<tr><th scope="row">SAE-LP, latent 4</th>' in page
    assert f"{tmp_path / 'residual'} is its best checkpoint, chosen by its error on the test split" in page
    assert "As a shape model" in page
    figures = content(page)["figures"]
    assert main(["eval", str(tmp_path / "residual"), "--measures", "--json", str(tmp_path / "errors.json")]) == 0
    measured = json.loads((tmp_path / "errors.json").read_text())["shape_models"]
    curve, *points = figures["generalisation"]["data"]
    assert [trace["name"] for trace in (curve, *points)] == ["PCA", "SAE-LP, latent 4", "residual network, latent 4"]
    assert curve["y"] == pytest.approx(measured["pca_generalisation_mm"], rel=1e-4)
    assert (points[1]["x"], points[1]["y"]) == (
        [4],
        pytest.approx([measured["network"]["generalisation_mm"]], rel=1e-4),
    )
    lost = figures["compactness"]["data"][2]["y"]
    assert lost == pytest.approx([100 * (1 - measured["network"]["compactness"])], rel=1e-3)
    gaussian, mixture = figures["specificity"]["data"]
    assert len(gaussian["x"]) == len(mixture["x"]) == 3
    assert gaussian["x"][1] == pytest.approx(measured["network"]["specificity_mm"], rel=1e-3)


def test_what_cannot_be_measured_is_said(trained, data_folder, sphere, tmp_path):
    """Test meshes of identities that are trained on tell nothing of new ones."""
    data = dataset.open_prepared(data_folder)
    splits = {name: [e._replace(identity="same") for e in records] for name, records in data.splits.items()}
    same = writer.write(tmp_path / "same", data.basis, sphere, splits, {"recipe": "test"})
    out = tmp_path / "page.html"
    assert main(["report", str(trained), "--data", str(same), "--measures", "--out", str(out)]) == 0
    page = out.read_text()
    assert "Not measured: generalisation needs meshes of identities that the train split does not have" in page
    assert "generalisation" not in content(page)["figures"]


def test_regions_bands_and_the_way(splits):
    data, train, test = splits
    run, region_of = untrained(data.basis), np.arange(162) % 3
    found = measurements.measure_run(run, train, test, region_of)
    for method in found.errors:
        assert method.region_mm.mean() == pytest.approx(method.mesh_mm.mean(), rel=1e-4)

    decoded = np.asarray(jax.jit(run.model.apply)({"params": run.params}, test.coefficients[:, :20]))
    left = np.square(test.coefficients[:, :20] - decoded).sum(axis=-1).mean(axis=0)
    bands = found.bands
    assert bands.ends == (1, 2, 4, 8, 16, 20)
    assert bands.network_mm[3] == pytest.approx(1000 * np.sqrt(left[4:8].sum() / 162), rel=1e-4)
    assert bands.meshes_mm[0] == 0  # the position
    np.testing.assert_array_less(bands.pca_mm[1:], bands.meshes_mm[1:])

    modes = np.asarray(data.basis.modes[:, :20])
    errors = 1000 * np.linalg.norm(modes @ decoded - test.vertices, axis=-1)
    np.testing.assert_allclose(found.errors.network.region_mm, [errors[:, k::3].mean() for k in range(3)], rtol=1e-4)
    start, end = found.path.rows
    np.testing.assert_allclose(found.path.vertices[[0, -1]], modes @ decoded[[start, end]], atol=1e-5)
    np.testing.assert_allclose(found.path.ends, modes @ test.coefficients[[start, end], :20], atol=1e-5)


def test_splits_on_disk_give_the_same_and_are_read_in_batches(splits, monkeypatch):
    data, train, test = splits
    read, most = coefficients._read, []
    monkeypatch.setattr(coefficients, "_read", lambda *args, **kw: most.append(len(args[2])) or read(*args, **kw))
    monkeypatch.setattr(evaluate, "VALIDATION_BATCH", 4)
    monkeypatch.setattr(measurements, "NUM_LATENTS", 5)
    monkeypatch.setattr(principal, "BLOCK", 5)
    monkeypatch.setattr(principal, "SAMPLE_BYTES", 0)  # at least 4 meshes a component
    run, region_of = untrained(data.basis, 1), np.arange(162) % 3
    held = measurements.measure_run(run, train, test, region_of)
    assert not most
    lazy = measurements.measure_run(run, *(LazySplit(data, name, 20) for name in ("train", "test")), region_of)
    jax.tree.map(np.testing.assert_array_equal, lazy, held)
    assert len(lazy.latents.test) == len(lazy.latents.train) == 5
    assert max(most) == 5


def test_one_mesh_and_one_number_are_enough(splits):
    data, train, test = splits
    one = Split(test.coefficients[:1], test.vertices[:1], test.identities[:1])
    run = untrained(data.basis, latent_size=1)
    found = measurements.measure_run(run, train, one)
    assert found.shown.rows == [0, 0, 0]
    page = document.page(document.Report(run, data, ["id2"], [], found, [], {}, {}))
    assert "No training log" in page
    assert "1 number" in page


def test_a_network_that_is_broken_is_refused(splits):
    data, train, test = splits
    run = untrained(data.basis)
    broken = dataclasses.replace(run, params=jax.tree.map(lambda x: x * np.nan, run.params))
    with pytest.raises(ValueError, match=r"the error of mesh 0 \(network\) is not finite"):
        measurements.measure_run(broken, train, test)


def test_hostile_names_stay_names(sphere, sphere_basis, tmp_path):
    kept = spectral.truncate(sphere_basis, 16)
    examples = [*sphere_examples(sphere, kept, 6, 2, True)]
    test = [e._replace(identity=HOSTILE[i % 3], file=HOSTILE[(i + 1) % 3]) for i, e in enumerate(examples)]
    splits = {"train": sphere_examples(sphere, kept, 12, 1, False), "test": test}
    data = dataset.open_prepared(writer.write(tmp_path / "data", kept, sphere, splits, {HOSTILE[0]: HOSTILE[1]}))
    train, test = dataset.read_split(data, "train"), dataset.read_split(data, "test")
    config = ModelConfig(modes=16, latent_size=3)
    params = init_params(config, jax.random.key(0))
    folder = tmp_path / "<i>run<"
    run = Run(folder, SpectralAutoencoder(config), params, kept, RunConfig(config, TrainConfig(), ""), 0)
    found = measurements.measure_run(run, train, test, np.arange(162) % 2)
    record = {HOSTILE[0]: {HOSTILE[1]: HOSTILE[2]}, HOSTILE[1]: [HOSTILE[0]]}
    log = [{"epoch": 1, "spectral_train_loss": HOSTILE[0], "learning_rate": 10**400, "spatial_validation_loss": None}]
    made = {"now": HOSTILE[0]}
    page = document.page(document.Report(run, data, test.identities, ["<u>a", "b"], found, log, record, made))
    for raw in ("alert(1)</script>", "<img src=", "<b>&", "<u>a", "<i>run"):
        assert raw not in page
    assert page.count("</script") == 3  # plotly.js, content, script
    assert "&lt;img src=&quot;https://example.org/x&quot; onerror=alert(2)&gt;" in page
    shown = [text for text in strings(content(page)["figures"]) if "script" in text or "img" in text]
    assert shown
    for text in shown:
        assert "<" not in text
        assert len(text) < 60


@pytest.mark.parametrize(
    ("name", "shown"), [("a\nb\u202e<", "a b &lt;"), ("x" * 40, "x" * 27 + "…"), ("R&D", "R&amp;D"), ("\ud800", "")]
)
def test_names_in_figures(name, shown):
    assert plots.text(name) == shown


@pytest.mark.parametrize("values", [[5.4, 1.7], [90.0, 0.2], [30.0, 11.0]])
def test_an_axis_of_errors_has_ticks_however_near_they_are(values):
    axis = plots._against_size([1, 2], values, "mm").layout.yaxis
    assert 3 <= sum(min(values) <= tick <= max(values) for tick in axis.tickvals) <= 12


def test_values_that_are_no_numbers_are_left_out_of_curves():
    log = [{"epoch": k, "spectral_train_loss": y} for k, y in enumerate((1.0, None, "2", float("nan"), 10**400, 3), 1)]
    losses = plots.curves(log).data[0]
    assert (list(losses.x), list(losses.y)) == ([1, 6], [1, 3])
    many = plots.curves([{"epoch": k, "learning_rate": 0.1} for k in range(1, 10_001)])
    assert len(many.data[0].x) == 2000


def test_regions_of_the_demo_body(sphere_basis):
    body = load_body(demo_body_path())
    basis = spectral.SpectralBasis(np.eye(body.num_vertices, 2, dtype=np.float32), np.zeros(2), body.faces)
    region_of = regions.body_regions(basis, {"recipe": "meshes"})
    heights = plain_heights()
    means = [heights[region_of == k].mean() for k in range(len(regions.REGIONS))]
    names = [*regions.REGIONS]
    assert names[np.argmax(means)] == "head"
    assert [names[k] for k in np.argsort(means)[:3]] == ["feet", "lower legs", "thighs"]
    assert regions.body_regions(sphere_basis, {"recipe": "amass", "body_folder": "nowhere"}) is None


def plain_heights():
    with safe_files.open_npz(demo_body_path(), 1 << 30) as file:
        return file["v_template"][:, 1]


MISTAKES = {
    "unwritable": (lambda run: ["--out", run / "config.json" / "a.html"], "config.json"),
    "not a page": (lambda run: ["--out", run / "a.pdf"], "a.pdf: expected a name that ends in .html"),
    "there already": (lambda run: ["--out", touch(run / "mine.html")], "mine.html exists already; --overwrite"),
    "a folder": (lambda run: ["--out", folder(run / "mine.html"), "--overwrite"], "mine.html"),
    "no run": (lambda run: shutil.rmtree(run), "no such run folder"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "last"), "last: no checkpoint here"),
    "empty log": (lambda run: (run / "log.jsonl").write_text(""), "log.jsonl: no epoch in it yet"),
    "broken log": (lambda run: (run / "log.jsonl").write_text("[]\n"), "log.jsonl: line 1"),
    "another basis": (lambda run: flip(run / "basis.npz"), "different modes"),
    "no data": (lambda run: ["--data", run / "nowhere"], "nowhere: no such data folder"),
}


def touch(path):
    path.write_text("mine")
    return path


def folder(path):
    path.mkdir()
    return path


def flip(path):
    basis = spectral.load(path)
    spectral.save(path, spectral.SpectralBasis(-np.asarray(basis.modes), basis.eigenvalues, basis.faces))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_file(name, copy, capsys):
    spoil, words = MISTAKES[name]
    options = spoil(copy)
    before = sorted(copy.glob("*")) if copy.exists() else []
    capsys.readouterr()
    assert main(["report", str(copy), *map(str, options if isinstance(options, list) else [])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert (sorted(copy.glob("*")) if copy.exists() else []) == before


def test_a_failure_leaves_the_page_that_was_there(copy, monkeypatch, capsys):
    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    (copy / "report.html").write_text("before")
    monkeypatch.setattr(os, "replace", full)
    assert main(["report", str(copy)]) == 2
    assert "report.html: No space left on device" in capsys.readouterr().err
    assert (copy / "report.html").read_text() == "before"
    assert not [*copy.glob("*.partial")]


def test_a_network_without_a_log_has_no_curves(copy, tmp_path, capsys):
    (copy / "log.jsonl").unlink()
    assert main(["report", str(copy), "--out", str(tmp_path / "new" / "page.html")]) == 0
    page = (tmp_path / "new" / "page.html").read_text()
    assert "No training log" in page
    assert "curves" not in content(page)["figures"]
    assert "page.html: " in capsys.readouterr().out
