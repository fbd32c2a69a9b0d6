import contextlib
import gc
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, write_2026
from rounding import product_rounding
from torch_archives import edit_tar, members, pth, write_tar

from spectral_jax.basis import spectral
from spectral_jax.data import dataset, writer
from spectral_jax.data.pytorch_layouts import open_pytorch_layout, pytorch_layout
from spectral_jax.files import torch_file
from spectral_jax.geometry import mesh
from spectral_jax.geometry.mesh import Mesh

ROOT = TINY / "root"


def edit_npy(path, change):
    array = np.array(np.lib.format.open_memmap(path, mode="r"))
    with path.open("wb") as file:
        np.save(file, change(array), allow_pickle=True)


def arrays(examples):
    return np.stack([example.coefficients for example in examples])


def assert_same(examples, others):
    for a, b in zip(examples, others, strict=True):
        assert a[2:] == b[2:]
        np.testing.assert_array_equal(a.coefficients, b.coefficients)
        assert (a.vertices is None) == (b.vertices is None)
        if a.vertices is not None:
            np.testing.assert_array_equal(a.vertices, b.vertices)


@pytest.fixture(scope="module")
def tiny():
    return open_pytorch_layout(ROOT / "DEMO")


@pytest.fixture
def root_2022(tmp_path):
    return Path(shutil.copytree(ROOT, tmp_path / "root2022"))


@pytest.fixture
def root_2026(tmp_path, tiny):
    write_2026(tmp_path / "root2026", tiny)
    return tmp_path / "root2026"


def test_the_2022_layout_opens(tiny):
    assert {name: len(split) for name, split in tiny.splits.items()} == {"train": 32, "test": 8}
    first, member = tiny.splits["train"][0], members(ROOT / "DEMO" / "train.tar")["000000.coeffs.pth"]
    np.testing.assert_array_equal(first.coefficients, torch_file.load(member))
    assert first.vertices is None
    assert first[2:] == ("s000", "demo", "q0", 0, "neutral")
    assert tiny.metadata["counts"] == {"train": 32, "test": 8}
    assert sum(tiny.metadata["identities"]["train"].values()) == 32
    assert tiny.metadata["source"] == {"recipe": "upstream-2022", "path": str(ROOT / "DEMO")}
    assert tiny.metadata["connectivity"] == tiny.basis.fingerprint


def test_coefficients_are_the_projected_vertices(tiny):
    modes = tiny.basis.modes
    for example in tiny.splits["test"]:
        found, tolerance = spectral.project(tiny.basis, example.vertices), product_rounding(modes.T, example.vertices)
        np.testing.assert_allclose(found, example.coefficients, atol=tolerance)


def test_eigenvalues_are_those_of_the_faces(tiny):
    basis, edges = tiny.basis, mesh.edges(tiny.basis.faces, tiny.basis.num_vertices)
    image = mesh.graph_laplacian(edges, basis.num_vertices) @ basis.modes.astype(np.float64)
    np.testing.assert_allclose(image, basis.modes * basis.eigenvalues, atol=1e-5)
    assert basis.eigenvalues[0] == pytest.approx(0, abs=1e-6)
    assert (np.diff(basis.eigenvalues) > -1e-6).all()


def test_the_2026_layout_gives_the_same(tiny, root_2026):
    data = open_pytorch_layout(root_2026 / "Datasets" / "DEMO")
    assert data.metadata["source"]["recipe"] == "upstream-2026"
    for key in ("num_vertices", "num_modes", "connectivity", "counts", "identities"):
        assert data.metadata[key] == tiny.metadata[key]
    spectral.check_same(data.basis, tiny.basis, ("2026", "2022"), tolerance=0.0)
    for name in ("train", "test"):
        assert_same(data.splits[name], tiny.splits[name])


@pytest.mark.parametrize("layout", ["2022", "2026"])
def test_random_access_is_iteration(layout, request):
    data = open_pytorch_layout(request.getfixturevalue(f"root_{layout}"))
    for split in data.splits.values():
        order = np.random.default_rng(0).permutation(len(split))
        in_order = list(split)
        assert_same([split[i] for i in order], [in_order[i] for i in order])
        for index in (-1, len(split)):
            with pytest.raises(IndexError, match=f"no mesh {index}, .* {len(split)}"):
                split[index]


@pytest.mark.parametrize("layout", ["2022", "2026"])
def test_faces_count_from_0_or_from_1(layout, request, tiny):
    root = request.getfixturevalue(f"root_{layout}")
    path = root / {"2022": "mesh.triv", "2026": "smpl_faces.txt"}[layout]
    for first in (0, 1):
        np.savetxt(path, tiny.basis.faces + first)  # as floats, NumPy's default
        np.testing.assert_array_equal(open_pytorch_layout(root).basis.faces, tiny.basis.faces)
    np.savetxt(path, tiny.basis.faces + 2, fmt="%d")
    with pytest.raises(ValueError, match="names vertices 2 to 1230, expected 0 to 1228 or 1 to 1229"):
        open_pytorch_layout(root)


def test_a_root_is_a_dataset_where_it_has_one(root_2022, root_2026, tmp_path):
    for root, folder in ((root_2022, root_2022 / "DEMO"), (root_2026, root_2026 / "Datasets" / "DEMO")):
        assert pytorch_layout(root) == pytorch_layout(folder) == f"upstream-{root.name[-4:]}"
        assert open_pytorch_layout(root).path == open_pytorch_layout(folder).path == folder
        shutil.copytree(folder, folder.with_name("OTHER"))
        with pytest.raises(ValueError, match=r"2 datasets, expected 1 \(.*DEMO, .*OTHER\)"):
            open_pytorch_layout(root)
    for nothing in (tmp_path / "nowhere", tmp_path, ROOT / "mesh.triv"):
        assert pytorch_layout(nothing) is None
    with pytest.raises(ValueError, match="0 datasets, expected 1"):
        open_pytorch_layout(tmp_path / "nowhere")


def test_modes_are_those_that_basis_and_coefficients_both_have(tiny, root_2022, root_2026):
    edit_npy(root_2022 / "mesh.evecs_6890", lambda modes: np.asfortranarray(modes[:, :64], np.float64))
    data = open_pytorch_layout(root_2022)
    assert data.basis.num_modes == data.metadata["num_modes"] == 64
    np.testing.assert_array_equal(data.basis.modes, tiny.basis.modes[:, :64])
    np.testing.assert_array_equal(arrays(data.splits["test"]), arrays(tiny.splits["test"])[:, :64])
    for name in ("train", "vald"):
        edit_npy(root_2026 / "Datasets" / "DEMO" / f"{name}_coeffs.npy", lambda c: c[:, :50])
    data = open_pytorch_layout(root_2026)
    assert data.basis.num_modes == len(data.splits["train"][0].coefficients) == 50


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (tarfile.USTAR_FORMAT, "./"),
        (tarfile.USTAR_FORMAT, "long/" * 20),
        (tarfile.GNU_FORMAT, f"{'long' * 50}/"),
        (tarfile.PAX_FORMAT, "a/"),
        (tarfile.PAX_FORMAT, f"{'lóng' * 50}/"),
    ],
)
def test_any_flavour_of_tar(kind, folder, tiny, root_2022):
    tar = root_2022 / "DEMO" / "train.tar"
    contents = {f"{folder}{name}": content for name, content in reversed(members(tar).items())}
    write_tar(tar, {"._000000.coeffs.pth": b"", "README.md": b"", **contents}, kind)
    assert_same(open_pytorch_layout(root_2022).splits["train"], list(tiny.splits["train"])[::-1])


def test_labels_that_are_missing_or_of_another_type(root_2022):
    edit_tar(
        root_2022 / "DEMO" / "train.tar",
        {
            "000000.infos.json": b"{}",
            "000001.infos.json": b'{"identity": 50002, "gender": null, "file": ["x"], "frame_idx": "7", "more": 1}',
            "000002.infos.json": b'{"frame_idx": 1e999}',
        },
    )
    train = open_pytorch_layout(root_2022).splits["train"]
    assert train[0][2:] == train[2][2:] == ("", "", "", -1, "")
    assert train[1][2:] == ("50002", "", "", 7, "")


def test_training_reads_it(tiny):
    split = dataset.read_split(tiny, "train", 64)
    np.testing.assert_array_equal(split.coefficients, arrays(tiny.splits["train"])[:, :64])
    assert split.vertices is None
    assert dataset.read_split(tiny, "test").vertices.shape == (8, 1229, 3)


def test_it_can_be_written_as_a_prepared_folder(tiny, tmp_path):
    template = Mesh(tiny.splits["test"][0].vertices, tiny.basis.faces)
    writer.write(tmp_path / "demo", tiny.basis, template, tiny.splits, tiny.metadata["source"])
    written = dataset.open_prepared(tmp_path / "demo")
    assert {name: written.metadata[name] for name in tiny.metadata} == tiny.metadata
    for name in ("train", "test"):
        assert_same(written.splits[name], tiny.splits[name])


def test_threads_read_one_file(tiny):
    split = tiny.splits["test"]
    order = np.random.default_rng(0).integers(len(split), size=100)
    expected = list(split)
    with ThreadPoolExecutor(8) as pool:
        assert_same(pool.map(split.__getitem__, order), [expected[i] for i in order])


def test_files_are_closed():
    data = open_pytorch_layout(ROOT)
    with contextlib.closing(data.splits["train"]) as train:
        train[0]
    with pytest.raises(ValueError, match="closed file"):
        train[0]
    close = data.splits["test"].close
    assert close.alive
    del data, train
    gc.collect()
    assert not close.alive


ZEROS = np.zeros((128, 3), np.float32)


def member(name, content, split="train"):
    """Damage: replace a member of a tar, or with None remove it."""
    return lambda root: edit_tar(root / "DEMO" / f"{split}.tar", {name: content})


def huge_member(root):
    header = tarfile.TarInfo("000000.coeffs.pth")
    header.size = (256 << 20) + 1
    huge("DEMO/train.tar", 257 << 20, header.tobuf())(root)


def huge(name, size, start=b""):
    """Damage: a file of `size` bytes, zeros after `start`, that takes no room."""

    def damage(root):
        with (root / name).open("wb") as file:
            file.write(start)
            file.truncate(size)

    return damage


def text(name, content):
    return lambda root: (root / name).write_text(content)


def cut(name, size):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:size])


def npy(name, change):
    return lambda root: edit_npy(root / name, change)


def without(name):
    return lambda root: (root / name).unlink()


def with_value(array, value):
    array.flat[array.size // 2] = value
    return array


NO_BASIS = "mesh.evecs_6890: .*eigenbasis .*mesh.triv"
COEFFS, VERTICES = "Datasets/DEMO/train_coeffs.npy", "Datasets/DEMO/vald_vertices.npy"
ERRORS = {
    "2022": [
        # members
        (
            member("000003.coeffs.pth", pth(ZEROS[:99])),
            r"'000003.coeffs.pth' has shape \(99, 3\), expected \(128 or more",
        ),
        (member("000003.coeffs.pth", pth(ZEROS[:, :2])), r"train.tar: member '000003.coeffs.pth' has shape \(128, 2\)"),
        (member("000003.coeffs.pth", pth(np.zeros((), np.float32))), r"'000003.coeffs.pth' has shape \(\)"),
        (
            member("000003.coeffs.pth", pth(ZEROS.astype(int))),
            "'000003.coeffs.pth' holds int64, expected a float",
        ),
        (member("000003.coeffs.pth", pth({"a": ZEROS})), "'000003.coeffs.pth' holds dict, expected a float"),
        (member("000003.coeffs.pth", pth(ZEROS + np.nan)), "member '000003.coeffs.pth' has values that are not finite"),
        (member("000003.coeffs.pth", b"PK\3\4"), "train.tar: member '000003.coeffs.pth' is a truncated zip archive"),
        (member("000003.coeffs.pth", None), "train.tar: no member '000003.coeffs.pth'"),
        (member("000005.vertices.pth", pth(ZEROS), "test"), r"pth' has shape \(128, 3\), expected \(1229, 3\)"),
        (
            member("000005.vertices.pth", pth(np.full((1229, 3), np.inf)), "test"),
            "vertices.pth' has values that are not",
        ),
        (member("000005.vertices.pth", None, "test"), "test.tar: no member '000005.vertices.pth'"),
        (member("000003.infos.json", None), "train.tar: no member '000003.infos.json'"),
        (member("000003.infos.json", b"{"), "train.tar: member '000003.infos.json': not readable as JSON"),
        (member("000003.infos.json", b"[" * 100_000), "'000003.infos.json': not readable as JSON"),
        (member("000003.infos.json", b"[]"), "'000003.infos.json': holds a list, expected a dict"),
        (member("000003.infos.json", b" " * 2**21), "infos.json' has 2,097,152 bytes, .* 1,048,576"),
        # the tar
        (huge_member, "'000000.coeffs.pth' has 268,435,457 bytes, .* 268,435,456"),
        (cut("DEMO/train.tar", 3000), "train.tar: truncated, member '000000.coeffs.pth' ends at byte 4,649 of 3,000"),
        (cut("DEMO/train.tar", 1024), "train.tar: truncated, no end mark at byte 1,024"),
        (cut("DEMO/train.tar", 0), "train.tar: truncated, no end mark at byte 0"),
        (text("DEMO/test.tar", "x" * 600), "test.tar: not an uncompressed tar, or damaged"),
        (lambda root: write_tar(root / "DEMO/test.tar", {}), "test.tar: no members <key>.coeffs.pth"),
        (without("DEMO/test.tar"), "test.tar: no such file"),
        (
            lambda root: shutil.rmtree(root / "DEMO"),
            r"0 datasets, .*\(no folder with train.tar or test.tar or train_coeffs.npy",
        ),
        (text("DEMO/infos.json", '{"nb_evals": 9}'), "infos.json: nb_evals is 9, .*test.tar has 8 meshes"),
        (text("DEMO/infos.json", "3"), "infos.json: holds a int, expected a dict"),
        # the basis and the faces
        (without("mesh.evecs_6890"), r"root2022: 0 files mesh.evecs_\*"),
        (text("mesh.evecs_1", ""), r"2 files .* \(found: mesh.evecs_1, mesh.evecs_6890\)"),
        (
            npy("mesh.evecs_6890", lambda m: m.astype(int)),
            r"holds int64 \(1229, 128\), expected float32 or float64 \(any",
        ),
        (npy("mesh.evecs_6890", lambda m: with_value(m, np.nan)), "mesh.evecs_6890 has values that are not finite"),
        (npy("mesh.evecs_6890", lambda m: 1.01 * m), f"{NO_BASIS} .*orthonormality.* 0.02"),
        (npy("mesh.evecs_6890", lambda m: m[::-1]), NO_BASIS),
        (text("mesh.triv", "1 2\n3 4\n"), r"mesh.triv: holds numbers \(2, 2\), expected three integers"),
        (text("mesh.triv", "1 2 3.5\n"), "mesh.triv: holds numbers"),
        (text("mesh.triv", "1 2 nan\n"), "mesh.triv: holds numbers"),
        (text("mesh.triv", ""), r"mesh.triv: holds numbers \(0, 1\)"),
        (text("mesh.triv", "1 2 3\n4\n"), "mesh.triv: expected three numbers"),
        (text("mesh.triv", "f 1 2\n"), "mesh.triv: expected three numbers"),
        (text("mesh.triv", "1 2 3\n9 9 1229\n"), "mesh.triv: face 1 names vertex 8 twice"),
    ],
    "2026": [
        (npy(COEFFS, lambda c: c[..., :2]), r"holds float32 \(32, 128, 2\), expected float32 \(any, any, 3\)"),
        (npy(COEFFS, lambda c: c[0]), r"train_coeffs.npy: holds float32 \(128, 3\), expected float32 \(any, any, 3\)"),
        (npy(COEFFS, lambda c: c.astype(float)), r"train_coeffs.npy: holds float64 \(32, 128, 3\)"),
        (npy(COEFFS, lambda c: c.astype(object)), "train_coeffs.npy: not a readable .npy file"),
        (npy(COEFFS, lambda c: c[:0]), r"train_coeffs.npy: no meshes, its shape is \(0, 128, 3\)"),
        (npy(COEFFS, lambda c: c[:31]), "train_infos.json has 32 entries, .*train_coeffs.npy has 31 meshes"),
        (npy(COEFFS, lambda c: c[:, :9]), "train_coeffs.npy has 9 modes, .*vald_coeffs.npy has 128"),
        (npy(COEFFS, lambda c: with_value(c, np.nan)), "train_coeffs.npy: mesh 16 has values that are not finite"),
        (npy(VERTICES, lambda v: with_value(v, np.inf)), "vald_vertices.npy: mesh 4 has values that are not finite"),
        (npy(VERTICES, lambda v: v[:, 1:]), r"holds float32 \(8, 1228, 3\), expected float32 \(8, 1229, 3\)"),
        (
            npy(VERTICES, lambda v: v[1:]),
            r"vald_vertices.npy: holds float32 \(7, 1229, 3\), expected float32 \(8, 1229",
        ),
        (cut(COEFFS, 3000), "train_coeffs.npy: not a readable .npy file"),
        (text(COEFFS, ""), "train_coeffs.npy: not a readable .npy file"),
        (without(VERTICES), "vald_vertices.npy: no such file"),
        (without("Datasets/DEMO/vald_infos.json"), "vald_infos.json: no such file"),
        (text("Datasets/DEMO/vald_infos.json", "{}"), "vald_infos.json: holds a dict, expected a list"),
        (text("Datasets/DEMO/vald_infos.json", "[{}, {"), "not readable as JSON"),
        (text("Datasets/DEMO/vald_infos.json", "[{}, 3, {}, {}, {}, {}, {}, {}]"), "infos.json: entry 1.*int"),
        (huge("Datasets/DEMO/train_infos.json", 2**27), "infos.json: 134,217,728 bytes, .*67,108,864"),
        (text("Datasets/DEMO/infos.json", '{"nb_train": 33}'), "nb_train is 33, .*train_coeffs.npy has 32 meshes"),
        (without("evecs_GL_1229.npy"), r"root2026: 0 files evecs_GL_\*.npy"),
        (without("smpl_faces.txt"), r"root2026: 0 files smpl_faces.txt"),
    ],
}


@pytest.mark.parametrize(
    ("layout", "damage", "message"),
    [pytest.param(layout, *case, id=f"{layout}-{i}") for layout in ERRORS for i, case in enumerate(ERRORS[layout])],
)
def test_errors_name_the_file_and_the_values(layout, damage, message, request):
    root = request.getfixturevalue(f"root_{layout}")
    damage(root)
    with pytest.raises(ValueError, match=message):
        [list(split) for split in open_pytorch_layout(root).splits.values()]
