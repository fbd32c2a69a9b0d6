"""Bodies: the demo files, reading SMPL-H files, posing and its normalisation."""

import jax
import numpy as np
import pytest

from spectral_jax.body import Body, demo_body_path, load_body, pose_bodies

SIZES = [(1229, 2454), (12272, 24540)]


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body(demo_body_path())


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    with np.load(demo_body_path(), allow_pickle=False) as data:
        return dict(data)


BATCH = 17  # one size, one compilation


def draw_poses(seed, batch=BATCH):
    rng = np.random.default_rng(seed)
    poses, betas = rng.normal(0, 0.3, (batch, 156)), rng.normal(0, 1, (batch, 16))
    return poses.astype(np.float32), betas.astype(np.float32)


@pytest.fixture(scope="module")
def forward(body):
    """The body model as it stands, root orientation included."""

    @jax.jit
    def forward(poses, betas):
        joints = poses.reshape(-1, 52, 3)
        pose = {"body_pose": joints[:, 1:22], "hand_pose": joints[:, 22:], "pelvis_rotation": joints[:, 0]}
        return body.model.forward_vertices(**pose, shape=betas), body.model.forward_skeleton(**pose, shape=betas)

    with jax.numpy_rank_promotion("allow"):
        yield lambda poses, betas: jax.tree.map(np.asarray, forward(poses, betas))


@pytest.mark.parametrize(("num_vertices", "num_faces"), SIZES)
def test_demo_body_is_one_closed_surface(num_vertices, num_faces):
    trimesh = pytest.importorskip("trimesh")
    with np.load(demo_body_path(num_vertices), allow_pickle=False) as data:
        surface = trimesh.Trimesh(data["v_template"], data["f"], process=False)
    assert surface.vertices.shape == (num_vertices, 3)
    assert surface.faces.shape == (num_faces, 3)
    assert surface.is_watertight
    assert surface.is_winding_consistent
    assert surface.body_count == 1
    assert 0.03 < surface.volume < 0.12  # cubic metres, outward faces


@pytest.mark.parametrize("num_vertices", [1229, 12272])
def test_demo_body_is_a_smplh_file(num_vertices):
    with np.load(demo_body_path(num_vertices), allow_pickle=False) as data:
        assert data["joint_names"].shape == (52,)
        assert data["joint_names"][20] == "left_wrist"
        np.testing.assert_allclose(data["weights"].sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(data["J_regressor"].sum(1), 1, atol=1e-5)
        assert (data["kintree_table"][0, 1:] < data["kintree_table"][1, 1:]).all()
        joints = dict(zip(data["joint_names"], data["J_regressor"] @ data["v_template"], strict=True))
    assert joints["left_wrist"][0] > 0.5  # left is +x, arms out
    assert joints["right_wrist"][0] < -0.5
    assert abs(joints["left_wrist"][1] - joints["left_shoulder"][1]) < 0.02  # a T-pose
    assert joints["head"][1] > joints["neck"][1] > joints["pelvis"][1] > joints["left_ankle"][1]  # y up
    assert joints["left_foot"][2] > joints["left_ankle"][2] + 0.05  # facing +z


def test_demo_bodies_share_their_shapes():
    betas = draw_poses(0)[1]
    heights = []
    for num_vertices, _ in SIZES:
        with np.load(demo_body_path(num_vertices), allow_pickle=False) as data:
            heights.append(np.ptp(data["v_template"][:, 1] + betas @ data["shapedirs"][:, 1].T, axis=1))
    np.testing.assert_allclose(*heights, atol=0.01)


def test_pose_matches_the_literal_recipe(body, forward):
    poses, betas = draw_poses(1)
    vertices, skeleton = forward(poses, betas)
    literal = (vertices - skeleton[:, :1, :3, 3]) @ skeleton[:, 0, :3, :3]  # rows times R: the inverse root rotation
    posed = pose_bodies(body, poses, betas)
    assert posed.shape == (BATCH, 1229, 3)
    assert posed.dtype == np.float32
    np.testing.assert_allclose(posed, literal, atol=1e-5)


def test_root_orientation_is_removed_and_pelvis_is_the_origin(body, arrays):
    poses, betas = draw_poses(2)
    turned = poses.copy()
    turned[:, :3] += 1.0
    np.testing.assert_array_equal(pose_bodies(body, poses, betas), pose_bodies(body, turned, betas))
    at_rest = np.asarray(pose_bodies(body, np.zeros_like(poses), betas))
    np.testing.assert_allclose(np.einsum("v,bvc->bc", arrays["J_regressor"][0], at_rest), 0, atol=1e-5)


def test_hand_poses_are_used_without_a_mean(body):
    poses, betas = np.zeros((BATCH, 156), np.float32), np.zeros((BATCH, 16), np.float32)
    rest = np.asarray(body.model.rest_vertices)
    posed = np.asarray(pose_bodies(body, poses, betas))[0]
    np.testing.assert_allclose(posed - posed.mean(0), rest - rest.mean(0), atol=1e-5)
    poses[0, 66:] = 0.3
    assert np.abs(pose_bodies(body, poses, betas)[0] - posed).max() > 0.01


def test_every_beta_moves_vertices(body):
    poses = np.zeros((BATCH, 156), np.float32)
    vertices = np.asarray(pose_bodies(body, poses, np.eye(BATCH, 16, dtype=np.float32)))
    assert (np.abs(vertices[:16] - vertices[16]).max((1, 2)) > 1e-3).all()


def test_no_demo_body_of_another_size():
    with pytest.raises(ValueError, match="1229 and 12272 vertices, not of 6890"):
        demo_body_path(6890)


def test_missing_file_and_foreign_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.npz: no such body file"):
        load_body(tmp_path / "nowhere.npz")
    (tmp_path / "body.txt").write_text("body")
    with pytest.raises(ValueError, match=r"body.txt: expected an SMPL-H .npz or .pkl"):
        load_body(tmp_path / "body.txt")
    (tmp_path / "body.pkl").write_text("body")
    with pytest.raises(ValueError, match=r"body.pkl: not an SMPL-H body"):
        load_body(tmp_path / "body.pkl")
    (tmp_path / "body.npz").write_text("body")
    with pytest.raises(ValueError, match=r"body.npz: not an SMPL-H body"):
        load_body(tmp_path / "body.npz")


def test_missing_and_misshapen_arrays_are_named(tmp_path, arrays):
    path = tmp_path / "body.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if name != "weights"})
    with pytest.raises(ValueError, match=r"body.npz: .*no array weights"):
        load_body(path)
    np.savez(path, **arrays | {"shapedirs": arrays["shapedirs"][..., :10]})
    with pytest.raises(ValueError, match=r"shapedirs has shape \(1229, 3, 10\), expected \(1229, 3, 16\)"):
        load_body(path)


class Trap:
    sprung = False

    def __reduce__(self):
        return _spring, ()


def _spring():
    Trap.sprung = True


def test_npz_is_never_unpickled(tmp_path, arrays):
    trap = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "extra.npz", **arrays | {"training_info": trap})
    assert load_body(tmp_path / "extra.npz").num_vertices == 1229
    np.savez(tmp_path / "weights.npz", **arrays | {"weights": trap})
    with pytest.raises(ValueError, match=r"weights.npz: not an SMPL-H body"):
        load_body(tmp_path / "weights.npz")
    assert not Trap.sprung
