"""Motion: the AMASS format, and what synthesised people can and cannot do."""

import jax
import numpy as np
import pytest

from spectral_jax.bodies import anatomy
from spectral_jax.bodies.motion import (
    KINDS,
    MotionSequence,
    demo_subjects,
    read_sequence,
    synthesise,
    write_demo_motions,
    write_sequence,
)
from spectral_jax.bodies.smplh import demo_body_path, load_body

KNEES, ANKLES, SHOULDERS, ELBOWS, WRISTS, MIDDLES = (4, 5), (7, 8), (16, 17), (18, 19), (20, 21), (25, 40)


@pytest.fixture(scope="module")
def skeleton():
    body = load_body(demo_body_path())

    @jax.jit
    def forward(poses):
        joints, betas = poses.reshape(-1, 52, 3), jax.numpy.zeros((len(poses), 16))
        return body.model.forward_skeleton(joints[:, 1:22], joints[:, 22:], shape=betas)

    def joints(poses):  # always 200 at a time: one compilation
        with jax.numpy_rank_promotion("allow"):
            return np.asarray(forward(np.pad(poses, ((0, 200 - len(poses)), (0, 0)))))[: len(poses)]

    return joints


def rest_angles(frames=2):
    return {
        name: np.full((frames, 1 if name.startswith(("spine", "head")) else 2), rest)
        for name, (rest, _, _) in anatomy.ANGLES.items()
    }


def posed_with(skeleton, **changes):
    angles = rest_angles()
    for name, value in changes.items():
        angles[name][1] = value
    return skeleton(anatomy.joint_rotations(angles))


def amass(**changes):
    return {
        "poses": np.ones((5, 156)),
        "betas": np.arange(16.0),
        "trans": np.zeros((5, 3)),
        "gender": np.array("male"),
        "mocap_framerate": np.array(120.0),
    } | changes


ONES = np.ones((5, 156))


def split_poses(poses):
    return {"root_orient": poses[:, :3], "pose_body": poses[:, 3:66], "pose_hand": poses[:, 66:]}


def save(path, **changes):
    np.savez(path, **{name: array for name, array in amass(**changes).items() if array is not None})
    return path


def test_sequence_round_trip(tmp_path):
    sequence = MotionSequence(synthesise("gait", 7, 30.0, 0), np.linspace(-1, 1, 16, dtype=np.float32), "female", 60.0)
    write_sequence(tmp_path / "walk_poses.npz", sequence)
    with np.load(tmp_path / "walk_poses.npz", allow_pickle=False) as data:
        assert data["trans"].shape == (7, 3)
    for written, read in zip(sequence, read_sequence(tmp_path / "walk_poses.npz"), strict=True):
        np.testing.assert_array_equal(written, read)


def test_read_sequence_variants(tmp_path):
    path = tmp_path / "a.npz"
    arrays = amass(gender=np.array(b"female"), betas=np.ones(10), poses=np.arange(144.0).reshape(2, 72))
    arrays["mocap_frame_rate"] = arrays.pop("mocap_framerate")
    np.savez(path, **arrays)
    poses, betas, gender, framerate = read_sequence(path)
    np.testing.assert_array_equal(poses[1, :66], np.arange(72, 138))
    assert poses.shape == (2, 156)
    assert poses.dtype == np.float32
    assert not poses[:, 66:].any()
    np.testing.assert_array_equal(betas, [1] * 10 + [0] * 6)
    assert (gender, framerate) == ("female", 120.0)
    np.savez(path, **amass(betas=np.arange(300.0)))
    np.testing.assert_array_equal(read_sequence(path).betas, np.arange(16))


MOVED = np.arange(5 * 156.0).reshape(5, 156)


@pytest.mark.parametrize(
    "changes",
    [
        {"betas": np.arange(16.0)[None]},
        {"betas": np.tile(np.arange(16.0), (5, 1))},
        {"poses": MOVED.reshape(5, 52, 3)},
        {"poses": None, **split_poses(MOVED)},
        {"mocap_framerate": None},
        {"mocap_framerate": None, "mocap_frame_rate": np.array(120.0)},
        {"gender": np.array("Male ")},
        {"gender": np.array("b'male'")},
        {"gender": np.array([b"male"])},
        {"trans": None, "surface_model_type": np.array("smplh")},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_tools_write_is_the_same_sequence(tmp_path, changes):
    found = read_sequence(save(tmp_path / "a.npz", **{"poses": MOVED} | changes))
    np.testing.assert_array_equal(found.poses, MOVED)
    np.testing.assert_array_equal(found.betas, np.arange(16))
    rated = "mocap_frame_rate" in changes or "mocap_framerate" not in changes
    assert (found.gender, found.framerate) == ("male", 120.0 if rated else None)
    write_sequence(tmp_path / "b.npz", found)
    assert read_sequence(tmp_path / "b.npz")[2:] == found[2:]


def test_what_a_file_does_not_say_is_empty_or_zero(tmp_path):
    hands = {"poses": None, **split_poses(ONES), "pose_hand": None}
    found = read_sequence(save(tmp_path / "a.npz", gender=None, **hands))
    assert found.gender == ""
    assert found.poses[:, :66].all()
    assert not found.poses[:, 66:].any()


def test_poses_of_smpl_keep_its_hands_and_get_none_of_smplh(tmp_path):
    smpl = np.arange(5 * 72.0).reshape(5, 72)
    np.testing.assert_array_equal(read_sequence(save(tmp_path / "a.npz", poses=smpl), 72).poses, smpl)
    kept = np.pad(smpl[:, :66], ((0, 0), (0, 90)))
    np.testing.assert_array_equal(read_sequence(tmp_path / "a.npz").poses, kept)
    save(tmp_path / "b.npz", poses=np.pad(smpl, ((0, 0), (0, 84)), constant_values=1.0))
    np.testing.assert_array_equal(read_sequence(tmp_path / "b.npz", 72).poses, kept[:, :72])
    np.testing.assert_array_equal(read_sequence(save(tmp_path / "c.npz", poses=smpl[:, :66]), 72).poses, kept[:, :72])
    found = read_sequence(save(tmp_path / "d.npz", poses=smpl.reshape(5, 24, 3)), 72)
    np.testing.assert_array_equal(found.poses, smpl)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"poses": np.zeros((5, 165))}, r"SMPL-X .*\(5, 165\).*SMPL\+H G"),
        ({"surface_model_type": np.array("smplx_locked_head")}, r"SMPL-X .*smplx_locked_head.*SMPL\+H G"),
        ({"poses": None, **split_poses(ONES), "pose_jaw": np.zeros((5, 3))}, r"SMPL-X .*pose_jaw.*SMPL\+H G"),
        ({"poses": np.zeros((5, 155))}, r"poses have shape \(5, 155\), expected \(frames, 156\)"),
        ({"poses": np.zeros((0, 156))}, r"\(0, 156\): no frames"),
        ({"poses": None}, "no array poses"),
        (
            {"poses": None, **split_poses(ONES), "pose_hand": np.zeros((4, 90))},
            r"pose_hand .*\(4, 90\), expected \(5, 90\)",
        ),
        (
            {"poses": None, **split_poses(ONES), "pose_hand": np.full((5, 90), "x")},
            "pose_hand is <U1, expected numbers",
        ),
        (
            {"poses": None, **split_poses(ONES), "pose_body": np.array(3.0)},
            r"pose_body has shape \(\)",
        ),
        ({"poses": np.full((5, 156), np.nan)}, "poses: not all values are finite"),
        ({"betas": np.full(16, np.inf)}, "betas: not all values are finite"),
        ({"betas": np.arange(32.0).reshape(2, 16)}, r"betas have shape \(2, 16\), and row 1 differs"),
        ({"betas": np.zeros((1, 1, 16))}, r"betas have shape \(1, 1, 16\)"),
        ({"betas": np.zeros((0, 16))}, r"betas have shape \(0, 16\)"),
        ({"mocap_framerate": np.array(np.nan)}, "framerate: not all values are finite"),
        ({"gender": np.array(["male", None], object)}, "not an AMASS sequence"),
    ],
)
def test_wrong_sequences_are_named(tmp_path, changes, message):
    save(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=f"bad.npz: .*{message}|bad.npz: {message}"):
        read_sequence(tmp_path / "bad.npz")


def test_foreign_files_are_named(tmp_path):
    np.savez(tmp_path / "shape.npz", betas=np.zeros(16))
    with pytest.raises(ValueError, match=r"shape.npz: .*no array poses, available: betas"):
        read_sequence(tmp_path / "shape.npz")
    (tmp_path / "text.npz").write_text("poses")
    with pytest.raises(ValueError, match=r"text.npz: not an AMASS sequence"):
        read_sequence(tmp_path / "text.npz")
    with pytest.raises(ValueError, match=r"nowhere.npz: .*No such file"):
        read_sequence(tmp_path / "nowhere.npz")


def test_synthesis_is_deterministic_and_kinds_differ():
    with pytest.raises(ValueError, match="no motion 'fly', available: gait, squat"):
        synthesise("fly", 2, 30.0, 0)
    poses = {kind: synthesise(kind, 60, 30.0, (3, 1)) for kind in KINDS}
    for kind, sequence in poses.items():
        assert sequence.shape == (60, 156)
        assert sequence.dtype == np.float32
        assert np.isfinite(sequence).all()
        np.testing.assert_array_equal(sequence, synthesise(kind, 60, 30.0, (3, 1)))
        assert np.abs(sequence - synthesise(kind, 60, 30.0, (3, 2))).max() > 0.1
        assert np.abs(np.diff(sequence, axis=0)).max() < 0.8  # radians a frame: no jumps
        for other in KINDS:
            assert other == kind or np.abs(sequence - poses[other]).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_knees_and_elbows_bend_one_way(kind, skeleton):
    poses = np.concatenate([synthesise(kind, 40, 10.0, (0, style)) for style in range(5)])
    transforms = skeleton(poses)
    at = transforms[:, :, :3, 3]
    for knee, ankle in zip(KNEES, ANKLES, strict=True):
        thigh = transforms[:, knee - 3, :3, :3]
        shin = np.einsum("nij,ni->nj", thigh, at[:, ankle] - at[:, knee])  # in the thigh's frame: bent is backwards
        assert shin[:, 2].max() < 0.01
    for shoulder, elbow, wrist in zip(SHOULDERS, ELBOWS, WRISTS, strict=True):
        arm = transforms[:, shoulder, :3, :3]
        forearm = np.einsum("nij,ni->nj", arm, at[:, wrist] - at[:, elbow])  # in the upper arm's: bent is forwards
        assert forearm[:, 2].min() > -0.01
    angles = np.linalg.norm(poses.reshape(-1, 52, 3)[:, 1:], axis=-1)
    assert angles.max() < np.pi


def test_angles_move_what_they_name(skeleton):
    def moved(joints, axis, **changes):
        at = posed_with(skeleton, **changes)[..., :3, 3][:, list(joints)]
        return at[1, :, axis] - at[0, :, axis]

    assert (moved(ANKLES, 2, hip_flexion=1.0) > 0.3).all()  # thighs forwards
    assert (moved(ANKLES, 2, knee_flexion=1.0) < -0.2).all()  # shins backwards
    assert (moved((10, 11), 1, ankle_flexion=0.4) > 0.02).all()  # toes up
    assert (moved(ANKLES, 0, hip_abduction=0.5) * [1, -1] > 0.2).all()  # legs apart
    assert (moved(WRISTS, 1, arm_elevation=1.2) > 0.6).all()  # hands up
    assert (moved(WRISTS, 2, arm_elevation=0.0, arm_azimuth=1.5) > 0.4).all()  # hands forwards
    assert (moved(WRISTS, 2, elbow_flexion=1.5) > 0.1).all()  # forearms forwards
    assert moved([15], 2, spine_flexion=0.6)[0] > 0.1  # head forwards
    assert moved([16], 2, spine_twist=0.8)[0] < -0.05  # left shoulder back: the trunk turns left
    assert moved([15], 0, spine_bend=0.4)[0] < -0.05  # head to the right


def test_motion_is_mirrored(skeleton):
    joints = skeleton(anatomy.joint_rotations(rest_angles()))[0, :, :3, 3]
    for left, right in (KNEES, ANKLES, ELBOWS, WRISTS, MIDDLES):
        np.testing.assert_allclose(joints[left], joints[right] * [-1, 1, 1], atol=0.02)


def test_demo_motions(tmp_path):
    paths = write_demo_motions(tmp_path, num_subjects=3, sequences_per_subject=4, num_frames=10, seed=1)
    assert paths == sorted(tmp_path.glob("Demo/*/*_poses.npz"))
    assert len(paths) == 12
    subjects = {name: (gender, betas) for name, gender, betas in demo_subjects(3, 1)}
    for path in paths:
        sequence = read_sequence(path)
        assert sequence.poses.shape == (10, 156)
        assert sequence.gender == subjects[path.parent.name][0]
        np.testing.assert_array_equal(sequence.betas, subjects[path.parent.name][1])
        assert np.abs(sequence.betas).max() <= 2.5
    again = write_demo_motions(tmp_path / "again", num_subjects=3, sequences_per_subject=4, num_frames=10, seed=1)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
