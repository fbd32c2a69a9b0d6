"""That the benchmarks count right and run; no test is a stopwatch."""

import json
import os
import resource
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pytest
from helpers import ROOT

from spectral_jax.data.dataset import read_split
from spectral_jax.data.pytorch_layouts import open_pytorch_layout
from spectral_jax.network.autoencoder import init_params
from spectral_jax.network.config import ModelConfig

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize(
    "config", [ModelConfig(), ModelConfig(modes=1024, latent_size=8), ModelConfig(modes=512, conv_size=5)]
)
def test_all_parameters_are_counted(config):
    import work

    leaves = jax.tree.leaves(init_params(config, jax.random.key(0)))
    assert work.num_parameters(config) == sum(leaf.size for leaf in leaves)


def test_the_flops_of_the_published_network():
    import work

    config = ModelConfig()
    assert work.num_parameters(config) == 2_268_579
    assert work.forward_flops(config) == pytest.approx(85e6, rel=0.01)
    assert work.step_flops(config, 1) == pytest.approx(250e6, rel=0.02)
    assert work.step_flops(config, 64) == 64 * work.step_flops(config, 1)


def test_the_bytes_of_a_step():
    """Without meshes: ten passes over the parameters; the widest activations alone pass 17 times."""
    import work

    config, widest = ModelConfig(), 16 * 4096
    assert work.step_bytes(config, 0) == 10 * 4 * work.num_parameters(config)
    a_mesh = work.step_bytes(config, 1) - work.step_bytes(config, 0)
    assert 17 * widest * 4 < a_mesh < 1.5 * 17 * widest * 4
    assert work.step_bytes(config, 3, 2) == 3 * a_mesh / 2 + 8 * 4 * work.num_parameters(config) + 4 * 2_268_579


def test_sides_take_turns_and_only_an_optional_one_may_fail():
    import machine

    calls = []

    def fails():
        raise RuntimeError("no compiler\nwas found")

    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b"), "c": fails}
    timings = machine.alternate(sides, 3, optional={"c"})
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert timings["a"].median >= 0
    assert timings["c"] == (None, None, "not available: RuntimeError: no compiler")
    with pytest.raises(RuntimeError, match="no compiler"):
        machine.alternate(sides, 1)


@pytest.mark.needs("torch")
def test_a_dataset_of_the_2022_layout_is_written(tmp_path):
    import published

    coefficients = np.random.default_rng(0).standard_normal((20, 32, 3), np.float32)
    folder = published.write(tmp_path, coefficients, num_test=2)
    with tarfile.open(folder / "train.tar") as tar:
        assert tar.getnames()[:2] == ["000000.infos.json", "000000.coeffs.pth"]
    np.testing.assert_array_equal(read_split(open_pytorch_layout(folder), "train").coefficients, coefficients)
    batches = list(published.loader(folder / "train.tar", 8, 0))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    meshes = {mesh.numpy().tobytes() for batch in batches for mesh in batch}
    assert meshes == {mesh.tobytes() for mesh in coefficients}


@pytest.mark.slow
def test_a_cell_of_the_training_step(tmp_path):
    command = [sys.executable, BENCHMARKS / "train_step.py", "--freq", "64", "--batch", "4", "--rounds", "1", "--eager"]
    command += ["--json", tmp_path / "cell.json"]
    paths = os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": paths}, timeout=600
    )
    assert "eager/ours" in done.stdout
    cell = json.loads((tmp_path / "cell.json").read_text())
    assert {"jax", "torch", "python", "device", "date"} <= set(cell["machine"])
    assert (cell["freq"], cell["batch"], cell["precision"]) == (64, 4, "default")
    for key in ("ours_ms", "ours_first_call_s", "torch_eager_ms", "ratio_torch_eager", "roofline_fraction"):
        assert cell[key] > 0, key
    assert list(cell)[-1] == "ratio_torch_eager"


def test_spirals_start_with_their_vertex_and_go_around_it_ring_by_ring(sphere):
    import spiralnet

    found, count = spiralnet.spirals(sphere.faces, len(sphere.vertices)), len(sphere.vertices)
    assert found.shape == (count, 9)
    np.testing.assert_array_equal(found[:, 0], np.arange(count))
    assert all(len(set(spiral)) == 9 for spiral in found.tolist())
    corners = {tuple(np.roll(face, turn)) for face in sphere.faces.tolist() for turn in range(3)}
    assert all((a, b, c) in corners for a, b, c in found[:, :3].tolist())  # the orientation is that of the faces


def test_spirals_of_a_small_mesh_are_padded():
    import spiralnet

    found = spiralnet.spirals(np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]), 4)
    np.testing.assert_array_equal(np.sort(found[:, :4]), np.tile(np.arange(4), (4, 1)))
    np.testing.assert_array_equal(found[:, 4:], 4)


def test_a_constant_survives_coarsening_and_back(sphere):
    import spiralnet

    level = spiralnet.coarsen(sphere.vertices, sphere.faces)
    assert len(level.kept) == 41  # a quarter of 162, rounded up
    coarse = sphere.vertices[level.kept]
    edges = np.sort(level.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2))
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # closed, as the sphere is
    assert level.weights.min() >= 0
    np.testing.assert_allclose(level.weights.sum(1), 1, atol=1e-12)
    constant = np.full(162, 3.5)[level.kept]
    np.testing.assert_allclose((constant[level.corners] * level.weights).sum(1), 3.5, atol=1e-12)
    back = (coarse[level.corners] * level.weights[..., None]).sum(1)
    np.testing.assert_allclose(back[level.kept], coarse)
    assert np.linalg.norm(back - sphere.vertices, axis=1).max() < 0.5  # radii: coarse triangles are near the sphere


@pytest.mark.needs("torch")
def test_peers_on_the_same_data_and_clock(data_folder, tmp_path, monkeypatch, capsys):
    import peers

    figures, methods = tmp_path / "peers.json", ["pca", "residual", "spiral"]
    monkeypatch.setattr(sys, "argv", ["peers.py", "--data", str(data_folder), "--seconds", "0.1", "--json"])
    sys.argv += [str(figures), "--methods", *methods]
    peers.main()
    printed = capsys.readouterr().out
    assert all(method in printed for method in methods)
    found = json.loads(figures.read_text())
    assert list(found["curves_s_mm"]) == methods
    for curve in found["curves_s_mm"].values():
        assert all(spent > 0 and error > 0 for spent, error in curve)
        assert [spent for spent, _ in curve] == sorted(spent for spent, _ in curve)


def test_a_page_with_the_figures_of_a_paper(data_folder, tmp_path, monkeypatch):
    import paper

    model, recipe = paper.METHODS["SAE-LP, average pooling"]
    small = {"SAE-LP, average pooling": (model | {"pooled": (6,), "channels": (4,)}, recipe)}
    monkeypatch.setattr(paper, "METHODS", small | {"residual": paper.METHODS["residual"]})
    monkeypatch.setattr(sys, "argv", ["paper.py", "--data", str(data_folder), "--out", str(tmp_path / "out")])
    sys.argv += ["--latent-sizes", "3", "--modes", "32", "--epochs", "1"]
    paper.main()
    average, residual = found = json.loads((tmp_path / "out" / "paper.json").read_text())["rows"]
    convolutions = (3 * 3 * 4 + 4) + (3 * 4 * 4 + 4) + (3 * 4 * 3 + 3)
    assert average["parameters"] == convolutions + (4 * 6 * 3 + 3) + (3 * 4 * 6 + 4 * 6)  # no pooling matrices
    assert all(row["mean"] > row["truncation"] for row in found)
    assert residual["mean"] <= residual["pca"] * (1 + 1e-4)  # it starts as PCA
    page = (tmp_path / "out" / "paper.html").read_text()
    assert all(f"<td>{row['mean']:.2f}</td>" in page for row in found)
    monkeypatch.setattr(paper, "METHODS", small)
    paper.main()  # continues a run that is complete: nothing changes
    assert json.loads((tmp_path / "out" / "paper.json").read_text())["rows"] == [average]


def test_the_error_at_a_time_is_the_last_one_measured():
    import peers

    curve = [(5.0, 9.0), (20.0, 4.0)]
    assert [peers.error_at(curve, mark, 30) for mark in (1, 10, 30, 60)] == [None, 9.0, 4.0, None]


def test_memory_is_that_of_the_command(tmp_path):
    import memory

    used = memory.measure(["--version"], tmp_path / "log")
    assert used.code == 0
    assert used.seconds > 0
    ours = memory.RSS_UNIT * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # a child's peak is at least this
    assert 0.005 < used.peak_gb < max(1, 1.01 * ours)
    assert used.own_gb is None or used.own_gb < 1
    assert (tmp_path / "log").read_text().strip()
    assert memory.measure(["train", "--data", str(tmp_path / "nowhere")], tmp_path / "log").code == 2
    assert "nowhere: no such data folder" in (tmp_path / "log").read_text()


def test_every_command_that_memory_measures_is_one(tmp_path):
    """Their options parse: a mistake in one would be found after an hour otherwise."""
    import memory

    from spectral_jax import cli

    for arguments in memory.commands(tmp_path / "data", tmp_path, 128).values():
        cli.parse(arguments)  # raises SystemExit otherwise


@pytest.fixture
def parts_of_gpu(monkeypatch):
    """The command that measures a GPU, with parts that are cheap."""
    import gpu

    def part(code, seconds=60):
        command = ["-c", code, "{json}"]
        return gpu.Part("a part", seconds, command, command, lambda figures: list(figures["rows"].items()))

    write = "import json, sys; json.dump({'rows': {'the answer': '42 ms'}}, open(sys.argv[1], 'w'))"
    every = {
        "hangs": part("import time; time.sleep(60)", 0.1),
        "fails": part("raise RuntimeError('no card | no figures')"),
        "works": part(write),
    }
    monkeypatch.setattr(gpu, "parts", lambda: every)
    monkeypatch.setattr(gpu, "card", lambda: "a-card")
    return gpu


def test_parts_on_a_gpu_neither_wait_for_each_other_nor_fail_together(parts_of_gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    assert parts_of_gpu.main() == 1  # some part has no figures
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[0].startswith("| a-card, ")
    assert table[2:] == [
        "| a part | stopped after 0 s |",
        "| a part | failed: RuntimeError: no card no figures |",
        "| the answer | 42 ms |",
    ]
    assert "without figures: hangs, fails" in capsys.readouterr().out
    assert json.loads((tmp_path / "works.json").read_text())["rows"]


def test_every_part_on_a_gpu_has_a_script_and_options_that_it_knows():
    """A mistake in one would be found on a machine that is lent for minutes."""
    import gpu

    for name, part in gpu.parts().items():
        for arguments in (part.command, part.quick):
            assert arguments[0] == "-m" or (BENCHMARKS / arguments[0]).is_file(), name
    scripts = {part.command[0] for part in gpu.parts().values()} - {"-m"}
    for script in scripts:
        source = (BENCHMARKS / script).read_text()
        for part in gpu.parts().values():
            options = [each for each in part.command + part.quick if each.startswith("--")]
            assert part.command[0] != script or all(f'"{each}"' in source for each in options), (script, options)


def test_a_moved_mesh_has_no_error_of_edges_and_normals(sphere):
    import smoothness

    meshes = np.stack([sphere.vertices, 2 * sphere.vertices, -sphere.vertices]).astype(np.float64)
    found = smoothness.errors(meshes + np.array([0.003, 0, 0.004]), meshes, sphere.faces)
    np.testing.assert_allclose(found, np.tile([5, 0, 0], (3, 1)), atol=1e-4)
    _, edge, normal = smoothness.errors(meshes[:1, :, [1, 0, 2]], meshes[:1], sphere.faces)[0]
    assert edge > 100
    assert normal > 45  # mirrored: most normals turn around
