"""Anatomical angles of a human body, their limits, and their conversion to SMPL-H axis-angles."""

import numpy as np
from jaxtyping import Float

# Rest value and limits of each angle, in radians. An angle is (frame, 2), left and right, or (frame, 1) for spine and
# head. An arm points by elevation (-pi/2 down, pi/2 up) and azimuth (0 sideways, pi/2 forwards). Heading turns the
# body.
ANGLES = {
    "hip_flexion": (0.0, -0.6, 2.1),
    "hip_abduction": (0.03, -0.3, 1.1),
    "hip_rotation": (0.05, -0.6, 0.8),
    "knee_flexion": (0.05, 0.0, 2.4),
    "ankle_flexion": (0.0, -0.7, 0.5),
    "arm_elevation": (-1.2, -1.3, 1.45),
    "arm_azimuth": (0.2, -1.2, 1.8),
    "arm_twist": (0.0, -0.8, 1.0),
    "elbow_flexion": (0.25, 0.0, 2.3),
    "hand_curl": (0.35, 0.0, 1.2),
    "spine_flexion": (0.0, -0.5, 1.3),
    "spine_bend": (0.0, -0.6, 0.6),
    "spine_twist": (0.0, -1.1, 1.1),
    "head_flexion": (0.0, -0.8, 0.7),
    "head_bend": (0.0, -0.5, 0.5),
    "head_twist": (0.0, -1.2, 1.2),
    "heading": (0.0, -np.inf, np.inf),
}
MIRROR = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0]])  # factors from a left joint's axis-angle to the left, the right


def joint_rotations(angles: dict[str, np.ndarray]) -> Float[np.ndarray, "frame 156"]:
    """Axis-angles of the 52 SMPL-H joints. Both sides are computed as left joints; the right ones are mirrored."""
    from scipy.spatial.transform import Rotation

    a = angles
    zero = np.zeros_like(a["hip_flexion"])
    frames = len(zero)
    poses = np.zeros((frames, 52, 3))

    def axes(x, y, z):
        return np.stack([x, y, z], axis=-1)

    def compose(*rotvecs):
        product = Rotation.identity()
        for rotvec in rotvecs:
            product = product * Rotation.from_rotvec(rotvec.reshape(-1, 3))
        return product.as_rotvec().reshape(frames, 2, 3)

    elevation, azimuth = a["arm_elevation"], a["arm_azimuth"]
    direction = axes(np.cos(elevation) * np.cos(azimuth), np.sin(elevation), np.cos(elevation) * np.sin(azimuth))
    across = np.cross([1.0, 0.0, 0.0], direction)
    swing = across / np.linalg.norm(across, axis=-1, keepdims=True).clip(1e-9)
    swing = swing * np.arccos(direction[..., :1].clip(-1, 1))
    twist = a["arm_twist"] + 0.5 * (1 + np.sin(elevation))  # raising an arm turns its elbow down
    raised = 0.15 * (elevation + 1.2)
    collar = axes(zero, zero, raised)
    left = {
        1: compose(
            axes(zero, zero, a["hip_abduction"]),
            axes(-a["hip_flexion"], zero, zero),
            axes(zero, a["hip_rotation"], zero),
        ),
        4: axes(a["knee_flexion"], zero, zero),
        7: axes(-a["ankle_flexion"], zero, zero),
        13: collar,
        16: compose(-collar, swing, axes(-twist, zero, zero)),
        18: axes(zero, -a["elbow_flexion"], zero),
    }
    for joint, rotation in left.items():
        poses[:, [joint, joint + 1]] = rotation * MIRROR
    curl = axes(zero, zero, -a["hand_curl"])
    for finger, share in enumerate((0.85, 1.0, 1.1, 1.05, 0.3)):  # index, middle, pinky, ring, thumb
        for k, part in enumerate((0.8, 1.0, 0.7)):
            joint = 22 + 3 * finger + k
            poses[:, [joint, joint + 15]] = share * part * curl * MIRROR
    for joints, part in (((3, 6, 9), "spine"), ((12, 15), "head")):
        angle = np.concatenate([a[f"{part}_{name}"] for name in ("flexion", "twist", "bend")], axis=1)
        poses[:, joints] = angle[:, None] / len(joints)
    poses[:, 0, 1] = a["heading"][:, 0]
    return poses.reshape(frames, 156).astype(np.float32)
