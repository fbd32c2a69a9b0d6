"""A basis recovered from a network alone: signs and rotations that were drawn at random come back."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from helpers import TINY

import spectral_jax as sj
from spectral_jax.basis import align, spectral
from spectral_jax.bodies.motion import KINDS, MotionSequence, synthesise, write_sequence
from spectral_jax.bodies.smplh import demo_body_path
from spectral_jax.cli import main
from spectral_jax.data import dataset, posed_bodies, pytorch_layouts, writer
from spectral_jax.data.dataset import Data, Example
from spectral_jax.data.recipes import DemoRecipe
from spectral_jax.geometry.mesh import Mesh
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.runs import evaluate, recovery


def scrambled(data, seed=0):
    """A dataset's contents in another basis: random signs, random rotations where eigenvalues repeat."""
    generator = np.random.default_rng(seed)
    turn = np.zeros((data.basis.num_modes, data.basis.num_modes))
    for group in align.repeated(data.basis):
        turn[np.ix_(group, group)] = np.linalg.qr(generator.standard_normal((len(group), len(group))))[0]
    turn = (turn * generator.choice([-1.0, 1.0], len(turn))).astype(np.float32)
    basis = dataclasses.replace(data.basis, modes=np.asarray(data.basis.modes) @ turn.T)

    def examples(records) -> list[Example]:
        return [example._replace(coefficients=turn @ example.coefficients) for example in records]

    return dataclasses.replace(data, basis=basis, splits={name: examples(each) for name, each in data.splits.items()})


def written(data: Data, folder):
    template = Mesh(data.splits["test"][0].vertices, np.asarray(data.basis.faces))
    return writer.write(folder, data.basis, template, data.splits, {"recipe": "test"})


def assert_recovered(run, data, other: Data, count=1024):
    """From meshes in another basis, the network's error in its own comes back within 2 %."""
    used, unused = recovery.read_meshes(other, run.config.model.modes, count)
    found = recovery.recover(run, other.basis, used, unused)
    assert found.accepted
    assert found.before_mm > 1.2 * found.error_mm
    known = evaluate.evaluate(run, data).mean_mm
    assert found.error_mm == pytest.approx(known, rel=0.02)
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The PyTorch system's checkpoint without its basis, and its dataset in another."""
    folder = tmp_path_factory.mktemp("recovery")
    assert main(["convert", str(TINY / "last.ckpt"), str(folder / "run")]) == 0
    data = scrambled(pytorch_layouts.open_pytorch_layout(TINY / "root"))
    return folder / "run", written(data, folder / "data")


@pytest.fixture(scope="module")
def spheres(data_folder, tmp_path_factory):
    """A network trained on spheres, whose eigenvalues repeat up to nine times."""
    return sj.train(
        data_folder, tmp_path_factory.mktemp("spheres") / "run", network="residual", latent_size=6, hidden_size=32
    )


def test_the_published_checkpoint(tiny):
    run, data = sj.load_run(tiny[0]), sj.open_data(tiny[1])
    own = dataclasses.replace(run, basis=pytorch_layouts.open_pytorch_layout(TINY / "root").basis)
    found = assert_recovered(own, TINY / "root", data)
    right = np.abs(np.einsum("vf,vf->f", found.basis.modes, own.basis.modes) - 1) < 1e-3
    assert set(np.flatnonzero(~right)) <= set(found.doubtful)  # what is wrong is known to be unsure
    assert right.sum() >= 120
    assert (right & (found.evidence > 0.9)).sum() == (found.evidence > 0.9).sum()


def test_rotations_inside_repeated_eigenvalues(spheres, data_folder):
    data = dataset.open_prepared(data_folder)
    assert max(map(len, align.repeated(data.basis))) > 4
    found = assert_recovered(spheres, data, scrambled(data))
    assert found.rotated >= 4


def test_the_command_stores_the_basis_in_a_run_without_one(tiny, tmp_path, capsys):
    run, data = tiny
    out = tmp_path / "basis.npz"
    assert main(["basis", "align", "--run", str(run), "--data", str(data), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "128 modes from 32 meshes" in printed
    assert "evidence (correlation of answers and meshes) of modes 0 to 63" in printed
    assert "error on 8 other meshes: 158" in printed
    assert f"{run}: this is its basis now" in printed.replace("\n", " ")
    np.testing.assert_array_equal(spectral.load(out).modes, sj.load_run(run).require_basis().modes)
    out.unlink()
    assert main(["basis", "align", "--run", str(run), "--data", str(data), "--out", str(out)]) == 0
    assert "keeps the basis it has" in capsys.readouterr().out


def test_without_a_train_split_half_of_the_meshes_check(tiny):
    data = sj.open_data(tiny[1])
    alone = dataclasses.replace(data, splits={"test": data.splits["test"]})
    used, unused = recovery.read_meshes(alone, 128, 100)
    assert (len(used.coefficients), len(unused.coefficients)) == (4, 4)
    one = dataclasses.replace(data, splits={"test": [data.splits["test"][0]]})
    with pytest.raises(ValueError, match="1 mesh, at least 2 are needed"):
        recovery.read_meshes(one, 128, 100)


def test_a_network_that_fits_no_basis_is_refused(data_folder, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out.npz"
    assert main(["train", "--data", str(data_folder), "--run", str(run), "--epochs", "1"]) == 0
    capsys.readouterr()
    assert main(["basis", "align", "--run", str(run), "--data", str(data_folder), "--out", str(out)]) == 2
    assert "no basis found in which the network of" in (error := capsys.readouterr().err)
    assert "of the mean shape" in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "RUN"], "--run needs --data"),
        (["mine.npz", "--run", "RUN", "--data", "DATA"], "takes no FILE or --reference"),
        (["mine.npz"], "give either --reference or --data"),
        (["--reference", "theirs.npz"], "FILE is missing"),
        (["--run", "RUN", "--data", "FEW"], "128 modes requested, the dataset has 32"),
        (["--run", "RUN", "--data", "DATA", "--meshes", "0"], "--meshes must be at least 1, not 0"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message, tiny, data_folder, tmp_path, capsys):
    names = {"RUN": tiny[0], "DATA": tiny[1], "FEW": data_folder}
    words = [str(names.get(word, word)) for word in arguments]
    assert main(["basis", "align", *words, "--out", str(tmp_path / "out.npz")]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "out.npz").exists()


def write_dfaust(folder, seed):
    """Ten people in motion, in files of the format of AMASS."""
    rng = np.random.default_rng(seed)
    for person in range(10):
        betas = rng.normal(size=16).astype(np.float32)
        for number, kind in enumerate(rng.choice(list(KINDS), 2, replace=False)):
            poses = synthesise(kind, 30, 30.0, int(rng.integers(1000)))
            path = folder / "DFaust_67" / f"500{20 + person}" / f"{number}_poses.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sequence(path, MotionSequence(poses, betas, "male", 30.0))


@pytest.mark.slow
def test_from_a_checkpoint_alone_to_an_evaluation(tmp_path, capsys):
    """The commands of docs/howto/pytorch.md: a checkpoint, bodies and a few sequences, and the basis comes back."""

    def run(command, *arguments):
        assert main([*command.split(), *map(str, arguments)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    def build(amass, out, *options):
        return run("dataset dfaust", "--amass", amass, "--body-dir", bodies, "--out", out, "--modes", 128, *options)

    bodies = tmp_path / "bodies"
    bodies.mkdir()
    for sex in ("MALE", "FEMALE"):
        shutil.copy(demo_body_path(), bodies / f"SMPLH_{sex}.npz")
    for name, seed in (("authors", 0), ("mine", 1)):
        write_dfaust(tmp_path / name, seed)
    build(tmp_path / "authors", tmp_path / "first")
    lost = scrambled(sj.open_data(tmp_path / "first")).basis
    spectral.save(tmp_path / "lost.npz", lost)
    build(tmp_path / "authors", tmp_path / "data", "--basis", tmp_path / "lost.npz")
    recipe = "--epochs 60 --learning-rate 3e-3 --beta2 0.95 --schedule cosine --validate-every 20 --latent-size 8"
    run("train", "--data", tmp_path / "data", "--run", tmp_path / "authors-run", *recipe.split())
    run("convert", tmp_path / "authors-run", tmp_path / "published" / "last.ckpt")

    theirs, again = tmp_path / "theirs", tmp_path / "again"
    run("convert", tmp_path / "published" / "last.ckpt", theirs)
    build(tmp_path / "mine", tmp_path / "other")
    printed = run("basis align", "--run", theirs, "--data", tmp_path / "other", "--out", tmp_path / "theirs.npz")
    assert "128 modes from" in printed
    build(tmp_path / "mine", again, "--basis", tmp_path / "theirs.npz")
    run("eval", theirs, "--data", again, "--json", tmp_path / "found.json")
    build(tmp_path / "mine", tmp_path / "known", "--basis", tmp_path / "lost.npz")
    run("eval", tmp_path / "authors-run", "--data", tmp_path / "known", "--json", tmp_path / "known.json")
    found, known = (json.loads((tmp_path / name).read_text())["mean_mm"] for name in ("found.json", "known.json"))
    assert found == pytest.approx(known, rel=0.02)
    run("convert", tmp_path / "published" / "last.ckpt", tmp_path / "checked", "--data", again, "--verify")


@pytest.mark.slow
@pytest.mark.parametrize(("vertices", "modes"), [(1229, 1024), (12272, 4096)])
def test_networks_of_the_demo(vertices, modes, tmp_path):
    """From 256 meshes of people that the network never saw."""
    data = sj.open_data(posed_bodies.demo(DemoRecipe(out=tmp_path / "data", vertices=vertices, modes=modes)))
    network = sj.train(
        data, tmp_path / "run", epochs=3, learning_rate=3e-3, beta2=0.95, schedule="cosine", validate_every=3
    )
    other = scrambled(dataclasses.replace(data, splits={"test": data.splits["test"]}))
    used, unused = recovery.read_meshes(other, modes, 256)
    found = recovery.recover(network, other.basis, used, unused)
    right = np.abs(np.einsum("vf,vf->f", found.basis.modes, np.asarray(data.basis.modes)) - 1) < 0.1
    assert right[: modes // 4].all()  # of the others, which three epochs teach little of, nearly all
    assert right.mean() > 0.98
    rows = evenly_spaced(720, recovery.UNUSED)
    known = evaluate.evaluate_split(network, data.basis, None, dataset.read_split(data, "test", rows=rows))
    assert found.error_mm < 1.02 * known.mean_mm  # less where it has learnt a high mode with the other sign
