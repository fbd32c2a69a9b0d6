"""Bad input of every kind gets one line that names file and values, exit code 2, and a traceback where asked for."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import TINY, sphere_examples, write_2026
from torch_archives import edit_tar, pth, write_tar

from spectral_jax.basis import spectral
from spectral_jax.bodies.motion import MotionSequence, write_sequence
from spectral_jax.bodies.smplh import demo_body_path
from spectral_jax.cli import main
from spectral_jax.data import pytorch_layouts, writer
from spectral_jax.files import torch_file
from spectral_jax.geometry.mesh import Mesh, write_mesh

CHECKPOINT = str(TINY / "last.ckpt")
HOLE = 6  # faces, without which a sphere has fewer edges but all its vertices


@pytest.fixture(scope="module")
def made(trained_run, sphere, sphere_basis, tmp_path_factory):
    """A run, its release, and datasets that do not fit it: one of fewer modes, one of another connectivity."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(trained_run, folder / "run")
    assert main(["export", str(folder / "run"), str(folder / "net.npz")]) == 0
    fewer = spectral.truncate(sphere_basis, 16)
    other = spectral.compute(sphere.faces[:-HOLE], 162, 32)
    for name, basis in (("fewer", fewer), ("other", other)):
        splits = {s: sphere_examples(sphere, basis, 3, seed, s == "test") for seed, s in enumerate(("train", "test"))}
        writer.write(folder / name, basis, Mesh(sphere.vertices, np.asarray(basis.faces)), splits, {"recipe": "test"})
    write_2026(folder / "root2026", pytorch_layouts.open_pytorch_layout(TINY / "root"))
    shutil.copytree(TINY / "root", folder / "root2022")
    return folder


@pytest.fixture
def at(made, data_folder, sphere, sphere_basis, tmp_path):
    """Where things are; `copy` makes one that a case may spoil."""

    def copy(source):
        target = tmp_path / Path(source).name
        shutil.copytree(source, target) if Path(source).is_dir() else shutil.copy(source, target)
        return target

    import trimesh

    small = trimesh.creation.icosphere(subdivisions=1)
    write_mesh(tmp_path / "sphere.ply", sphere)
    write_mesh(tmp_path / "small.ply", Mesh(np.asarray(small.vertices, np.float32), np.asarray(small.faces, np.int32)))
    write_mesh(tmp_path / "open.ply", sphere._replace(faces=sphere.faces[:-HOLE]))
    spectral.save(tmp_path / "basis.npz", spectral.truncate(sphere_basis, 12))
    (tmp_path / "file").write_text("")
    return SimpleNamespace(
        tmp=tmp_path, made=made, data=data_folder, run=made / "run", new=tmp_path / "new", copy=copy, sphere=sphere,
        basis=sphere_basis,
    )  # fmt: skip


# What spoils a file, or makes one.


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def edit_json(path, **changes):
    """Changes by name, or by section__name."""
    record = json.loads(path.read_text())
    for name, value in changes.items():
        *section, name = name.split("__")
        (record[section[0]] if section else record)[name] = value
    path.write_text(json.dumps(record))


def edit_npy(path, change):
    array = change(np.array(np.load(path)))
    np.save(path, array)


def folder_of_meshes(at, **meshes):
    """A folder with a sphere in a/ and others in b/, ...; meshes are files to copy or arrays to save."""
    folder = at.tmp / "meshes"
    (folder / "a").mkdir(parents=True)
    shutil.copy(at.tmp / "sphere.ply", folder / "a")
    for name, (file, content) in meshes.items():
        (folder / name).mkdir()
        if isinstance(content, Path):
            shutil.copy(content, folder / name / file)
        elif isinstance(content, dict):
            np.savez(folder / name / file, **content)
        else:
            np.save(folder / name / file, content)
    return folder


def train(at, data, *options):
    return ["train", "--data", data, "--run", at.new, *options]


def build(at, folder, *options):
    return ["dataset", "meshes", folder, "--out", at.new, *options]


# The cases: arguments, and words that the line must have.


def run_with(at, **changes):
    run = at.copy(at.run)
    edit_json(run / "config.json", **changes)
    return ["eval", run]


def release_with(at, **changes):
    path = at.tmp / "bad.npz"
    with np.load(at.made / "net.npz", allow_pickle=False) as file:
        arrays = dict(file)
    (at.tmp / "record.json").write_text(str(arrays["metadata"]))
    edit_json(at.tmp / "record.json", **changes)
    np.savez(path, **arrays | {"metadata": np.array((at.tmp / "record.json").read_text())})
    return ["import", path, at.new]


def data_with_basis(at, basis):
    data = at.copy(at.data)
    spectral.save(data / "basis.npz", basis)
    return data


def root_with(at, layout, name, change, edit=edit_npy):
    root = at.copy(at.made / f"root{layout}")
    edit(root / name, change)
    return train(at, root)


def vertices_of_another_body(at):
    root = at.copy(at.made / "root2022")
    edit_tar(root / "DEMO" / "test.tar", {"000005.vertices.pth": pth(np.zeros((128, 3), np.float32))})
    return train(at, root)


def tar_without_members(at):
    root = at.copy(at.made / "root2022")
    write_tar(root / "DEMO" / "test.tar", {})
    return train(at, root)


def modes_file(at, modes):
    np.save(at.tmp / "modes.npy", modes)
    return ["basis", "import", at.tmp / "modes.npy", "--mesh", at.tmp / "sphere.ply", "--out", at.new]


def cut_data(at, name):
    data = at.copy(at.data)
    (path,) = data.glob(name)
    cut(path)
    return train(at, data)


def empty_records(at):
    data = at.copy(at.data)
    edit_json(data / "metadata.json", counts__test=0)
    info = json.loads((data / "dataset_info.json").read_text())
    next(split for split in info["splits"] if split["name"] == "test").update(shardLengths=["0"], numBytes="0")
    (data / "dataset_info.json").write_text(json.dumps(info))
    return train(at, data)


def cut_sequence(at):
    """A sequence of DFAUST among sound ones, with --strict."""
    for sex in ("male", "female"):
        (at.tmp / "smplh" / sex).mkdir(parents=True)
        shutil.copy(demo_body_path(), at.tmp / "smplh" / sex / "model.npz")
    for i in range(10):
        folder = at.tmp / "DFaust" / f"{50000 + i}"
        folder.mkdir(parents=True)
        still = MotionSequence(np.zeros((3, 156), np.float32), np.zeros(16, np.float32), "male", 60.0)
        write_sequence(folder / "still_poses.npz", still)
    cut(at.tmp / "DFaust" / "50000" / "still_poses.npz")
    places = ["--amass", at.tmp, "--body-dir", at.tmp / "smplh", "--out", at.new, "--modes", "4", "--strict"]
    return ["dataset", "dfaust", *places]


def foreign_checkpoint(at):
    weights = torch_file.load(TINY / "init.pth")
    torch_file.save(at.tmp / "vae.pth", {f"vae_{name}": value for name, value in weights.items()})
    return ["convert", at.tmp / "vae.pth", at.new]


def wider_checkpoint(at):
    weights = torch_file.load(TINY / "init.pth") | {"decoder_linear.0.weight": np.zeros((2048, 9), np.float32)}
    torch_file.save(at.tmp / "wide.pth", weights)
    return ["convert", at.tmp / "wide.pth", at.new]


def contradicting_options(at):
    (at.tmp / "infos.json").write_text('{"size_latent": 32}')
    return ["convert", CHECKPOINT, at.new, "--infos", at.tmp / "infos.json"]


def without(module, argv):
    """A package that is not installed; `argv` of a case."""

    def case(at, monkeypatch):
        monkeypatch.setitem(sys.modules, module, None)
        return argv(at)

    return case


def hdf5(at):
    folder = folder_of_meshes(at)
    (folder / "registrations_m.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    return build(at, folder)


def mat(at):
    (at.tmp / "modes.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(600))
    return ["basis", "import", at.tmp / "modes.mat", "--mesh", at.tmp / "sphere.ply", "--out", at.new]


CASES = {
    "wrong mode count": {
        "more than the data has": (lambda at: train(at, at.data, "--modes", "33"), ["spheres", "33", "32"]),
        "a dataset of fewer": (lambda at: ["eval", at.run, "--data", at.made / "fewer"], ["fewer", "32", "16"]),
        "a basis of fewer in the folder": (
            lambda at: train(at, data_with_basis(at, spectral.truncate(at.basis, 16))),
            ["basis.npz", "16", "32"],
        ),
        "more than a file has": (
            lambda at: [*modes_file(at, at.basis.modes[:, :9]), "--modes", "10"],
            ["modes.npy", "10", "9"],
        ),
        "a checkpoint of more": (
            lambda at: ["convert", CHECKPOINT, at.new, "--data", at.data],
            [CHECKPOINT, "128", "32"],
        ),
        "a release of more": (
            lambda at: ["import", at.made / "net.npz", at.new, "--data", at.made / "fewer"],
            ["net.npz", "32", "16"],
        ),
        "splits of two counts": (
            lambda at: root_with(at, 2026, "Datasets/DEMO/train_coeffs.npy", lambda c: c[:, :9]),
            ["train_coeffs.npy", "9 modes", "vald_coeffs.npy", "128"],
        ),
    },
    "wrong vertex count": {
        "of a mesh": (
            lambda at: ["basis", "check", at.tmp / "basis.npz", "--mesh", at.tmp / "small.ply"],
            ["basis.npz", "162", "small.ply", "42"],
        ),
        "of a mesh to filter": (
            lambda at: ["filter", at.run, at.tmp / "small.ply", "--modes", "4", "--out", at.new],
            ["small.ply", "42", "run", "162"],
        ),
        "of modes": (lambda at: modes_file(at, at.basis.modes[1:, :9]), ["modes.npy", "161", "sphere.ply", "162"]),
        "of one mesh of many": (
            lambda at: build(at, folder_of_meshes(at, b=("small.ply", at.tmp / "small.ply"))),
            ["small.ply", "42", "162"],
        ),
        "of a sequence": (
            lambda at: build(at, folder_of_meshes(at, b=("s.npy", np.zeros((2, 42, 3), np.float32)))),
            ["s.npy", "42", "162"],
        ),
        "of the 2022 layout": (vertices_of_another_body, ["test.tar", "000005.vertices.pth", "128", "1229"]),
        "of the 2026 layout": (
            lambda at: root_with(at, 2026, "Datasets/DEMO/vald_vertices.npy", lambda v: v[:, 1:]),
            ["vald_vertices.npy", "1228", "1229"],
        ),
    },
    "other connectivity": {
        "of a mesh": (
            lambda at: ["basis", "check", at.tmp / "basis.npz", "--mesh", at.tmp / "open.ply"],
            ["basis.npz", "open.ply", "connectivity"],
        ),
        "of a mesh to filter": (
            lambda at: ["filter", at.run, at.tmp / "open.ply", "--modes", "4", "--out", at.new],
            ["open.ply", "run", "connectivity"],
        ),
        "of one mesh of many": (
            lambda at: build(at, folder_of_meshes(at, b=("open.ply", at.tmp / "open.ply"))),
            ["open.ply", "connectivity", "314 faces", "320"],
        ),
        "of a dataset": (
            lambda at: ["eval", at.run, "--data", at.made / "other"],
            ["run", "other", "not the same connectivity"],
        ),
        "of a dataset to go on with": (
            lambda at: ["train", "--run", at.copy(at.run), "--resume", "--data", at.made / "other"],
            ["run", "other", "not the same connectivity"],
        ),
        "of the basis in the folder": (
            lambda at: train(
                at, data_with_basis(at, spectral.truncate(spectral.compute(at.sphere.faces[:-HOLE], 162), 32))
            ),
            ["basis.npz", "connectivity", "metadata.json"],
        ),
        "of a release": (
            lambda at: ["import", at.made / "net.npz", at.new, "--data", at.made / "other"],
            ["net.npz", "not the same connectivity", "162"],
        ),
        "of modes": (
            lambda at: [*modes_file(at, at.basis.modes[::-1, :9])],
            ["modes.npy", "sphere.ply", "not the eigenbasis"],
        ),
    },
    "truncated file": {
        "tar": (
            lambda at: root_with(at, 2022, "DEMO/train.tar", 0.49, cut),
            ["train.tar", "ends at byte", "of 85,299"],
        ),
        "checkpoint": (lambda at: ["convert", cut(at.copy(CHECKPOINT)), at.new], ["last.ckpt", "truncated"]),
        "npz, the basis of a dataset": (lambda at: cut_data(at, "basis.npz"), ["basis.npz", "truncated"]),
        "npz, the basis of a run": (
            lambda at: ["eval", cut(at.copy(at.run) / "basis.npz").parent],
            ["run/basis.npz", "truncated"],
        ),
        "npz, a release": (lambda at: ["import", cut(at.copy(at.made / "net.npz")), at.new], ["net.npz", "truncated"]),
        "npz, a sequence of AMASS": (cut_sequence, ["50000/still_poses.npz", "truncated"]),
        "npz, a body": (
            lambda at: ["basis", "compute", cut(at.copy(demo_body_path())), "--out", at.new],
            ["demo_body_1229.npz", "truncated"],
        ),
        "npz, meshes": (
            lambda at: build(at, folder_of_meshes(at, b=("s.npz", cut(at.tmp / "basis.npz")))),
            ["s.npz", "truncated"],
        ),
        "npy, coefficients": (
            lambda at: root_with(at, 2026, "Datasets/DEMO/train_coeffs.npy", 0.5, cut),
            ["train_coeffs.npy", "24,512 bytes", "49,152"],
        ),
        "npy, modes": (
            lambda at: (modes_file(at, at.basis.modes), cut(at.tmp / "modes.npy"))[0],
            ["modes.npy", "104,976"],
        ),
        "array_record": (lambda at: cut_data(at, "*train*.array_record*"), ["spheres", "train"]),
        "mesh": (
            lambda at: ["basis", "compute", cut(at.tmp / "sphere.ply"), "--out", at.new],
            ["sphere.ply", "not a readable"],
        ),
    },
    "from a newer version": {
        "run": (lambda at: run_with(at, schema=9), ["config.json", "newer version", "9", "1"]),
        "dataset": (
            lambda at: (edit_json(at.copy(at.data) / "metadata.json", schema=9), train(at, at.tmp / "spheres"))[1],
            ["metadata.json", "newer version", "9", "1"],
        ),
        "release": (lambda at: release_with(at, schema=9), ["bad.npz", "newer version", "9", "1"]),
    },
    "unknown field": {
        "of the network": (lambda at: run_with(at, model__depth=3), ["config.json", "unknown options depth", "modes"]),
        "of the training": (lambda at: run_with(at, train__momentum=0.9), ["config.json", "momentum", "learning_rate"]),
        "of a release": (lambda at: release_with(at, model__depth=3), ["bad.npz", "unknown options depth"]),
        "of another type": (lambda at: run_with(at, model__modes="32"), ["config.json", "modes is '32'", "int"]),
        "absurdly large": (lambda at: run_with(at, model__modes=10**9), ["config.json", "1000000000", "1048576"]),
    },
    "another architecture": {
        "of a run": (
            lambda at: run_with(at, model__latent_size=5),
            ["run/last", "another network", "(4, 2048)", "(5, 2048)"],
        ),
        "names": (
            foreign_checkpoint,
            ["vae.pth", "not the weights", "vae_last_conv.bias", "unexpected", "missing"],
        ),
        "sizes": (wider_checkpoint, ["wide.pth", "decoder_linear.0.weight", "(2048, 9)", "(2048, 8)"]),
        "options": (contradicting_options, ["infos.json", "size_latent is 32", "8"]),
        "of a release": (lambda at: release_with(at, model__latent_size=5), ["bad.npz", "(4,)", "(5,)"]),
    },
    "empty split": {
        "of meshes": (lambda at: build(at, folder_of_meshes(at)), ["nothing is left for test", "train gets", "a"]),
        "of a folder": (empty_records, ["spheres", "test", "0"]),
        "of the 2022 layout": (tar_without_members, ["test.tar", "no members"]),
        "of the 2026 layout": (
            lambda at: root_with(at, 2026, "Datasets/DEMO/train_coeffs.npy", lambda c: c[:0]),
            ["train_coeffs.npy", "no meshes", "(0, 128, 3)"],
        ),
        "that is not there": (lambda at: ["eval", at.run, "--split", "vald"], ["spheres", "'vald'", "train, test"]),
    },
    "latent size 0": {
        "asked for": (lambda at: train(at, at.data, "--latent-size", "0"), ["latent size", "at least 1", "not 0"]),
        "in a run": (lambda at: run_with(at, model__latent_size=0), ["config.json", "at least 1", "not 0"]),
    },
    "batch larger than the set": {
        "asked for": (lambda at: train(at, at.data, "--batch-size", "45"), ["batch size 45", "44 meshes"]),
    },
    "negative learning rate": {
        "asked for": (lambda at: train(at, at.data, "--learning-rate", "-1"), ["learning rate", "positive", "not -1"]),
        "in a run": (lambda at: run_with(at, train__learning_rate=-1), ["config.json", "positive", "not -1"]),
    },
    "missing extra": {
        "safetensors": (
            without("safetensors", lambda at: ["export", at.run, at.tmp / "net.safetensors"]),
            ["net.safetensors", "pip install", "spectral-jax[safetensors]"],
        ),
        "onnx": (
            without("onnx", lambda at: ["export", at.run, at.tmp / "net.onnx"]),
            ["net.onnx", "pip install 'spectral-jax[onnx]'"],
        ),
        "hdf5": (without("h5py", hdf5), ["registrations_m.hdf5", "pip install 'spectral-jax[hdf5]'"]),
        "hdf5 of MATLAB": (without("h5py", mat), ["modes.mat", "pip install 'spectral-jax[hdf5]'"]),
        "cotangent": (
            without(
                "robust_laplacian",
                lambda at: ["basis", "compute", at.tmp / "sphere.ply", "--operator", "cotangent", "--out", at.new],
            ),
            ["--operator cotangent", "pip install 'spectral-jax[cotangent]'"],
        ),
    },
    "unwritable output": {
        "run": (lambda at: ["train", "--data", at.data, "--run", at.tmp / "file" / "run"], ["file"]),
        "dataset": (
            lambda at: [
                "dataset",
                "meshes",
                folder_of_meshes(at, b=("sphere.ply", at.tmp / "sphere.ply")),
                "--out",
                at.tmp / "file" / "data",
                "--modes",
                "4",
            ],
            ["file"],
        ),
        "basis": (lambda at: ["basis", "compute", at.tmp / "sphere.ply", "--out", at.tmp / "file" / "b.npz"], ["file"]),
        "release": (lambda at: ["export", at.run, at.tmp / "file" / "net.npz"], ["file"]),
        "checkpoint": (lambda at: ["convert", at.run, at.tmp / "file" / "last.ckpt"], ["file"]),
        "figures": (lambda at: ["dataset", "info", at.data, "--json", at.tmp / "file" / "info.json"], ["file"]),
        "mesh": (
            lambda at: ["filter", at.run, "0", "--modes", "4", "--out", at.tmp / "file" / "mesh.ply"],
            ["file"],
        ),
    },
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, cases in CASES.items() for name in cases])
def test_one_line_and_exit_code_2(kind, name, at, monkeypatch, capfd):
    make, words = CASES[kind][name]
    argv = [str(word) for word in (make(at, monkeypatch) if kind == "missing extra" else make(at))]
    monkeypatch.setenv("COLUMNS", "80")
    capfd.readouterr()
    assert main(argv) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert [word for word in words if word not in error] == [], error
    assert "allow_pickle" not in error
    assert not at.new.exists()
    with pytest.raises((ValueError, OSError)):
        main(["--debug", *argv])
