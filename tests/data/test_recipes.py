"""The dataset recipes, against a computation by the book, and what is left of a build that is cut short."""

import contextlib
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from helpers import Interrupting, bumpy_spheres, meshes_written
from rounding import product_rounding, rounding
from scipy.spatial.transform import Rotation

from spectral_jax.basis import spectral
from spectral_jax.bodies.motion import KINDS, MotionSequence, read_sequence, synthesise, write_sequence
from spectral_jax.bodies.smplh import demo_body_path, load_body
from spectral_jax.cli import main
from spectral_jax.data import dataset, posed_bodies, projection, registered_meshes, writer
from spectral_jax.data.dataset import Example
from spectral_jax.data.recipes import MeshRecipe, PublishedRecipe
from spectral_jax.data.writer import Skipped, Source
from spectral_jax.files.progress import SILENT, Silent
from spectral_jax.geometry import sequences
from spectral_jax.geometry.mesh import Mesh, read_mesh, write_mesh
from spectral_jax.runs import run

BATCH, MODES = 16, 24
# The published sets in order, and folders that they may lie in.
TRAIN = {
    "CMU": "CMU/CMU", "MPI_Limits": "PosePrior", "TotalCapture": "TotalCapture",
    "Eyes_Japan_Dataset": "EyesJapanDataset", "KIT": "KIT/KIT", "DanceDB": "DanceDB", "BMLhandball": "BMLhandball",
    "Transitions_mocap": "Transitions", "EKUT": "EKUT", "TCD_handMocap": "TCDHands", "ACCAD": "ACCAD",
}  # fmt: skip
TEST = {"HumanEva": "HumanEva", "MPI_HDM05": "MPI_HDM05", "SFU": "SFU", "MPI_mosh": "MoSh"}
FRAMES = {1: [], 2: [0], 40: [4], 130: [13, 113], 250: [25, 125]}  # of sequences so long, worked out by hand
LENGTHS, GENDERS = (40, 250, 130, 1), ("female", "male", "neutral", "female", "unknown")


class Planned(NamedTuple):
    """What is written as a sequence, and where from the published splits it belongs."""

    dataset: str
    identity: str
    file: str
    sequence: MotionSequence


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Batches of one small size, and each body loaded, and so compiled for, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "BATCH", BATCH)
        patch.setattr(posed_bodies, "load_body", functools.cache(load_body))
        yield


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """The demo body as the male one, a quarter smaller as the female."""
    folder = tmp_path_factory.mktemp("bodies")
    shutil.copy(demo_body_path(), folder / "SMPLH_MALE.npz")
    (folder / "female").mkdir()
    with np.load(demo_body_path(), allow_pickle=False) as data:
        arrays = dict(data)
    arrays["v_template"] = arrays["v_template"] * np.float32(0.75)
    np.savez(folder / "female" / "model.npz", allow_pickle=False, **arrays)
    return folder


def plan():
    """One or two subjects of every set, one or two sequences of each."""
    planned, rng = [], np.random.default_rng(0)
    for name in (*TRAIN, *TEST):
        for subject in range(1 + len(name) % 2):
            betas = rng.normal(size=16).astype(np.float32)
            for number in range(1 + (len(planned) + subject) % 2):
                i = len(planned)
                poses = synthesise(KINDS[i % len(KINDS)], LENGTHS[i % 4], 60.0, i)
                sequence = MotionSequence(poses, betas, GENDERS[i % 5], 60.0)
                planned.append(Planned(name, f"s{subject}", f"{number}_poses.npz", sequence))
    return planned


def twins():
    """Sequences of one frame of SFU that differ from the first in a single thing."""
    poses, betas = synthesise("squat", 2, 60.0, 5), np.linspace(-1, 1, 16, dtype=np.float32)
    turned, shaped = poses.copy(), betas.copy()
    turned[:, :3], shaped[15] = [0.3, 2.0, -1.0], 3.0
    handless = np.pad(poses[:, :66], ((0, 0), (0, 90)))
    files = {
        "a": (poses, betas), "b_turned": (turned, betas), "c_beta16": (poses, shaped), "d_handless": (handless, betas)
    }  # fmt: skip
    return [
        Planned("SFU", "twins", f"{name}.npz", MotionSequence(*arrays, "male", 60.0)) for name, arrays in files.items()
    ]


def write_amass(folder, planned, places):
    for each in planned:
        place = folder / places[each.dataset] / each.identity
        place.mkdir(parents=True, exist_ok=True)
        write_sequence(place / each.file, each.sequence)
        np.savez(place / "shape.npz", betas=np.zeros(16))


def write_damaged(folder):
    """Files that are no sequences, and what is said of them, in the order in which they are met."""
    folder.mkdir(parents=True)
    arrays = {"poses": np.zeros((60, 156)), "betas": np.zeros(16), "gender": "male", "mocap_framerate": 60.0}
    np.savez(folder / "a_truncated.npz", **arrays)
    (folder / "a_truncated.npz").write_bytes((folder / "a_truncated.npz").read_bytes()[:5000])
    np.savez(folder / "b_keys.npz", **{name: arrays[name] for name in ("poses", "gender")})
    np.savez(folder / "c_smplx.npz", **arrays | {"poses": np.zeros((60, 165))})
    np.savez(folder / "d_nan.npz", **arrays | {"poses": np.full((60, 156), np.nan)})
    np.savez(folder / "e_text.npz", **arrays | {"poses": np.full((60, 156), "x")})
    return {
        "a_truncated.npz": "not an AMASS sequence",
        "b_keys.npz": "no array betas, mocap_framerate",
        "c_smplx.npz": "poses have shape (60, 165), expected (frames, 156) or (frames, 72)",
        "d_nan.npz": "poses: not all values are finite",
        "e_text.npz": "poses: <U1, expected numbers",
    }


class Built(NamedTuple):
    """The dataset that `spectral-jax dataset amass` made, what it printed, and what it was made of."""

    data: dataset.Data
    printed: str
    amass: Path
    planned: dict[str, list[Planned]]
    damaged: dict[str, str]


@pytest.fixture(scope="module")
def built(bodies, tmp_path_factory):
    root = tmp_path_factory.mktemp("amass")
    planned = plan() + twins()
    write_amass(root / "AMASS", planned, TRAIN | TEST)
    damaged = write_damaged(root / "AMASS" / "KIT" / "KIT" / "s9")
    handless = root / "AMASS" / "SFU" / "twins" / "d_handless.npz"  # as SMPL's 72 numbers: two hand joints to drop
    poses, betas, _, rate = read_sequence(handless)
    smpl = np.concatenate([poses[:, :66], np.ones((2, 6), np.float32)], 1)
    np.savez(handless, poses=smpl, betas=betas[:16], gender=np.array(b"male"), mocap_frame_rate=rate)
    write_amass(root / "AMASS", [planned[0]._replace(dataset="other")], {"other": "Unknown"})
    arguments = ["--amass", root / "AMASS", "--body-dir", bodies, "--out", root / "out", "--modes", MODES]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["dataset", "amass", *map(str, arguments)]) == 0
    splits = {
        split: sorted((p for p in planned if p.dataset in names), key=lambda p: (list(names).index(p.dataset), p[1:3]))
        for split, names in (("train", TRAIN), ("test", TEST))
    }
    return Built(dataset.open_data(root / "out"), printed.getvalue(), root / "AMASS", splits, damaged)


def posed(path, pose, betas):
    """A body by the book, in float64: skinned with its root turned, the pelvis subtracted, the root turned back."""
    with np.load(path, allow_pickle=False) as data:
        body = {name: array.astype(np.float64) for name, array in data.items() if array.dtype.kind in "fiu"}
    turns = Rotation.from_rotvec(pose.reshape(52, 3)).as_matrix()
    shaped = body["v_template"] + body["shapedirs"][..., :16] @ betas
    joints = body["J_regressor"] @ shaped
    rest = shaped + body["posedirs"] @ (turns[1:] - np.eye(3)).ravel()
    turn, at = [turns[0]], [joints[0]]
    for joint, parent in enumerate(body["kintree_table"][0].astype(int).tolist()[1:], 1):
        at.append(turn[parent] @ (joints[joint] - joints[parent]) + at[parent])
        turn.append(turn[parent] @ turns[joint])
    moved = np.einsum("jab,vjb->vja", turn, rest[:, None] - joints) + at
    return (np.einsum("vj,vja->va", body["weights"], moved) - at[0]) @ turns[0]


def frames_of(planned):
    return [(p, frame) for p in planned for frame in FRAMES[len(p.sequence.poses)]]


@pytest.mark.parametrize("split", ["train", "test"])
def test_amass_records_are_the_published_frames_in_order(built, split):
    expected = [
        (p.identity, p.dataset, p.file, frame, p.sequence.gender) for p, frame in frames_of(built.planned[split])
    ]
    assert [example[2:] for example in built.data.splits[split]] == expected
    assert len({dataset for _, dataset, *_ in expected}) == len(TRAIN if split == "train" else TEST)
    assert built.data.metadata["counts"][split] == len(expected)
    assert sum(built.data.metadata["identities"][split].values()) == len(expected)


@pytest.mark.parametrize("split", ["train", "test"])
def test_amass_bodies_are_posed_by_the_book(built, bodies, split):
    modes = built.data.basis.modes.astype(np.float64)
    genders = set()
    for example, (planned, frame) in zip(built.data.splits[split], frames_of(built.planned[split]), strict=True):
        gender = planned.sequence.gender
        body = bodies / ("female/model.npz" if gender == "female" else "SMPLH_MALE.npz")
        vertices = posed(body, planned.sequence.poses[frame], planned.sequence.betas)
        tolerance = product_rounding(modes.T, vertices)
        np.testing.assert_allclose(example.coefficients, modes.T @ vertices, atol=tolerance)
        if split == "test":
            np.testing.assert_allclose(example.vertices, vertices, atol=rounding(vertices, 52))  # a sum over joints
        genders.add(gender)
    assert genders == {"female", "male", "neutral", "unknown"}  # in batches of both bodies


def test_only_test_meshes_keep_their_vertices(built):
    assert all(example.vertices is None for example in built.data.splits["train"])
    assert all(example.vertices.shape == (1229, 3) for example in built.data.splits["test"])
    assert built.data.basis.modes.shape == (1229, MODES)
    assert built.data.basis.operator == "graph"


def test_turning_the_root_changes_nothing_and_the_last_beta_does(built):
    twin = {e.file[0]: e.vertices for e in built.data.splits["test"] if e.identity == "twins"}
    np.testing.assert_array_equal(twin["b"], twin["a"])
    assert np.abs(twin["c"] - twin["a"]).max() > 1e-4
    assert np.abs(twin["d"] - twin["a"]).max() > 1e-3  # 72 numbers: hands are flat


def build_amass(amass, bodies, out, progress=SILENT, **options):
    recipe = PublishedRecipe(amass=amass, body_dir=bodies, out=out, modes=MODES, allow_missing=True, **options)
    return posed_bodies.published("amass", recipe, progress)


def test_a_long_sequence_gives_every_hundredth_frame_of_its_middle(bodies, tmp_path):
    still = MotionSequence(np.zeros((1000, 156), np.float32), np.zeros(16, np.float32), "male", 60.0)
    short = still._replace(poses=still.poses[:10])
    planned = [Planned("CMU", "01", "long.npz", still), Planned("SFU", "01", "short.npz", short)]
    write_amass(tmp_path / "AMASS", planned, {"CMU": "CMU", "SFU": "SFU"})
    out = build_amass(tmp_path / "AMASS", bodies, tmp_path / "out")
    splits = dataset.open_data(out).splits
    assert [example.frame for example in splits["train"]] == [100, 200, 300, 400, 500, 600, 700, 800]
    assert [example.frame for example in splits["test"]] == [1]


def test_files_that_are_no_sequences_are_skipped_named_and_counted(built):
    skipped = built.data.metadata["skipped"]
    assert skipped["test"] == []
    for line, (file, reason) in zip(skipped["train"], built.damaged.items(), strict=True):
        assert str(Path("s9", file)) in line
        assert reason in line
        assert line in built.printed
    assert "5 files skipped" in built.printed


def test_strict_stops_at_the_first_file_that_is_no_sequence(built, bodies, tmp_path, capsys):
    options = ["--amass", built.amass, "--body-dir", bodies, "--out", tmp_path / "out", "--modes", MODES, "--strict"]
    assert main(["dataset", "amass", *map(str, options)]) == 2
    error = capsys.readouterr().err
    assert "a_truncated.npz: not an AMASS sequence" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_summary_says_what_there_is(built):
    assert f"{built.data.path}: 1,229 vertices, 24 modes" in built.printed
    assert f"source: recipe amass, folder {built.amass}, body_folder" in built.printed
    for split in ("train", "test"):
        counts = built.data.metadata["counts"][split], len(built.data.metadata["identities"][split])
        (row,) = [line for line in built.printed.splitlines() if f"│ {split}" in line]
        assert [int(word) for word in row.split() if word.isdigit()] == list(counts)


def test_dfaust_takes_every_frame_and_splits_by_identity(bodies, tmp_path, capsys):
    planned = [
        Planned("DFaust", f"500{i}", f"{kind}_poses.npz", MotionSequence(poses, np.ones(16, np.float32), gender, 60.0))
        for i, gender in zip(range(20, 30), ("male", "female") * 5, strict=True)
        for kind in ("gait", "squat")[: 1 + i % 2]
        for poses in [synthesise(kind, 3, 60.0, i)]
    ]
    write_amass(tmp_path / "AMASS", planned, {"DFaust": "DFaust_67"})
    arguments = ["dataset", "dfaust", "--amass", tmp_path / "AMASS", "--body-dir", bodies, "--modes", MODES, "--out"]
    assert main([*map(str, arguments), str(tmp_path / "out")]) == 0
    assert "source: recipe dfaust" in capsys.readouterr().out
    data = dataset.open_data(tmp_path / "out")
    for split, identities in (("train", range(50020, 50028)), ("test", range(50028, 50030))):
        wanted = [(p.identity, p.file, t) for p in planned if int(p.identity) in identities for t in range(3)]
        assert [(e.identity, e.file, e.frame) for e in data.splits[split]] == wanted
        assert {e.dataset for e in data.splits[split]} == {"DFaust"}
    *_, last = data.splits["test"]
    assert last.gender == "female"
    wanted = posed(bodies / "female" / "model.npz", planned[-1].sequence.poses[2], np.ones(16))
    np.testing.assert_allclose(last.vertices, wanted, atol=rounding(wanted, 52))
    shutil.rmtree(tmp_path / "AMASS" / "DFaust_67" / "50023")
    assert main([*map(str, arguments), str(tmp_path / "fewer")]) == 2
    assert "DFaust has 9 identities" in capsys.readouterr().err
    assert main([*map(str, arguments), str(tmp_path / "fewer"), "--allow-missing"]) == 0
    assert len(dataset.open_data(tmp_path / "fewer").metadata["identities"]["train"]) == 7


# ---- builds that are cut short ----

KILLED = """
import sys, time
from pathlib import Path
from spectral_jax.data import posed_bodies, projection, recipes, writer
from spectral_jax.files.progress import Silent
writer.MESHES_A_PART, projection.BATCH = 3, 16

class Hanging(Silent):
    def update(self, task, done, total=None, note=""):
        time.sleep(600 if note.startswith("15 meshes") else 0)

amass, bodies, out = map(Path, sys.argv[1:4])
recipe = recipes.PublishedRecipe(amass=amass, body_dir=bodies, out=out, modes=24, allow_missing=True)
posed_bodies.published("amass", recipe, Hanging())
"""


@pytest.fixture(scope="module")
def small_amass(tmp_path_factory):
    """Sequences of two meshes each: 18 of CMU, a damaged one among them, 2 of SFU."""
    root = tmp_path_factory.mktemp("small")
    planned = [
        Planned(
            name, f"s{i // 6}", f"{i % 6}.npz", MotionSequence(synthesise("gait", 150, 60.0, i), np.ones(16), sex, 60.0)
        )
        for name, count in (("CMU", 18), ("SFU", 2))
        for i in range(count)
        for sex in [("female", "male")[i // 6 % 2]]
    ]
    planned = [p._replace(sequence=p.sequence._replace(betas=np.ones(16, np.float32))) for p in planned]
    write_amass(root, planned, {"CMU": "CMU", "SFU": "SFU"})
    (root / "CMU" / "s0" / "1_damaged.npz").write_text("none")
    return root


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def journaled(out):
    return sorted(path.name for path in (out.parent / f".{out.name}.building" / "journal").glob("train-*.json"))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(writer, "MESHES_A_PART", 3)


def test_a_killed_build_goes_on_from_its_finished_parts(small_amass, bodies, tmp_path, small_parts, monkeypatch):
    arguments = small_amass, bodies, tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", KILLED, *map(str, arguments)]) as process:
        try:
            while len(journaled(tmp_path / "out")) < 3:
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
    assert {path.name for path in tmp_path.iterdir()} == {".out.building"}

    was_read = []
    monkeypatch.setattr(posed_bodies, "read_sequence", lambda path: was_read.append(path) or read_sequence(path))
    build_amass(*arguments)
    paths = [path for path in sorted(small_amass.rglob("*.npz")) if path.name != "shape.npz"]
    assert was_read == paths[1 + 3 * 2 :]  # a part is two sequences of two meshes, the first one the damaged file too
    assert {path.name for path in tmp_path.iterdir()} == {"out"}

    was_read.clear()
    build_amass(small_amass, bodies, tmp_path / "whole")
    assert was_read == paths
    assert contents(tmp_path / "whole") == contents(tmp_path / "out")
    data = dataset.open_data(tmp_path / "out")
    assert data.metadata["counts"] == {"train": 36, "test": 4}
    assert ["1_damaged.npz" in line for line in data.metadata["skipped"]["train"]] == [True]


def test_strict_goes_not_on_from_parts_that_skipped_a_file(small_amass, bodies, tmp_path, small_parts):
    arguments = small_amass, bodies, tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        build_amass(*arguments, Interrupting(20))
    assert len(journaled(tmp_path / "out")) > 1
    with pytest.raises(ValueError, match=r"1_damaged\.npz"):
        build_amass(*arguments, strict=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changed", ["a sequence", "a body"])
def test_a_build_of_changed_files_starts_from_nothing(small_amass, bodies, tmp_path, small_parts, monkeypatch, changed):
    arguments = small_amass, bodies, tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        build_amass(*arguments, Interrupting(20))
    paths = [path for path in sorted(small_amass.rglob("*.npz")) if path.name != "shape.npz"]
    os.utime(paths[-3] if changed == "a sequence" else bodies / "SMPLH_MALE.npz", (0, 0))
    was_read = []
    monkeypatch.setattr(posed_bodies, "read_sequence", lambda path: was_read.append(path) or read_sequence(path))
    build_amass(*arguments)
    assert was_read == paths


def examples(basis, count=12):
    rng = np.random.default_rng(0)
    for i in range(count):
        coefficients = rng.normal(size=(basis.num_modes, 3)).astype(np.float32)
        yield i // 2, Example(coefficients, None, f"id{i // 4}", "Random", f"{i // 2}.npz", i % 2, "")


class Spied:
    """A source of six items of two meshes that raises at a mesh, and remembers where it was read from."""

    def __init__(self, basis, stop=None, error=KeyboardInterrupt):
        self.basis, self.stop, self.error, self.starts = basis, stop, error, []

    def read(self, start):
        self.starts.append(start)
        for i, (item, example) in enumerate(examples(self.basis)):
            if i == self.stop:
                raise self.error
            if item >= start:
                yield item, example

    def __call__(self, version="1", names="abcdef"):
        return Source(list(names), self.read, version)


@pytest.fixture(scope="module")
def kept(sphere_basis):
    return spectral.truncate(sphere_basis, 8)


def test_ctrl_c_keeps_finished_parts_and_says_so(sphere, kept, tmp_path, small_parts):
    stopped, going_on, whole = Spied(kept, 9), Spied(kept), Spied(kept)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        writer.write(tmp_path / "out", kept, sphere, {"train": stopped()}, {})
    assert interrupt.value.__notes__ == ["8 meshes are kept: the same command resumes from there"]
    assert not (tmp_path / "out").exists()
    writer.write(tmp_path / "out", kept, sphere, {"train": going_on()}, {})
    assert (stopped.starts, going_on.starts) == ([0], [4])
    writer.write(tmp_path / "whole", kept, sphere, {"train": whole()}, {})
    assert contents(tmp_path / "whole") == contents(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole"}
    for found, (_, wanted) in zip(dataset.open_data(tmp_path / "out").splits["train"], examples(kept), strict=True):
        np.testing.assert_array_equal(found.coefficients, wanted.coefficients)
        assert found[2:] == wanted[2:]


def test_a_build_may_be_cut_short_again_and_again(sphere, kept, tmp_path, small_parts):
    starts = []
    for stop in (5, 6, 9, 11, None):
        source = Spied(kept, stop)
        with contextlib.suppress(KeyboardInterrupt):
            writer.write(tmp_path / "out", kept, sphere, {"train": source()}, {})
        starts += source.starts
    assert starts == [0, 2, 2, 4, 4]
    writer.write(tmp_path / "whole", kept, sphere, {"train": Spied(kept)()}, {})
    assert contents(tmp_path / "whole") == contents(tmp_path / "out")


@pytest.mark.parametrize("change", ["version", "names", "options", "modes", "splits"])
def test_another_build_starts_from_nothing(sphere, kept, sphere_basis, tmp_path, small_parts, change):
    with pytest.raises(KeyboardInterrupt):
        writer.write(tmp_path / "out", kept, sphere, {"train": Spied(kept, 9)()}, {"scale": 1})
    basis = spectral.truncate(sphere_basis, 9) if change == "modes" else kept
    train, test = Spied(basis), Spied(basis)
    splits = {"train": train("2") if change == "version" else train("1", "abcdeg" if change == "names" else "abcdef")}
    splits |= {"test": test()} if change == "splits" else {}
    writer.write(tmp_path / "out", basis, sphere, splits, {"scale": 2 if change == "options" else 1})
    assert train.starts == [0]
    assert dataset.open_data(tmp_path / "out").metadata["counts"]["train"] == 12
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize(
    ("stop", "error", "version"),
    [
        (2, KeyboardInterrupt, "1"),  # no part is finished
        (9, ValueError, "1"),  # what is read is wrong, and must change
        (9, KeyboardInterrupt, ""),  # nobody knows whether it will be the same again
    ],
)
def test_what_cannot_go_on_leaves_nothing(sphere, kept, tmp_path, small_parts, stop, error, version):
    with pytest.raises(error) as raised:
        writer.write(tmp_path / "out", kept, sphere, {"train": Spied(kept, stop, error)(version)}, {})
    assert not hasattr(raised.value, "__notes__")
    assert list(tmp_path.iterdir()) == []


def test_a_cut_short_overwrite_leaves_the_old_dataset(sphere, kept, tmp_path, small_parts):
    out = writer.write(tmp_path / "out", kept, sphere, {"train": Spied(kept)()}, {"scale": 1})
    before = contents(out)
    with pytest.raises(KeyboardInterrupt):
        writer.write(out, kept, sphere, {"train": Spied(kept, 9)()}, {"scale": 2}, overwrite=True)
    assert contents(out) == before
    writer.write(out, kept, sphere, {"train": Spied(kept)()}, {"scale": 2}, overwrite=True)
    assert dataset.open_data(out).metadata["source"] == {"scale": 2}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_split_of_skipped_files_alone_is_refused_with_the_first_reason(sphere, kept, tmp_path):
    source = Source(["a", "b"], lambda start: [(0, Skipped("a: torn")), (1, Skipped("b: torn"))], "1")
    with pytest.raises(ValueError, match="the train split would be empty, a: torn"):
        writer.write(tmp_path / "out", kept, sphere, {"train": source}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_last_part_of_skipped_files_alone_is_no_shard(sphere, kept, tmp_path, small_parts):
    def read(start):
        yield from ((item, example) for item, example in examples(kept, 4))
        yield 2, Skipped("c: torn")

    out = writer.write(tmp_path / "out", kept, sphere, {"train": Source(["a", "b", "c"], read, "1")}, {})
    data = dataset.open_data(out)
    assert len(data.splits["train"]) == 4
    assert data.metadata["skipped"] == {"train": ["c: torn"]}


# ---- folders of meshes ----

PEOPLE = (10, 12, 10, 12, 9)


@pytest.fixture(scope="module")
def people(sphere, tmp_path_factory):
    """Five identities of bumpy spheres as .ply, each at a place of its own; as many as in conftest's `data_folder`."""
    folder = tmp_path_factory.mktemp("people") / "scans"
    for i, count in enumerate(PEOPLE):
        for j, vertices in enumerate(bumpy_spheres(sphere, count, i)):
            path = folder / f"person{i}" / f"pose{j:02d}.ply"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mesh(path, Mesh(vertices + np.float32(i), sphere.faces))
    return folder


def build_meshes(folder, out, progress=SILENT, **options):
    return registered_meshes.build(MeshRecipe(folder=folder, out=out, **options), progress)


def test_a_folder_of_meshes_is_split_by_identity_and_centred(people, sphere, tmp_path, capsys):
    assert main(["dataset", "meshes", str(people), "--out", str(tmp_path / "out")]) == 0
    assert "source: recipe meshes" in capsys.readouterr().out
    data = dataset.open_data(tmp_path / "out")
    assert data.metadata["counts"] == {"train": 44, "test": 9}
    assert data.basis.num_modes == 162  # all of a small mesh
    expected = [(f"person{i}", f"person{i}/pose{j:02d}.ply") for i in range(5) for j in range(PEOPLE[i])]
    found = [example for split in ("train", "test") for example in data.splits[split]]
    assert [(example.identity, example.file) for example in found] == expected
    assert {(e.dataset, e.frame, e.gender) for e in found} == {("scans", 0, "")}
    assert all(example.vertices is None for example in data.splits["train"])
    for example in found:
        vertices = read_mesh(people / example.file)[0].astype(np.float64)
        vertices = (vertices - vertices.mean(0)).astype(np.float32)
        expected, tolerance = data.basis.modes.T @ vertices, product_rounding(data.basis.modes.T, vertices)
        np.testing.assert_allclose(example.coefficients, expected, atol=tolerance)
        if example.vertices is not None:
            np.testing.assert_allclose(example.vertices, vertices, atol=rounding(vertices, 2))
    np.testing.assert_array_equal(read_mesh(tmp_path / "out" / "mesh.ply").faces, sphere.faces)


TURNS = {"x": [[0, -1, 0], [1, 0, 0], [0, 0, 1]], "y": np.eye(3), "z": [[1, 0, 0], [0, 0, 1], [0, -1, 0]]}


@pytest.mark.parametrize(("center", "scale", "up"), [("none", 0.001, "z"), ("box", 2.0, "x"), ("centroid", 1.0, "y")])
def test_center_scale_and_up_are_applied_and_recorded(people, tmp_path, center, scale, up):
    out = build_meshes(people, tmp_path / "out", center=center, scale=scale, up=up, modes=12)
    data = dataset.open_data(out)
    assert {name: data.metadata["source"][name] for name in ("center", "scale", "up")} == {
        "center": center, "scale": scale, "up": up
    }  # fmt: skip
    for example in data.splits["test"]:
        vertices = scale * read_mesh(people / example.file)[0].astype(np.float64) @ np.transpose(TURNS[up])
        middle = {"none": 0.0, "box": (vertices.min(0) + vertices.max(0)) / 2, "centroid": vertices.mean(0)}[center]
        np.testing.assert_allclose(example.vertices, vertices - middle, atol=rounding(vertices, 4))


@pytest.mark.parametrize(
    ("options", "train", "test"),
    [
        (["--test", "person1", "person3"], "024", "13"),
        (["--train", "person[0-2]"], "012", "34"),
        (["--train", "person0", "--test", "person4"], "0", "4"),
        (["--fraction", "0.5"], "01", "234"),
    ],
)
def test_identities_are_chosen_by_name_pattern_or_share(people, tmp_path, options, train, test):
    assert main(["dataset", "meshes", str(people), "--out", str(tmp_path / "out"), "--modes", "12", *options]) == 0
    metadata = dataset.open_data(tmp_path / "out").metadata
    for split, digits in (("train", train), ("test", test)):
        assert metadata["identities"][split] == {f"person{i}": PEOPLE[int(i)] for i in digits}
    assert metadata["source"]["unused"] == 53 - sum(metadata["counts"].values())


def test_a_split_by_mesh_is_the_seeds(people, tmp_path):
    def files(name, seed):
        out = build_meshes(people, tmp_path / name, split_by="mesh", seed=seed, fraction=0.25, modes=12)
        return {split: {e.file for e in found} for split, found in dataset.open_data(out).splits.items()}

    first = files("a", 1)
    assert (len(first["train"]), len(first["test"])) == (39, 14)
    assert not first["train"] & first["test"]
    assert len({file.split("/")[0] for file in first["test"]}) > 1
    assert first == files("b", 1)
    assert first != files("c", 2)


def test_hdf5_sequences_of_dfaust_are_read_frame_by_frame(sphere, tmp_path):
    frames = bumpy_spheres(sphere, 9, 3)
    (tmp_path / "DFAUST").mkdir()
    with h5py.File(tmp_path / "DFAUST" / "registrations_m.hdf5", "w") as file:
        file["faces"] = sphere.faces.astype(np.uint32)
        for name in ("50002_jumping", "50002_running", "50004_jumping"):
            file[name] = np.moveaxis(frames, 0, 2)
    out = build_meshes(tmp_path / "DFAUST", tmp_path / "out", center="none", modes=12)
    data = dataset.open_data(out)
    wanted = [("50004", "registrations_m.hdf5/50004_jumping", frame) for frame in range(9)]
    assert [(e.identity, e.file, e.frame) for e in data.splits["test"]] == wanted
    assert data.metadata["identities"]["train"] == {"50002": 18}
    np.testing.assert_array_equal([e.vertices for e in data.splits["test"]], frames)


def test_coma_folders_are_identities_and_expressions(sphere, tmp_path):
    for identity in ("FaceTalk_1", "FaceTalk_2"):
        for i, vertices in enumerate(bumpy_spheres(sphere, 2, 4)):
            path = tmp_path / "CoMA" / identity / "bareteeth" / f"bareteeth.{i:06d}.ply"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mesh(path, Mesh(vertices, sphere.faces))
    data = dataset.open_data(build_meshes(tmp_path / "CoMA", tmp_path / "out", modes=12))
    found = [(e.identity, e.dataset, e.file) for e in data.splits["test"]]
    assert found == [("FaceTalk_2", "CoMA", f"FaceTalk_2/bareteeth/bareteeth.00000{i}.ply") for i in range(2)]


def test_arrays_take_their_faces_from_the_template(sphere, tmp_path, capsys):
    frames = bumpy_spheres(sphere, 6, 5)
    for i in range(2):
        (tmp_path / "arrays" / f"person{i}").mkdir(parents=True)
        np.save(tmp_path / "arrays" / f"person{i}" / "walk.npy", frames[3 * i : 3 * i + 3])
    write_mesh(tmp_path / "template.obj", sphere)
    command = ["dataset", "meshes", str(tmp_path / "arrays"), "--out", str(tmp_path / "out"), "--center", "none"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "walk.npy: no faces" in error
    assert "--template" in error
    assert main([*command, "--template", str(tmp_path / "template.obj"), "--modes", "12"]) == 0
    data = dataset.open_data(tmp_path / "out")
    np.testing.assert_array_equal([e.vertices for e in data.splits["test"]], frames[3:])
    assert [(e.file, e.frame) for e in data.splits["test"]] == [("person1/walk.npy", i) for i in range(3)]
    np.testing.assert_array_equal(data.basis.faces, sphere.faces)


def test_the_first_mesh_that_does_not_fit_is_named_and_nothing_is_left(people, sphere, tmp_path, capsys, small_parts):
    shutil.copytree(people, tmp_path / "scans")
    write_mesh(tmp_path / "scans" / "person2" / "pose01.ply", sphere._replace(vertices=sphere.vertices[:-1] * 2))
    write_mesh(tmp_path / "scans" / "person3" / "pose00.ply", sphere._replace(faces=sphere.faces[:-1]))
    assert main(["dataset", "meshes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), "--modes", "12"]) == 2
    error = capsys.readouterr().err
    assert "person2/pose01.ply" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_a_basis_from_a_file_is_used_and_must_be_of_the_meshes(people, sphere, kept, tmp_path, capsys):
    command = ["dataset", "meshes", str(people), "--out", str(tmp_path / "out"), "--basis", str(tmp_path / "basis.npz")]
    other = spectral.compute(sphere.faces[:-2], 162, 8)
    for basis, message in ((other, other.fingerprint[:12]), (kept, "9 modes")):
        spectral.save(tmp_path / "basis.npz", basis)
        assert main([*command, "--modes", "9"]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "--operator", "cotangent"]) == 2
    assert "basis.npz: a basis of the graph operator" in capsys.readouterr().err
    turned = spectral.SpectralBasis(-kept.modes, kept.eigenvalues, kept.faces)
    spectral.save(tmp_path / "basis.npz", turned)
    assert main(command) == 0
    np.testing.assert_array_equal(dataset.open_data(tmp_path / "out").basis.modes, -kept.modes)


@pytest.mark.parametrize("operator", ["graph", pytest.param("cotangent", marks=pytest.mark.slow)])
def test_a_network_trains_on_a_folder_of_meshes(people, tmp_path, capsys, operator):
    out, folder = tmp_path / "out", tmp_path / "run"
    build_meshes(people, out, operator=operator, modes=32)
    data = dataset.open_data(out)
    assert data.basis.operator == data.metadata["operator"] == operator
    template = read_mesh(out / "mesh.ply")
    shape = template.vertices if operator == "cotangent" else None
    wanted = spectral.compute(template.faces, 162, 32, shape)
    np.testing.assert_allclose(data.basis.eigenvalues, wanted.eigenvalues, rtol=1e-4, atol=1e-6)
    test = data.splits["test"]
    vertices = np.stack([example.vertices for example in test])
    coefficients, mass = spectral.project(data.basis, vertices), 1 if data.basis.mass is None else data.basis.mass
    tolerance = product_rounding(data.basis.modes.T * mass, vertices)
    np.testing.assert_allclose([example.coefficients for example in test], coefficients, atol=tolerance)
    options = ["--epochs", "1", "--batch-size", "8", "--latent-size", "4", "--learning-rate", "1e-3"]
    assert main(["train", "--data", str(out), "--run", str(folder), *options]) == 0
    assert spectral.load(folder / "basis.npz").operator == operator
    assert main(["eval", str(folder), "--json", str(tmp_path / "eval.json")]) == 0
    figures = json.loads((tmp_path / "eval.json").read_text())
    assert figures["count"] == 9
    smoothed = spectral.reconstruct(data.basis, coefficients) - vertices
    assert figures["truncation_mm"] == pytest.approx(1000 * np.linalg.norm(smoothed, axis=-1).mean(), rel=1e-3)
    assert run.load_run(folder).basis.operator == operator


def test_ctrl_c_of_a_command_says_what_is_kept(people, tmp_path, capsys, small_parts, monkeypatch):
    command = ["dataset", "meshes", str(people), "--out", str(tmp_path / "out"), "--modes", "12"]
    read = sequences.read

    def interrupted(error):
        def reading(item, template):
            if item.name == "person3/pose06.ply":
                raise error
            return read(item, template)

        return reading

    monkeypatch.setattr(projection, "BATCH", 2)
    monkeypatch.setattr(projection, "AHEAD", 1)
    monkeypatch.setattr(sequences, "read", interrupted(KeyboardInterrupt))
    assert main(command) == 130
    assert capsys.readouterr().err == "interrupted; 33 meshes are kept: the same command resumes from there\n"
    monkeypatch.setattr(sequences, "read", interrupted(OSError("no space left on device")))
    assert main(command) == 2
    error = "error: no space left on device; 33 meshes are kept: the same command resumes from there\n"
    assert capsys.readouterr().err == error
    names = []
    monkeypatch.setattr(sequences, "read", lambda item, template: names.append(item.name) or read(item, template))
    assert main(command) == 0
    assert len(names) == 53 - 33
    assert dataset.open_data(tmp_path / "out").metadata["counts"] == {"train": 44, "test": 9}


def test_a_mesh_that_was_changed_meanwhile_is_read_again(people, sphere, tmp_path, small_parts):
    shutil.copytree(people, tmp_path / "scans")
    with pytest.raises(KeyboardInterrupt):
        build_meshes(tmp_path / "scans", tmp_path / "out", modes=12, progress=Interrupting(20))
    write_mesh(tmp_path / "scans" / "person0" / "pose00.ply", sphere)
    out = build_meshes(tmp_path / "scans", tmp_path / "out", modes=12)
    first = dataset.open_data(out).splits["train"][0]
    centred = sphere.vertices - sphere.vertices.mean(0)
    modes = dataset.open_data(out).basis.modes
    np.testing.assert_allclose(first.coefficients, modes.T @ centred, atol=product_rounding(modes.T, centred))


def test_no_more_than_a_few_batches_are_in_memory(people, tmp_path, monkeypatch):
    read, counts = sequences.read, {"read": 0, "ahead": 0}

    def counting(item, template):
        counts["read"] += 1
        return read(item, template)

    class Watching(Silent):
        def update(self, task, done, total=None, note=""):
            if task.startswith("building"):
                written = meshes_written(note) + (44 if task == "building test" else 0)
                counts["ahead"] = max(counts["ahead"], counts["read"] - written)

    monkeypatch.setattr(projection, "BATCH", 2)
    monkeypatch.setattr(projection, "AHEAD", 1)
    monkeypatch.setattr(sequences, "read", counting)
    build_meshes(people, tmp_path / "out", modes=12, progress=Watching())
    assert counts["read"] == 53
    assert counts["ahead"] <= 2 * 2


# ---- mistakes ----


def test_mistakes_get_one_line_and_nothing_is_made(built, bodies, people, sphere, tmp_path, capsys, monkeypatch):
    def no_work(*arguments, **options):
        raise AssertionError("work was begun")

    monkeypatch.setattr(posed_bodies, "read_sequence", no_work)
    monkeypatch.setattr(posed_bodies, "pose_bodies", no_work)
    monkeypatch.setattr(projection, "choose_basis", no_work)
    amass, scans, old = str(built.amass), str(people), str(built.data.path)
    body, new, empty = str(bodies), str(tmp_path / "new"), str(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    shutil.copytree(bodies, tmp_path / "male")
    shutil.rmtree(tmp_path / "male" / "female")
    shutil.copytree(bodies, tmp_path / "mixed")
    shutil.copy(demo_body_path(12272), tmp_path / "mixed" / "female" / "model.npz")
    shutil.copytree(built.amass, tmp_path / "fewer")
    shutil.rmtree(tmp_path / "fewer" / "SFU")
    shutil.rmtree(tmp_path / "fewer" / "KIT")
    twice = tmp_path / "twice" / "MPImosh" / "s"
    shutil.copytree(built.amass / "MoSh", twice)
    shutil.copytree(built.amass / "MoSh", tmp_path / "twice" / "MoSh")

    def published(recipe, folder=amass, out=new, body=body):
        return ["dataset", recipe, "--amass", folder, "--body-dir", body, "--out", out]

    def meshes(*options, folder=scans, out=new):
        return ["dataset", "meshes", folder, "--out", out, *options]

    fewer, doubled = str(tmp_path / "fewer"), str(tmp_path / "twice")
    cases = [
        (published("amass", out=old), f"{old} exists already; --overwrite replaces it"),
        (published("dfaust", out=old), f"{old} exists already; --overwrite replaces it"),
        (meshes(out=old), f"{old} exists already; --overwrite replaces it"),
        ([*published("amass", out=empty), "--overwrite"], "is not a prepared dataset (metadata.json is missing)"),
        (meshes("--overwrite", out=empty), "is not a prepared dataset (metadata.json is missing)"),
        (published("amass", "none"), "none: no such folder of AMASS sets"),
        (published("amass", empty), "15 of 15 sets are missing"),
        (published("amass", fewer), "2 of 15 sets are missing: KIT, SFU (there are ACCAD, BMLhandball, CMU"),
        (published("amass", doubled), "the set MPI_mosh is there twice, keep one of"),
        (published("dfaust"), "DFaust has 0 identities (none), 10 expected"),
        (published("amass", body=empty), "no female and no male body"),
        (published("amass", body=str(tmp_path / "male")), "no female body"),
        (published("amass", body=str(tmp_path / "mixed")), "not the same connectivity"),
        (meshes(folder="none"), "none: no such folder of meshes"),
        (meshes(folder=empty), "no mesh files"),
        (meshes("--test", "nobody"), "'nobody', available (5): person0, person1"),
        (meshes("--test", "person1", "--train", "person*"), "identity person1 matches both"),
        (meshes("--train", "person*"), "nothing is left for test"),
        (meshes("--fraction", "1.5"), "the fraction for test is 1.5"),
        (meshes("--scale", "0"), "scale is 0.0"),
        (meshes("--template", "none.obj"), "none.obj"),
    ]
    for command, message in cases:
        assert main(command) == 2, command
        captured = capsys.readouterr()
        assert message in captured.err, (command, captured.err)
        assert captured.err.count("\n") == 1, captured.err
        assert captured.out == ""
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "male", "mixed", "fewer", "twice"}


@pytest.mark.parametrize("command", ["amass --amass a --body-dir b", "dfaust --amass a --body-dir b", "meshes a"])
def test_a_misspelt_option_is_met_with_a_suggestion(command, capsys):
    assert main(["dataset", *command.split(), "--out", "out", "--overwrit"]) == 2
    assert "--overwrite" in capsys.readouterr().err
