"""Families of human motion: anatomical angles over time."""

import numpy as np
from jaxtyping import Float

from spectral_jax.bodies.anatomy import ANGLES

OPPOSITE = np.array([0.0, np.pi])
SIDE = np.array([1.0, -1.0])  # left, right


def _cycle(time, rng, slowest, fastest):
    """A phase in radians, (frame, 1), with a random start and a random rate between two rates in Hz."""
    return 2 * np.pi * rng.uniform(slowest, fastest) * time[:, None] + rng.uniform(0, 2 * np.pi)


def _pulse(time, rng, slowest, fastest):
    """A pulse from 0 to 1 and back, (frame, 1), at a random rate in Hz; how long it stays near the ends is random."""
    hold = rng.uniform(0.3, 1.5)
    return 0.5 - 0.5 * np.tanh(hold * np.cos(_cycle(time, rng, slowest, fastest))) / np.tanh(hold)


def _gait(time, rng):
    pace, march = rng.uniform(0.0, 1.0), rng.uniform(0.0, 1.0) ** 2  # a stroll to a run; feet dragged to knees high
    phase = _cycle(time, rng, 0.7, 1.0 + 0.5 * pace) + OPPOSITE
    arms, swing = phase + np.pi, rng.uniform(0.4, 0.7) + 0.5 * pace
    lift = np.clip(np.cos(phase + 0.3), 0, None) ** 1.5
    return {
        "hip_flexion": 0.15 + 0.2 * pace + (0.45 + 0.35 * pace) * np.sin(phase) + 0.8 * march * np.sin(phase).clip(0),
        "knee_flexion": 0.15 + 0.25 * pace + (0.9 + 0.9 * pace) * lift + 1.3 * march * np.sin(phase + 0.3).clip(0),
        "ankle_flexion": 0.1 * np.sin(phase) - 0.3 * np.sin(0.4 - phase).clip(0),
        "arm_elevation": -1.25 + 0.6 * swing * np.sin(arms) ** 2,
        "arm_azimuth": 0.2 + 1.3 * np.tanh(3 * np.sin(arms)),
        "elbow_flexion": 0.3 + 1.2 * pace + 0.35 * swing * (1 + np.sin(arms)),
        "hand_curl": 0.3 + 0.7 * pace,
        "spine_flexion": 0.03 + 0.3 * pace,
        "spine_twist": -0.3 * swing * np.sin(phase[:, :1]),
        "spine_bend": 0.08 * np.cos(phase[:, :1]),
        "head_twist": 0.15 * swing * np.sin(phase[:, :1]),
        "heading": rng.uniform(-0.6, 0.6) * time[:, None],
    }


def _squat(time, rng):
    depth = rng.uniform(0.65, 1.0) * _pulse(time, rng, 0.3, 0.7)
    width, lean = rng.uniform(0.0, 0.4), rng.uniform(0.2, 0.7)
    press, reach = rng.uniform(0.0, 1.0) ** 2, rng.uniform(0.3, 1.0)  # arms overhead when up; forwards when down
    up = 1 - depth
    return {
        "hip_flexion": 2.05 * depth,
        "hip_abduction": 0.05 + width * (0.4 + 0.8 * depth),
        "hip_rotation": 0.05 + width * depth,
        "knee_flexion": 0.05 + 2.3 * depth,
        "ankle_flexion": 0.45 * depth,
        "arm_elevation": -1.2 + 1.3 * reach * depth + 2.6 * press * up,
        "arm_azimuth": 0.3 + 1.2 * np.tanh(3 * depth) * (1 - 0.5 * press),
        "elbow_flexion": 0.2 + 1.9 * (press + (1 - reach) * (1 - press)) * depth,
        "spine_flexion": lean * depth - 0.15 * press * up,
        "head_flexion": -0.6 * lean * depth,
    }


def _reach(time, rng):
    path = _pulse(time, rng, 0.25, 0.6)
    both = rng.uniform(0.0, 1.0) < 0.5
    led = np.array([1.0, 1.0]) if both else np.eye(2)[rng.integers(2)]
    from_up, to_up = rng.uniform(-1.2, 0.0), rng.uniform(-0.2, 1.45)
    from_front, to_front = rng.uniform(-0.4, 1.6, size=2)
    up = -1.2 + led * (from_up + (to_up - from_up) * path + 1.2)
    front = 0.2 + led * (from_front + (to_front - from_front) * path - 0.2)
    turn = led @ -SIDE * path  # the trunk turns with the reaching shoulder
    return {
        "arm_elevation": up,
        "arm_azimuth": front,
        "arm_twist": 0.3 * led * path,
        "elbow_flexion": 0.2 + rng.uniform(0.5, 1.8) * led * np.sin(np.pi * path),
        "hand_curl": 0.4 - 0.3 * led * path,
        "spine_twist": 0.7 * turn * np.sin(to_front),
        "spine_bend": -0.4 * turn * np.cos(to_front),
        "spine_flexion": 0.5 * path * np.sin(to_front) * np.cos(to_up) - 0.3 * path * np.sin(to_up).clip(0),
        "head_flexion": -0.5 * path * np.sin(to_up),
        "head_twist": -0.8 * turn * np.cos(to_front),
        "hip_flexion": 0.3 * path * (0.4 + 0.6 * led),
        "knee_flexion": 0.05 + 0.5 * path * (0.4 + 0.6 * led),
        "ankle_flexion": 0.2 * path * (0.4 + 0.6 * led),
    }


def _twist(time, rng):
    phase = _cycle(time, rng, 0.25, 0.6)
    amount, spread, bent, low = rng.uniform(0.6, 1.0), rng.uniform(0.2, 1.2), rng.uniform(0.1, 1.9), rng.uniform()
    turn, late = np.sin(phase), np.sin(phase - 0.7)  # the arms trail the trunk
    return {
        "spine_twist": 1.05 * amount * turn,
        "spine_flexion": 0.1 + 0.3 * low * np.abs(turn),
        "spine_bend": 0.2 * low * late,
        "head_twist": -0.4 * amount * turn,
        "arm_elevation": -1.2 + 1.2 * spread - 0.3 * late * SIDE,
        "arm_azimuth": 0.5 + 0.9 * amount * late * SIDE,
        "elbow_flexion": bent * (0.6 - 0.4 * late * SIDE),
        "hip_rotation": 0.05 - 0.3 * amount * turn * SIDE,
        "hip_flexion": 0.15 + 0.6 * low + 0.35 * low * turn * SIDE,
        "hip_abduction": rng.uniform(0.05, 0.3),
        "knee_flexion": 0.3 + 0.9 * low + 0.5 * low * turn * SIDE,
        "ankle_flexion": 0.1 + 0.2 * low,
    }


def _bend(time, rng):
    down = rng.uniform(0.6, 1.0) * _pulse(time, rng, 0.25, 0.5)
    aside, knees, back = rng.uniform(-1.0, 1.0), rng.uniform(0.0, 0.7), rng.uniform(0.0, 1.0)
    up = 1 - down
    return {
        "hip_flexion": (1.5 + 0.5 * knees) * down - 0.2 * back * up,
        "knee_flexion": 0.05 + 1.4 * knees * down,
        "ankle_flexion": 0.2 * knees * down,
        "spine_flexion": 1.25 * down - 0.4 * back * up,
        "spine_twist": 0.7 * aside * down,
        "head_flexion": 0.3 * down - 0.4 * back * up,
        "arm_elevation": -1.2 + 1.2 * down * (1 + 0.3 * aside * SIDE) + 2.4 * back * up,
        "arm_azimuth": 0.3 + 1.2 * np.tanh(3 * down),
        "elbow_flexion": 0.2 + 0.5 * back * np.sin(np.pi * down),
    }


def _jack(time, rng):
    apart = _pulse(time, rng, 0.5, 1.0)
    arms, legs, crouch = rng.uniform(0.5, 1.0), rng.uniform(0.4, 1.0), rng.uniform(0.2, 0.9)
    between = crouch * np.sin(np.pi * apart)
    return {
        "arm_elevation": -1.2 + 2.65 * arms * apart,
        "arm_azimuth": 0.15 + 0.3 * apart,
        "elbow_flexion": 0.2 + 1.5 * between,
        "hip_abduction": 0.03 + 0.65 * legs * apart,
        "hip_flexion": 1.1 * between,
        "knee_flexion": 0.05 + 1.9 * between,
        "ankle_flexion": 0.5 * between - 0.3 * apart,
        "spine_flexion": 0.5 * between - 0.15 * apart,
        "head_flexion": -0.2 * apart,
    }


def _kick(time, rng):
    kick = _pulse(time, rng, 0.4, 0.8)
    height, sideways, leg = rng.uniform(0.6, 1.0), rng.uniform(0.0, 1.0) ** 2, rng.integers(2)
    free, support = np.eye(2)[leg], np.eye(2)[1 - leg]
    back = np.sin(2 * np.pi * kick).clip(0)  # the leg swings back, chambers, and is straight at the top
    turn = kick * (free @ SIDE)
    return {
        "hip_flexion": ((-0.5 * back + 1.9 * height * kick**1.5) * (1 - 0.7 * sideways)) * free + 0.1 * support,
        "hip_abduction": 0.05 + (0.2 + 0.9 * sideways * height) * kick * free,
        "knee_flexion": 0.1 + 2.0 * height * np.sin(np.pi * kick) ** 1.2 * free + 0.3 * kick * support,
        "ankle_flexion": -0.5 * kick * free + 0.1 * support,
        "arm_elevation": -1.1 + kick * (1.1 * support + 0.6 * free),
        "arm_azimuth": 0.2 + kick * (1.2 * support - 0.8 * free),
        "elbow_flexion": 0.3 + 1.2 * np.sin(np.pi * kick),
        "spine_flexion": 0.35 * height * kick * (1 - sideways),
        "spine_bend": 0.5 * sideways * turn,
        "spine_twist": 0.55 * turn * (1 - sideways),
        "head_twist": -0.3 * turn,
    }


def _lunge(time, rng):
    step = rng.uniform(0.7, 1.0) * _pulse(time, rng, 0.3, 0.6)
    leg, raised, front, turned = rng.integers(2), rng.uniform(0.0, 1.0), rng.uniform(0.0, 1.6), rng.uniform(-1.0, 1.0)
    fore, rear = np.eye(2)[leg], np.eye(2)[1 - leg]
    return {
        "hip_flexion": step * (1.6 * fore - 0.5 * rear),
        "hip_abduction": 0.05 + 0.1 * step,
        "knee_flexion": 0.05 + step * (1.7 * fore + 1.2 * rear),
        "ankle_flexion": step * (0.2 * fore - 0.4 * rear),
        "arm_elevation": -1.2 + 2.5 * raised * step,
        "arm_azimuth": 0.2 + (front - 0.2) * step,
        "elbow_flexion": 0.25 + 1.7 * np.sin(np.pi * step) * raised,
        "spine_twist": 0.9 * turned * step,
        "spine_bend": -0.3 * turned * step,
        "head_twist": -0.4 * turned * step,
    }


def _climb(time, rng):
    phase = _cycle(time, rng, 0.3, 0.7) + OPPOSITE
    knee, hand = 0.5 + 0.5 * np.sin(phase), 0.5 - 0.5 * np.sin(phase - 0.5)  # a hand rises with the other knee
    high, wide, pull = rng.uniform(0.6, 1.0), rng.uniform(0.0, 0.6), rng.uniform(0.5, 1.0)
    return {
        "hip_flexion": 0.2 + 1.8 * high * knee,
        "hip_abduction": 0.05 + wide * knee,
        "hip_rotation": 0.05 + 0.6 * wide * knee,
        "knee_flexion": 0.3 + 2.0 * high * knee,
        "ankle_flexion": 0.3 * knee,
        "arm_elevation": -0.7 + 2.1 * hand,
        "arm_azimuth": 1.4 - 0.9 * wide,
        "elbow_flexion": 0.1 + 2.1 * pull * (1 - hand),
        "hand_curl": 1.0 - 0.5 * hand,
        "spine_bend": 0.35 * high * np.sin(phase[:, :1]),
        "spine_twist": 0.3 * np.sin(phase[:, :1] - 0.5),
        "head_flexion": -0.4 * high,
        "head_twist": -0.3 * np.sin(phase[:, :1]),
    }


def _swim(time, rng):
    phase = _cycle(time, rng, 0.3, 0.7)
    crawl = rng.integers(2)
    loop = phase + crawl * OPPOSITE  # each arm goes round: up in front, down at the side
    lean, bent, tall = rng.uniform(0.0, 0.9), rng.uniform(0.0, 1.6), rng.uniform(0.9, 1.25)
    return {
        "arm_elevation": 0.1 - tall * np.cos(loop),
        "arm_azimuth": 0.5 + 1.0 * np.sin(loop),
        "arm_twist": 0.4 * np.sin(loop),
        "elbow_flexion": 0.2 + bent * (0.5 + 0.5 * np.sin(loop + np.pi)),
        "hand_curl": 0.15,
        "spine_twist": crawl * 0.7 * np.sin(phase + 0.5),
        "spine_bend": crawl * 0.2 * np.cos(phase),
        "spine_flexion": 0.5 * lean + 0.35 * (1 - crawl) * np.cos(phase),
        "hip_flexion": 0.7 * lean + 0.3 * np.cos(loop),
        "knee_flexion": 0.2 + 0.7 * lean + 0.3 * np.cos(loop),
        "ankle_flexion": 0.2 * lean,
        "head_flexion": -0.4 * lean,
        "head_twist": -crawl * 0.5 * np.sin(phase + 0.5),
    }


def _punch(time, rng):
    phase = _cycle(time, rng, 0.4, 0.9) + OPPOSITE
    out = np.sin(phase).clip(0) ** 1.5
    hook, crouch, aim, lead = rng.uniform(0.0, 1.0), rng.uniform(0.1, 1.0), rng.uniform(-0.2, 0.5), rng.choice(SIDE)
    return {
        "arm_elevation": -0.8 + (0.8 + aim) * out,
        "arm_azimuth": 1.0 + 0.55 * out - 0.9 * hook * np.sin(phase + 1.0).clip(0),
        "arm_twist": -0.3 * out,
        "elbow_flexion": 2.1 - (2.0 - 0.9 * hook) * out,
        "hand_curl": 1.2,
        "spine_twist": 0.7 * (out[:, 1:] - out[:, :1]),
        "spine_flexion": 0.15 + 0.25 * crouch,
        "head_twist": 0.5 * (out[:, :1] - out[:, 1:]),
        "hip_flexion": 0.3 + 0.5 * crouch + lead * SIDE * (0.4 + 0.2 * np.sin(2 * phase)),
        "hip_abduction": 0.15,
        "knee_flexion": 0.3 + 0.8 * crouch + 0.2 * crouch * np.sin(2 * phase),
        "ankle_flexion": 0.1 + 0.3 * crouch,
    }


def _idle(time, rng):
    sway, breath = np.sin(_cycle(time, rng, 0.1, 0.3)), np.sin(2 * np.pi * 0.25 * time[:, None])
    fold, weight = rng.uniform(0.0, 1.0), rng.uniform(-1.0, 1.0)
    leaning = (weight * sway * SIDE).clip(0)
    return {
        "hip_flexion": 0.4 * leaning,
        "knee_flexion": 0.05 + 0.7 * leaning,
        "ankle_flexion": 0.3 * leaning,
        "spine_bend": 0.15 * weight * sway,
        "spine_flexion": 0.02 * breath,
        "arm_elevation": -1.2 + 0.3 * fold,
        "arm_azimuth": 0.2 + 0.8 * fold + 0.05 * breath,
        "elbow_flexion": 0.2 + 1.6 * fold,
        "head_twist": rng.uniform(0.2, 0.8) * sway,
        "head_flexion": 0.15 * breath,
    }


FAMILIES = {
    "gait": _gait, "squat": _squat, "reach": _reach, "twist": _twist, "bend": _bend, "jack": _jack,
    "kick": _kick, "lunge": _lunge, "climb": _climb, "swim": _swim, "punch": _punch, "idle": _idle,
}  # fmt: skip


def draw(kind: str, time: Float[np.ndarray, "frame"], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The angles of ANGLES, (frame, 1) or (frame, 2), of one motion of a family, with a random style."""
    given = FAMILIES[kind](time, rng)
    favoured = rng.uniform(-0.5, 0.5)  # habits of the person: one arm moves more, and below, the posture of the trunk
    for name in ("arm_elevation", "arm_azimuth", "elbow_flexion"):
        rest = ANGLES[name][0]
        given[name] = rest + (given[name] - rest) * (1 + favoured * SIDE)
    habits = {"arm_twist": 0.4, "arm_azimuth": 0.3, "spine_flexion": 0.2, "spine_bend": 0.15, "spine_twist": 0.2,
              "head_flexion": 0.2, "head_twist": 0.4, "hip_rotation": 0.2, "hip_abduction": 0.08}  # fmt: skip
    for name, spread in habits.items():
        given[name] = given.get(name, ANGLES[name][0]) + rng.uniform(-spread, spread)
    angles = {}
    for name, (rest, low, high) in ANGLES.items():
        sides = 1 if name.startswith(("spine", "head")) else 2
        angles[name] = np.clip(np.broadcast_to(given.get(name, rest), (len(time), sides)), low, high)
    # Keep bent arms clear of the chest: the elbow farther out, the hand farther up.
    angles["arm_azimuth"] = np.minimum(angles["arm_azimuth"], 1.7 - 0.35 * angles["elbow_flexion"])
    angles["arm_twist"] = np.minimum(angles["arm_twist"] + 0.2 * angles["elbow_flexion"], ANGLES["arm_twist"][2])
    return angles
