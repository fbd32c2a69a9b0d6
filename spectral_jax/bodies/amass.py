"""The AMASS collection on disk: its sets under old and new names, their sequences, and the published splits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SEARCH_DEPTH = 2  # levels of folders that are searched for sets

# Names of a set's folder, in lower case without "-" and "_", by the name that the published splits use.
SETS = {
    "ACCAD": ("accad",),
    "BMLhandball": ("bmlhandball",),
    "BMLmovi": ("bmlmovi",),
    "BMLrub": ("bmlrub", "biomotionlabntroje"),
    "CMU": ("cmu",),
    "CNRS": ("cnrs",),
    "DanceDB": ("dancedb",),
    "DFaust": ("dfaust", "dfaust67"),
    "EKUT": ("ekut",),
    "Eyes_Japan_Dataset": ("eyesjapandataset",),
    "GRAB": ("grab",),
    "HUMAN4D": ("human4d",),
    "HumanEva": ("humaneva",),
    "KIT": ("kit",),
    "MOYO": ("moyo",),
    "MPI_HDM05": ("mpihdm05", "hdm05"),
    "MPI_Limits": ("mpilimits", "poseprior"),
    "MPI_mosh": ("mpimosh", "mosh"),
    "SFU": ("sfu",),
    "SOMA": ("soma",),
    "SSM": ("ssm", "ssmsynced"),
    "TCD_handMocap": ("tcdhandmocap", "tcdhands"),
    "TotalCapture": ("totalcapture",),
    "Transitions_mocap": ("transitionsmocap", "transitions"),
    "WEIZMANN": ("weizmann",),
}
SPLITS = {
    "train": (
        "CMU", "MPI_Limits", "TotalCapture", "Eyes_Japan_Dataset", "KIT", "DanceDB", "BMLhandball",
        "Transitions_mocap", "EKUT", "TCD_handMocap", "ACCAD",
    ),
    "test": ("HumanEva", "MPI_HDM05", "SFU", "MPI_mosh"),
}  # fmt: skip
DFAUST_IDENTITIES = {"train": 8, "test": 2}  # the first ones and the last ones by name


class Recording(NamedTuple):
    """A sequence file, its set, and its subject, which is the name of its folder."""

    path: Path
    dataset: str
    identity: str


def find_sets(folder: Path | str) -> dict[str, list[Recording]]:
    """Find the sets in a folder (as CMU/01/..., CMU/CMU/01/..., or one folder deeper) and their sequences, sorted.

    A folder without sets may be a set itself. Files named shape.npz are not sequences. Raises ValueError when there is
    no such folder, or when it holds a set twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of AMASS sets")
    places: dict[str, Path] = {}
    for depth in range(1, SEARCH_DEPTH + 1):
        for path in sorted(folder.glob("/".join("*" * depth))):
            name = _set_called(path.name)
            if name is None or not path.is_dir() or any(place in path.parents for place in places.values()):
                continue
            if name in places:
                raise ValueError(f"{folder}: holds the set {name} twice, keep one of {places[name]} and {path}")
            places[name] = path
    if not places and (name := _set_called(folder.absolute().name)):
        places[name] = folder
    return {name: found for name, place in places.items() if (found := _recordings(name, place))}


def _set_called(name: str) -> str | None:
    """The set whose folder may have that name, or None."""
    plain = name.lower().replace("_", "").replace("-", "")
    return next((known for known, aliases in SETS.items() if plain in aliases), None)


def _recordings(name: str, place: Path) -> list[Recording]:
    """The sequences in a folder and below it; links are followed, but no folder is read twice."""
    paths, seen = [], set()
    for root, folders, files in os.walk(place, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        paths += [Path(root, file) for file in files if file.endswith(".npz") and file != "shape.npz"]
    return [Recording(path, name, path.parent.name) for path in sorted(paths) if path.is_file()]


def published_splits(
    sets: dict[str, list[Recording]], allow_missing: bool, chosen: Mapping[str, Sequence[str]] = SPLITS
) -> dict[str, list[Recording]]:
    """Sequences of the chosen train and test sets, by default those of the published system.

    Raises ValueError for a set that AMASS does not have or that is in both splits, and listing the missing sets; if
    sets may be missing, only when a split has none.
    """
    chosen = {split: [_known_set(name) for name in names] for split, names in chosen.items()}
    if both := set(chosen["train"]) & set(chosen["test"]):
        raise ValueError(f"the set {min(both)} is both to train on and to test on")
    missing = [name for names in chosen.values() for name in names if name not in sets]
    if missing and not allow_missing:
        raise ValueError(
            f"{len(missing)} of {sum(map(len, chosen.values()))} sets are missing: {', '.join(missing)} (available: "
            f"{', '.join(sorted(sets)) or 'none'}); --allow-missing builds without them"
        )
    for split, names in chosen.items():
        if not sets.keys() & names:
            raise ValueError(f"the {split} split is empty, expected at least one of {', '.join(names)}")
    return {split: [r for name in names for r in sets.get(name, [])] for split, names in chosen.items()}


def _known_set(name: str) -> str:
    """The set that a user calls so. Raises ValueError for none."""
    known = _set_called(name)
    if known is None:
        raise ValueError(f"AMASS has no set {name!r}; its sets: {', '.join(SETS)}")
    return known


def dfaust_splits(sets: dict[str, list[Recording]], allow_missing: bool) -> dict[str, list[Recording]]:
    """Sequences of the first 8 (train) and the last 2 (test) identities of DFaust by name.

    Raises ValueError for fewer than 10 identities; if identities may be missing, for fewer than 3.
    """
    recordings = sets.get("DFaust", [])
    identities, wanted = sorted({r.identity for r in recordings}), sum(DFAUST_IDENTITIES.values())
    fewest = DFAUST_IDENTITIES["test"] + 1 if allow_missing else wanted
    if len(identities) < fewest:
        raise ValueError(
            f"DFaust has {len(identities)} identities ({', '.join(identities) or 'none'}), expected {wanted}"
            + ("" if allow_missing else "; --allow-missing builds without the rest")
        )
    test = identities[-DFAUST_IDENTITIES["test"] :]
    train = [name for name in identities[: DFAUST_IDENTITIES["train"]] if name not in test]
    return {
        split: [r for r in recordings if r.identity in names] for split, names in (("train", train), ("test", test))
    }
