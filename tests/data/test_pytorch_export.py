"""Datasets in the published layouts: what is written is what is read, and nothing else remains."""

import dataclasses
import io
import json
import shutil
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from helpers import TINY, Counted
from torch_archives import members

from spectral_jax.cli import main
from spectral_jax.data import dataset, pytorch_export
from spectral_jax.data.pytorch_export import export
from spectral_jax.data.pytorch_layouts import open_pytorch_layout, pytorch_layout

LAYOUTS = ("2022", "2026")


def assert_same(ours, theirs):
    """Bit for bit, but for eigenvalues."""
    for name in ("modes", "faces"):
        a, b = (np.asarray(getattr(data.basis, name)) for data in (ours, theirs))
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    np.testing.assert_allclose(ours.basis.eigenvalues, theirs.basis.eigenvalues, atol=1e-5)
    assert ours.splits.keys() == theirs.splits.keys()
    for name, split in ours.splits.items():
        for a, b in zip(split, theirs.splits[name], strict=True):
            assert a[2:] == b[2:]
            assert (a.vertices is None) == (b.vertices is None) == (name == "train")
            assert a.coefficients.tobytes() == b.coefficients.tobytes()
            assert a.vertices is None or a.vertices.tobytes() == b.vertices.tobytes()


@pytest.fixture(scope="module")
def spheres(data_folder):
    return dataset.open_prepared(data_folder)


def changed(data, split, index, **fields):
    """The dataset with other fields of one mesh."""
    examples = list(data.splits[split])
    examples[index] = examples[index]._replace(**fields)
    return dataclasses.replace(data, splits={**data.splits, split: examples})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_round_trip_is_exact(data_folder, spheres, tmp_path, layout, capsys):
    root, back = tmp_path / "root", tmp_path / "back"
    assert main(["dataset", "export", str(data_folder), str(root), "--layout", layout]) == 0
    folder = root / spheres.path.name if layout == "2022" else root / "Datasets" / spheres.path.name
    assert f"{folder}: layout of {layout}, 32 modes" in capsys.readouterr().out.replace("\n", " ")
    assert pytorch_layout(root) == f"upstream-{layout}"
    assert_same(open_pytorch_layout(folder), spheres)
    assert main(["dataset", "import", str(root), str(back)]) == 0
    assert_same(dataset.open_prepared(back), spheres)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_published_files_return(tmp_path, layout):
    theirs = open_pytorch_layout(TINY / "root")
    ours = open_pytorch_layout(export(theirs, tmp_path / "root", layout))
    assert_same(ours, theirs)
    np.testing.assert_array_equal(ours.basis.eigenvalues, theirs.basis.eigenvalues)
    assert ours.path.name == "DEMO"


def test_the_files_of_2022_are_the_published_ones(tmp_path):
    """Names and contents of those that the PyTorch system wrote; its .pth have another order of records."""
    folder = export(open_pytorch_layout(TINY / "root"), tmp_path / "root")
    names = [path.relative_to(TINY / "root").as_posix() for path in (TINY / "root").rglob("*")]
    assert sorted(path.relative_to(tmp_path / "root").as_posix() for path in folder.parent.rglob("*")) == sorted(names)
    for split in ("train", "test"):
        ours, theirs = (members(root / f"{split}.tar") for root in (folder, TINY / "root" / "DEMO"))
        assert list(ours) == list(theirs)
        for name in ours:
            if name.endswith(".json"):
                assert json.loads(ours[name]) == json.loads(theirs[name])
    assert json.loads((folder / "infos.json").read_text()) == {"nb_train": 32, "nb_evals": 8}
    triangles = [np.loadtxt(root / "mesh.triv", int) for root in (folder.parent, TINY / "root")]
    np.testing.assert_array_equal(*triangles)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_labels_and_values_return(spheres, tmp_path, layout):
    odd = {"identity": 'Zoë "x"\n', "dataset": "", "file": "a/b.c.npz", "frame": -1, "gender": "日本"}
    coefficients = spheres.splits["test"][3].coefficients.copy()
    coefficients[:2] = [[-0.0, 1e-45, 3.4e38], [np.pi, -1e-30, 0]]
    data = changed(changed(spheres, "test", 3, coefficients=coefficients, **odd), "train", 43, frame=2**31 - 1)
    assert_same(open_pytorch_layout(export(data, tmp_path / "root", layout, "a name")), data)


@pytest.mark.needs("torch")
def test_torch_reads_its_files(spheres, tmp_path):
    import torch

    contents = members(export(spheres, tmp_path / "root") / "test.tar")
    for index, example in enumerate(spheres.splits["test"]):
        for name, array in (("coeffs", example.coefficients), ("vertices", example.vertices)):
            tensor = torch.load(io.BytesIO(contents[f"{index:06d}.{name}.pth"]), weights_only=True)
            assert tensor.dtype == torch.float32
            np.testing.assert_array_equal(tensor.numpy(), array)


class Many(Sequence):
    """A split of many copies of one mesh, which takes no memory."""

    def __init__(self, example, count):
        self.example, self.count = example, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.example


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_does_not_grow_with_the_meshes(spheres, tmp_path, layout):
    def peak(count):
        splits = {name: Many(split[0], count) for name, split in spheres.splits.items()}
        tracemalloc.start()
        export(dataclasses.replace(spheres, splits=splits), tmp_path / f"root{count}", layout)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)  # what is loaded once
    assert peak(400) < peak(40) + 100_000  # their labels alone take more, their arrays 1 MB


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_remains_of_what_failed(spheres, tmp_path, layout, error):
    class Failing(Counted):
        def update(self, task, done, total=None, note=""):
            super().update(task, done, total, note)
            if task == "writing test" and done == 4:
                raise error

    with pytest.raises(error):
        export(spheres, tmp_path / "deep" / "root", layout, progress=Failing())
    assert list((tmp_path / "deep").iterdir()) == []
    export(spheres, tmp_path / "deep" / "root", layout)


def test_leftovers_of_a_killed_export_go_and_a_running_one_is_left_alone(spheres, tmp_path):
    hidden = tmp_path / ".root.exporting"
    (hidden / "root" / "old").mkdir(parents=True)
    folder = export(spheres, tmp_path / "root")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["mesh.evecs_6890", "mesh.triv", folder.name]
    assert not hidden.exists()


def refusals(data, folder):
    taken, dangling = folder / "taken", folder / "dangling"
    taken.write_text("mine")
    dangling.symlink_to(folder / "nowhere")
    mass = np.ones(data.basis.num_vertices, np.float32)
    yield (data, taken), "taken exists already"
    yield (data, dangling), "dangling exists already"
    yield (dataclasses.replace(data, basis=dataclasses.replace(data.basis, mass=mass)), folder / "new"), "cotangent"
    yield (changed(data, "test", 0, vertices=None), folder / "new"), "test has no original vertices"
    yield (changed(data, "test", 5, vertices=None), folder / "new"), "mesh 5 of split test .*has no original vertices"
    spoilt = np.full_like(data.splits["train"][0].coefficients, np.nan)
    yield (changed(data, "train", 7, coefficients=spoilt), folder / "new"), r"mesh 7 of split train \(007.ply\) is not"
    yield (dataclasses.replace(data, splits={"test": data.splits["test"]}), folder / "new"), "no split 'train'"
    for name in ("a/b", "..", ""):
        yield (data, folder / "new", "2022", name), "plain name"


def test_what_cannot_be_exported_is_refused(spheres, tmp_path):
    for arguments, message in refusals(spheres, tmp_path):
        with pytest.raises(ValueError, match=message):
            export(*arguments)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "taken"]
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_disk_without_room_is_told_before_anything_is_written(spheres, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(pytorch_export.shutil, "disk_usage", lambda path: free)
    with pytest.raises(ValueError, match=r"root: needs \d{3},\d{3} bytes, 1,000 are free"):
        export(spheres, tmp_path / "root")
    assert list(tmp_path.iterdir()) == []
