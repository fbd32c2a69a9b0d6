"""Bodies: the demo files, reading SMPL-H files, posing and its normalisation."""

import pickle
import shutil

import jax
import numpy as np
import pytest
from helpers import smpl_arrays
from rounding import rounding
from scipy import sparse

from spectral_jax.bodies.smplh import ARRAYS, Body, demo_body_path, find_bodies, load_body, pose_bodies

SIZES = [(1229, 2454), (12272, 24540)]


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body(demo_body_path())


@pytest.fixture(scope="module")
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
    def forward(model, poses, betas):
        joints = poses.reshape(-1, 52, 3)
        pose = {"body_pose": joints[:, 1:22], "hand_pose": joints[:, 22:], "pelvis_rotation": joints[:, 0]}
        return model.forward_vertices(**pose, shape=betas), model.forward_skeleton(**pose, shape=betas)

    with jax.numpy_rank_promotion("allow"):
        yield lambda poses, betas, body=body: jax.tree.map(np.asarray, forward(body.model, poses, betas))


@pytest.mark.parametrize(("num_vertices", "num_faces"), SIZES)
def test_demo_body_is_one_closed_surface(num_vertices, num_faces):
    import trimesh

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
    np.testing.assert_allclose(posed, literal, atol=rounding(2 * abs(vertices).max(), 52))


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
    with pytest.raises(ValueError, match="6890 vertices, available: 1229, 12272"):
        demo_body_path(6890)


def test_missing_file_and_foreign_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.npz: no such body file"):
        load_body(tmp_path / "nowhere.npz")
    (tmp_path / "body.txt").write_text("body")
    with pytest.raises(ValueError, match=r"body.txt: expected an SMPL-H or SMPL file"):
        load_body(tmp_path / "body.txt")
    (tmp_path / "body.pkl").write_text("body")
    with pytest.raises(ValueError, match=r"body.pkl: not a usable SMPL-H or SMPL body"):
        load_body(tmp_path / "body.pkl")
    (tmp_path / "body.npz").write_text("body")
    with pytest.raises(ValueError, match=r"body.npz: not a usable SMPL-H or SMPL body"):
        load_body(tmp_path / "body.npz")


def test_missing_and_misshapen_arrays_are_named(tmp_path, arrays):
    path = tmp_path / "body.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if name != "weights"})
    with pytest.raises(ValueError, match=r"body.npz: .*no array weights"):
        load_body(path)
    np.savez(path, **arrays | {"weights": arrays["weights"][:, :24]})
    with pytest.raises(ValueError, match=r"body.npz: .*weights has shape \(1229, 24\), expected \(1229, 52\)"):
        load_body(path)


def edited(array, place, value):
    array = array.astype(np.int64) if array.dtype.kind in "iu" else array.astype(np.float64)
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "shapedirs",
            lambda a: a[..., :10],
            "shapedirs has 10 shape components, 16 needed, .* extended SMPL.H model, smplh.tar.xz",
        ),
        ("shapedirs", lambda a: a[:, 0], r"shapedirs has shape \(1229, 16\), expected \(1229, 3, 16\)"),
        ("v_template", lambda a: a[0], r"v_template has shape \(3,\), expected \(3, 3\)"),
        ("weights", lambda a: edited(a, (0, 0), np.nan), "weights has numbers that are not finite"),
        ("posedirs", lambda a: edited(a, (5, 1, 7), 1e39), "posedirs has numbers that are not finite in float32"),
        ("weights", lambda a: a.astype(np.complex64), "weights has the dtype complex64, expected numbers"),
        ("weights", lambda a: a.astype(str), "weights has the dtype <U.*, expected numbers"),
        ("f", lambda a: a.astype(np.float32), "f has the dtype float32, expected integers"),
        ("f", lambda a: edited(a, (7, 1), 1229), "f joins 0 to 1229, expected vertices from 0 to 1228"),
        ("f", lambda a: edited(a, (7, 1), -1), "f joins -1 to 1228, expected vertices from 0 to 1228"),
        ("f", lambda a: a[:0], "f joins no vertices, expected"),
        (
            "kintree_table",
            lambda a: edited(a, (0, 9), 9),
            "kintree_table gives joint 9 the parent 9, expected one from 0 to 8",
        ),
        (
            "kintree_table",
            lambda a: edited(a, (0, 9), -1),
            "kintree_table gives joint 9 the parent -1, expected one from 0 to 8",
        ),
        (
            "kintree_table",
            lambda a: edited(a, (0, 0), 3),
            "kintree_table gives joint 0 the parent 3, expected -1 or 4294967295",
        ),
    ],
)
def test_bad_arrays_are_named_whatever_the_file(tmp_path, arrays, name, change, message):
    needed = {name: arrays[name] for name in ARRAYS} | {name: change(arrays[name])}
    np.savez(tmp_path / "body.npz", **needed)
    with pytest.raises(ValueError, match=rf"body.npz: not a usable SMPL-H or SMPL body: {message}"):
        load_body(tmp_path / "body.npz")
    if needed[name].dtype.kind in "iuf" and needed[name].size:
        (tmp_path / "body.pkl").write_bytes(pickle.dumps(needed, 2))
        with pytest.raises(ValueError, match=rf"body.pkl: not a usable SMPL-H or SMPL body: {message}"):
            load_body(tmp_path / "body.pkl")


class Ch:
    """Stands in for chumpy's array, and like it has more in its state than the array."""

    def __init__(self, x):
        self.x, self._dirty_vars, self._itr = x, set(), None


class Select:
    """Stands in for chumpy's choice from an array."""

    def __init__(self, a, idxs, preferred_shape):
        self.a, self.idxs, self.preferred_shape, self._depends_on_deps = a, idxs, preferred_shape, {}


def as_published(arrays):
    """The arrays in the dtypes, orders and wrappings of the published pickles, and other keys that they have."""
    count = arrays["shapedirs"].shape[2]
    shapes = np.concatenate([arrays["shapedirs"], np.ones((1229, 3, 4))], axis=2)
    chosen = np.arange(shapes.size).reshape(shapes.shape)[:, :, :count]
    table = arrays["kintree_table"].astype(np.int64)
    table[0, 0] = 2**32 - 1
    return {
        "v_template": Ch(arrays["v_template"].astype(np.float64)),
        "f": arrays["f"].astype(np.uint32),
        "weights": arrays["weights"].astype(np.float64),
        "shapedirs": Select(Ch(shapes), chosen.ravel(), chosen.shape),
        "posedirs": np.asfortranarray(arrays["posedirs"], np.float64),
        "J_regressor": sparse.csc_matrix(arrays["J_regressor"].astype(np.float64)),
        "kintree_table": table.astype(np.uint32),
        "joint2num": {"Pelvis": 0, "L_Hip": 1},
        "bs_type": "lrotmin",
        "bs_style": np.array("lbs"),
        "names": np.array(["a", None], object),
    }


def write_pickle(path, value, protocol):
    pickled = pickle.dumps(value, protocol)
    for name, published in (
        (f"{__name__}\nCh\n", "chumpy.ch\nCh\n"),
        (f"{__name__}\nSelect\n", "chumpy.reordering\nSelect\n"),
        ("numpy._core.multiarray\n", "numpy.core.multiarray\n"),
        ("scipy.sparse._csc\n", "scipy.sparse.csc\n"),
    ):
        pickled = pickled.replace(name.encode(), published.encode())  # none of them in protocol 4 and later
    path.write_bytes(pickled)


def test_every_file_that_users_have_gives_the_same_body(tmp_path, body, forward, arrays):
    published = as_published(arrays)
    plain = {name: arrays[name] for name in ARRAYS}
    wide = np.concatenate([arrays["shapedirs"], np.ones((1229, 3, 4))], axis=2)
    write_pickle(tmp_path / "chumpy.pkl", published, 2)
    plain_now = plain | {"J_regressor": published["J_regressor"]}
    for protocol in (2, 5):
        write_pickle(tmp_path / f"{protocol}.PKL", plain_now, protocol)
    np.savez(tmp_path / "wide.npz", **plain | {"shapedirs": wide, "f": published["f"]}, allow_pickle=False)
    table = arrays["kintree_table"].astype(np.int64)
    table[0, 0] = -1
    extra = {"kintree_table": table, "posedirs": published["posedirs"], "names": published["names"], "info": Ch(None)}
    np.savez(tmp_path / "objects.NPZ", **plain | extra)
    poses, betas = draw_poses(3)
    expected = forward(poses, betas)[0]
    for path in sorted(tmp_path.iterdir()):
        found = load_body(path)
        np.testing.assert_array_equal(found.faces, body.faces, err_msg=path.name)
        np.testing.assert_allclose(forward(poses, betas, found)[0], expected, atol=1e-6, err_msg=path.name)


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("female", "male"),
    [
        ("SMPLH_FEMALE.npz", "SMPLH_MALE.pkl"),
        ("smplh_female.pkl", "SmplH_male.NPZ"),
        ("female/model.npz", "MALE/model.pkl"),
        ("smplh/SMPLH_female.pkl", "smplh/SMPLH_male.pkl"),
        ("models_smplh/female/model.npz", "models_smplh/male/model.npz"),
        ("body_models/smplh/female/model.npz", "body_models/smplh/male/model.npz"),
    ],
)
def test_bodies_are_found(tmp_path, female, male):
    put(tmp_path, female, male, "readme.txt", "male/readme.npz", "smplx/SMPLX_MALE.npz", "deep/er/than/three/model.npz")
    found = {"female": tmp_path / female, "male": tmp_path / male}
    assert find_bodies(tmp_path) == found
    neutral = tmp_path / female.replace("fe", "").replace("FE", "").replace("male", "neutral").replace(
        "MALE", "NEUTRAL"
    )
    put(tmp_path, neutral)
    assert find_bodies(str(tmp_path)) == found | {"neutral": neutral}


def test_npz_goes_before_pkl_of_one_folder(tmp_path):
    put(tmp_path, "SMPLH_MALE.pkl", "SMPLH_male.npz", "female/model.pkl", "female/model.npz")
    assert find_bodies(tmp_path) == {"female": tmp_path / "female/model.npz", "male": tmp_path / "SMPLH_male.npz"}


def test_both_archives_of_the_site_may_lie_side_by_side(tmp_path):
    put(tmp_path, *(f"smplh/{gender}/model.npz" for gender in ("female", "male", "neutral")))
    put(tmp_path, *(f"mano_v1_2/models/{name}.pkl" for name in ("SMPLH_female", "SMPLH_male", "MANO_LEFT")))
    genders = ("female", "male", "neutral")
    assert find_bodies(tmp_path) == {gender: tmp_path / "smplh" / gender / "model.npz" for gender in genders}
    shutil.rmtree(tmp_path / "smplh")
    models = tmp_path / "mano_v1_2" / "models"
    assert find_bodies(tmp_path) == {gender: models / f"SMPLH_{gender}.pkl" for gender in ("female", "male")}


def test_links_are_followed_and_are_no_second_body(tmp_path):
    put(tmp_path, "store/Female/MODEL.NPZ", "store/male.npz", "store/SMPLH_MALE.npz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "female").symlink_to(tmp_path / "store" / "Female")
    (tmp_path / "in" / "SMPLH_MALE.npz").symlink_to(tmp_path / "store" / "male.npz")
    (tmp_path / "in" / "male").mkdir()
    (tmp_path / "in" / "male" / "model.npz").symlink_to(tmp_path / "store" / "male.npz")
    found = find_bodies(tmp_path / "in")
    assert found == {"female": tmp_path / "in/female/MODEL.NPZ", "male": tmp_path / "in/SMPLH_MALE.npz"}


def test_archives_that_are_not_unpacked_are_named(tmp_path):
    put(tmp_path, "smplh.tar.xz")
    with pytest.raises(ValueError, match=r"no female and no male body: .*unpack smplh\.tar\.xz"):
        find_bodies(tmp_path)
    with pytest.raises(ValueError, match=r"smplh\.tar\.xz: a file"):
        find_bodies(tmp_path / "smplh.tar.xz")


def test_missing_and_doubtful_bodies_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no female and no male body: looked here and up to 3 folders down"):
        find_bodies(tmp_path / "nowhere")
    put(tmp_path, "a/b/c/SMPLH_MALE.npz", "a/b/c/d/SMPLH_FEMALE.npz")
    with pytest.raises(ValueError, match=rf"{tmp_path}: no female body: .*SMPLH_FEMALE or female/model, .npz or .pkl"):
        find_bodies(tmp_path)
    put(tmp_path, "male/model.npz")
    with pytest.raises(ValueError, match=r"two male bodies, keep one of .*SMPLH_MALE.npz and .*male/model.npz"):
        find_bodies(tmp_path)
    (tmp_path / "male/model.npz").rename(tmp_path / "male/model.pkl")
    shutil.rmtree(tmp_path / "a")
    put(tmp_path, "male/SMPLH_MALE.pkl")
    with pytest.raises(ValueError, match=r"two male bodies, keep one of .*SMPLH_MALE.pkl and .*male/model.pkl"):
        find_bodies(tmp_path)


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_a_smpl_body_is_posed_by_72_numbers(tmp_path, body, arrays, suffix):
    path, table = tmp_path / f"SMPL_MALE{suffix}", smpl_arrays(arrays)
    if suffix == ".npz":
        np.savez(path, **table)
    else:
        write_pickle(path, as_published(table), 2)
    smpl = load_body(path)
    assert (smpl.name, smpl.num_joints, smpl.num_vertices) == ("SMPL", 24, 1229)
    assert (body.name, body.num_joints) == ("SMPL-H", 52)
    poses, betas = draw_poses(4)
    poses[:, 66:], betas[:, 10:] = 0, 0
    smpl_poses = np.ascontiguousarray(poses[:, :72])
    expected, found = (np.asarray(pose_bodies(*each, betas)) for each in ((body, poses), (smpl, smpl_poses)))
    np.testing.assert_allclose(found, expected, atol=rounding(2 * abs(expected).max(), 52))
    last = np.eye(16, dtype=np.float32)[15]
    np.testing.assert_array_equal(pose_bodies(smpl, smpl_poses, betas + last), found)
    smpl_poses[:, 69:] = 0.5
    moved = np.abs(pose_bodies(smpl, smpl_poses, betas) - expected).max(axis=(0, 2)) > 0.005
    assert 0 < moved.sum() < 300  # the right hand


def test_a_smpl_body_has_ten_betas_or_more(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **smpl_arrays(arrays, 9))
    with pytest.raises(ValueError, match=r"a\.npz: .*shapedirs has 9 shape components, 10 needed$"):
        load_body(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **smpl_arrays(arrays, 16))
    assert load_body(tmp_path / "a.npz").name == "SMPL"
    np.savez(tmp_path / "a.npz", **smpl_arrays(arrays) | {"weights": arrays["weights"]})
    with pytest.raises(ValueError, match=r"weights has shape \(1229, 52\), expected \(1229, 24\)"):
        load_body(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("female", "male"),
    [
        ("SMPL_FEMALE.npz", "smpl_male.pkl"),
        ("models/basicModel_f_lbs_10_207_0_v1.0.0.pkl", "models/basicmodel_m_lbs_10_207_0_v1.0.0.pkl"),
        ("a/smpl/models/basicmodel_f_lbs_10_207_0_v1.1.0.pkl", "a/smpl/models/basicmodel_m_lbs_10_207_0_v1.1.0.pkl"),
    ],
)
def test_smpl_bodies_are_found_where_there_are_none_of_smplh(tmp_path, female, male):
    put(tmp_path, female, male, "SMPLX_MALE.npz", "SMPLH_MALE.npz")
    found = {"female": tmp_path / female, "male": tmp_path / male}
    assert find_bodies(tmp_path) == found
    put(tmp_path, "SMPLH_FEMALE.npz")
    assert find_bodies(tmp_path) == {g: tmp_path / f"SMPLH_{g.upper()}.npz" for g in ("female", "male")}
    for gender in ("FEMALE", "MALE"):
        (tmp_path / f"SMPLH_{gender}.npz").unlink()
    (tmp_path / male).unlink()
    with pytest.raises(ValueError, match=r"no male body: .* for SMPLH_MALE or SMPL_MALE, \.npz or \.pkl"):
        find_bodies(tmp_path)


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
    with pytest.raises(ValueError, match=r"weights.npz: not a usable SMPL-H or SMPL body"):
        load_body(tmp_path / "weights.npz")
    assert not Trap.sprung


def test_pkl_is_never_run(tmp_path, arrays):
    for place in ("weights", "training_info"):
        (tmp_path / "body.pkl").write_bytes(pickle.dumps(arrays | {place: Trap()}))
        with pytest.raises(ValueError, match=r"body.pkl: .*refuses to load the global .*_spring"):
            load_body(tmp_path / "body.pkl")
    assert not Trap.sprung
