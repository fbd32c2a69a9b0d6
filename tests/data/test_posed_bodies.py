"""The AMASS and DFAUST datasets against a computation by the book, and builds that are interrupted."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import Interrupting, contents, smpl_arrays
from rounding import product_rounding, rounding
from scipy.spatial.transform import Rotation

from spectral_jax.bodies.motion import KINDS, MotionSequence, read_sequence, synthesise, write_sequence
from spectral_jax.bodies.smplh import demo_body_path
from spectral_jax.cli import main
from spectral_jax.data import dataset, posed_bodies, projection
from spectral_jax.data.recipes import PublishedRecipe
from spectral_jax.files.progress import SILENT

pytestmark = pytest.mark.usefixtures("few_programs")
MODES = 24
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
        "b_keys.npz": "no array betas",
        "c_smplx.npz": "SMPL-X poses (poses have shape (60, 165))",
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
    return Built(dataset.open_prepared(root / "out"), printed.getvalue(), root / "AMASS", splits, damaged)


def posed(path, pose, betas):
    """A body by the book, in float64: skinned with its root turned, the pelvis subtracted, the root turned back.

    Of SMPL with as many poses and betas as it has.
    """
    with np.load(path, allow_pickle=False) as data:
        body = {name: array.astype(np.float64) for name, array in data.items() if array.dtype.kind in "fiu"}
    turns = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix()
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
    splits = dataset.open_prepared(out).splits
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


def test_the_summary_groups_reasons_and_counts_files_without_a_gender(bodies, tmp_path, capsys):
    still = {"poses": np.zeros((250, 156)), "betas": np.zeros(16), "mocap_framerate": 60.0}
    for name in ("CMU", "SFU"):
        (tmp_path / "AMASS" / name / "s").mkdir(parents=True)
        np.savez(tmp_path / "AMASS" / name / "s" / "walk_poses.npz", **still)
    for i in range(12):
        np.savez(tmp_path / "AMASS" / "CMU" / "s" / f"x{i}.npz", **still | {"poses": np.zeros((200 + i, 165))})
    np.savez(tmp_path / "AMASS" / "CMU" / "s" / "empty.npz", **still | {"poses": np.zeros((0, 156))})
    options = ["--amass", tmp_path / "AMASS", "--body-dir", bodies, "--out", tmp_path / "out", "--modes", MODES]
    assert main(["dataset", "amass", *map(str, options), "--allow-missing"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("4 meshes are from files without a gender" in line for line in lines) == 1
    assert sum("13 files skipped" in line for line in lines) == 1
    (smplx,) = [line for line in lines if "SMPL-X" in line]
    assert "12 files: " in smplx
    assert "x0.npz" in smplx
    (empty,) = [line for line in lines if "no frames" in line]
    assert "empty.npz" in empty
    examples = dataset.open_prepared(tmp_path / "out").splits["test"]
    assert [example.gender for example in examples] == ["", ""]


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
    data = dataset.open_prepared(tmp_path / "out")
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
    assert len(dataset.open_prepared(tmp_path / "fewer").metadata["identities"]["train"]) == 7


def test_other_sets_frames_and_the_root_orientation(bodies, tmp_path, capsys):
    poses = synthesise("squat", 130, 60.0, 1)
    poses[:, :3] = [0.3, 2.0, -1.0]
    moving = MotionSequence(poses, np.ones(16, np.float32), "male", 60.0)
    planned = [Planned(name, "s", "a.npz", moving) for name in ("KIT", "SFU")]
    write_amass(tmp_path / "AMASS", planned, {"KIT": "KIT", "SFU": "SFU"})
    options = ["dataset", "amass", "--amass", tmp_path / "AMASS", "--body-dir", bodies, "--modes", MODES, "--out"]
    options = [*map(str, options), str(tmp_path / "out"), "--train-sets", "sfu", "--test-sets", "KIT"]
    assert main([*options, "--fps", "20", "--keep-root"]) == 0
    assert "fps 20.0, keep_root True" in capsys.readouterr().out
    splits = dataset.open_prepared(tmp_path / "out").splits
    assert {example.dataset for example in splits["train"]} == {"SFU"}
    assert [example.frame for example in splits["test"]] == list(range(13, 117, 3))  # every third of the middle
    body = posed(bodies / "SMPLH_MALE.npz", poses[13], np.ones(16))
    x, y, z = (body @ Rotation.from_rotvec(poses[13, :3]).as_matrix().T).T  # in AMASS's world, z up
    wanted = np.stack([x, z, -y], axis=1)
    np.testing.assert_allclose(splits["test"][0].vertices, wanted, atol=rounding(wanted, 55))
    mistakes = {
        ("--every", "3", "--fps", "20"): ("--every 3", "--fps 20"),
        ("--every", "0"): ("--every", "not 0"),
        ("--train-sets", "KIT"): ("KIT is both",),
        ("--train-sets", "Nobody"): ("no set 'Nobody'", "SFU"),
    }
    for words, parts in mistakes.items():
        assert main([*options, "--overwrite", *words]) == 2
        error = capsys.readouterr().err
        assert all(part in error for part in parts)
    np.savez(tmp_path / "AMASS" / "SFU" / "s" / "b.npz", poses=poses, betas=moving.betas)
    assert main([*options, "--overwrite", "--fps", "20"]) == 0
    assert "b.npz: the file has no frame rate, which --fps 20 needs" in capsys.readouterr().out
    assert main([*options, "--overwrite", "--every", "50"]) == 0
    frames = [example.frame for example in dataset.open_prepared(tmp_path / "out").splits["train"]]
    assert frames == [13, 63, 113, 13, 63, 113]


def test_smpl_bodies_take_poses_of_amass_and_of_smpl(bodies, tmp_path, capsys):
    for source, name in (("SMPLH_MALE.npz", "SMPL_MALE.npz"), ("female/model.npz", "SMPL_FEMALE.npz")):
        with np.load(bodies / source, allow_pickle=False) as data:
            np.savez(tmp_path / name, **smpl_arrays(dict(data)))
    poses, betas = synthesise("gait", 40, 60.0, 3), np.linspace(-1, 1, 16)
    smpl = np.concatenate([poses[:, :66], np.full((40, 6), 0.4, np.float32)], axis=1)
    for name, arrays in (("CMU/s/a", poses), ("SFU/s/a", poses), ("SFU/s/b", smpl)):
        path = tmp_path / "AMASS" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, poses=arrays, betas=betas, gender="female" if arrays is smpl else "male", mocap_framerate=60.0)
    options = ["--amass", tmp_path / "AMASS", "--body-dir", tmp_path, "--out", tmp_path / "out", "--modes", MODES]
    assert main(["dataset", "amass", *map(str, options), "--allow-missing"]) == 0
    assert "body SMPL" in capsys.readouterr().out
    first, second = dataset.open_prepared(tmp_path / "out").splits["test"]
    for example, body, pose in ((first, "SMPL_MALE", np.pad(poses[4, :66], (0, 6))), (second, "SMPL_FEMALE", smpl[4])):
        wanted = posed(tmp_path / f"{body}.npz", pose, betas[:10])
        np.testing.assert_allclose(example.vertices, wanted, atol=rounding(wanted, 24))
    (tmp_path / "mixed").mkdir()
    shutil.copy(tmp_path / "SMPL_FEMALE.npz", tmp_path / "mixed")
    shutil.copy(bodies / "SMPLH_MALE.npz", tmp_path / "mixed" / "SMPL_MALE.npz")
    options[3] = tmp_path / "mixed"
    assert main(["dataset", "amass", *map(str, options), "--allow-missing", "--overwrite"]) == 2
    assert "SMPL_MALE.npz is an SMPL-H body, " in capsys.readouterr().err


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


def recorded(monkeypatch):
    """The list to which each sequence file that is read is added."""
    paths = []

    def read(path, *more):
        paths.append(path)
        return read_sequence(path, *more)

    monkeypatch.setattr(posed_bodies, "read_sequence", read)
    return paths


def journaled(out):
    return sorted(path.name for path in (out.parent / f".{out.name}.building" / "journal").glob("train-*.json"))


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

    was_read = recorded(monkeypatch)
    build_amass(*arguments)
    paths = [path for path in sorted(small_amass.rglob("*.npz")) if path.name != "shape.npz"]
    assert was_read == paths[1 + 3 * 2 :]  # a part is two sequences of two meshes, the first one the damaged file too
    assert {path.name for path in tmp_path.iterdir()} == {"out"}

    was_read.clear()
    build_amass(small_amass, bodies, tmp_path / "whole")
    assert was_read == paths
    assert contents(tmp_path / "whole") == contents(tmp_path / "out")
    data = dataset.open_prepared(tmp_path / "out")
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
    was_read = recorded(monkeypatch)
    build_amass(*arguments)
    assert was_read == paths


def test_mistakes_get_one_line_and_nothing_is_made(built, bodies, tmp_path, capsys, monkeypatch):
    def no_work(*arguments, **options):
        raise AssertionError("work was begun")

    monkeypatch.setattr(posed_bodies, "read_sequence", no_work)
    monkeypatch.setattr(posed_bodies, "pose_bodies", no_work)
    monkeypatch.setattr(projection, "choose_basis", no_work)
    amass, old = str(built.amass), str(built.data.path)
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

    fewer, doubled = str(tmp_path / "fewer"), str(tmp_path / "twice")
    cases = [
        (published("amass", out=old), f"{old} exists already; --overwrite replaces it"),
        (published("dfaust", out=old), f"{old} exists already; --overwrite replaces it"),
        ([*published("amass", out=empty), "--overwrite"], "is not a prepared dataset (metadata.json is missing)"),
        (published("amass", "none"), "none: no such folder of AMASS sets"),
        (published("amass", empty), "15 of 15 sets are missing"),
        (published("amass", fewer), "2 of 15 sets are missing: KIT, SFU (available: ACCAD, BMLhandball, CMU"),
        (published("amass", doubled), "the set MPI_mosh twice, keep one of"),
        (published("dfaust"), "DFaust has 0 identities (none), expected 10"),
        (published("amass", body=empty), "no female and no male body"),
        (published("amass", body=str(tmp_path / "male")), "no female body"),
        (published("amass", body=str(tmp_path / "mixed")), "not the same connectivity"),
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
