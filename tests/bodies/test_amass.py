"""AMASS on disk: which folders are which sets, and who is in the published splits."""

from pathlib import Path

import pytest

from spectral_jax.bodies import amass

TRAIN = [
    "CMU", "MPI_Limits", "TotalCapture", "Eyes_Japan_Dataset", "KIT", "DanceDB", "BMLhandball", "Transitions_mocap",
    "EKUT", "TCD_handMocap", "ACCAD",
]  # fmt: skip
TEST = ["HumanEva", "MPI_HDM05", "SFU", "MPI_mosh"]


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("called", "name"),
    [(name, name) for name in [*TRAIN, *TEST]]
    + [
        ("BioMotionLab_NTroje", "BMLrub"), ("DFaust_67", "DFaust"), ("EyesJapanDataset", "Eyes_Japan_Dataset"),
        ("MPImosh", "MPI_mosh"), ("MoSh", "MPI_mosh"), ("PosePrior", "MPI_Limits"), ("HDM05", "MPI_HDM05"),
        ("SSM_synced", "SSM"), ("TCDHands", "TCD_handMocap"), ("Transitions", "Transitions_mocap"),
        ("BMLHandball", "BMLhandball"), ("mpi-limits", "MPI_Limits"),
    ],
)  # fmt: skip
def test_sets_go_by_their_old_and_new_names(tmp_path, called, name):
    ((found, recordings),) = amass.find_sets(put(tmp_path, f"{called}/s1/walk_poses.npz")).items()
    assert found == name
    assert recordings == [(tmp_path / called / "s1" / "walk_poses.npz", name, "s1")]


@pytest.mark.parametrize("way", ["CMU", "CMU/CMU", "AMASS/CMU", "AMASS/CMU/CMU", "SMPLH_G/CMU", "CMU/a/b/c"])
def test_sets_lie_in_the_folder_or_one_further_down(tmp_path, way):
    sets = amass.find_sets(put(tmp_path, f"{way}/01/01_02_poses.npz"))
    assert {name: [r.identity for r in recordings] for name, recordings in sets.items()} == {"CMU": ["01"]}


def test_a_folder_may_be_a_set(tmp_path, monkeypatch):
    put(tmp_path, "DFaust_67/50002/a_poses.npz", "DFaust_67/50004/b_poses.npz")
    assert [r.identity for r in amass.find_sets(tmp_path / "DFaust_67")["DFaust"]] == ["50002", "50004"]
    monkeypatch.chdir(tmp_path / "DFaust_67")
    assert [r.identity for r in amass.find_sets(".")["DFaust"]] == ["50002", "50004"]


def test_a_folder_of_sets_is_no_set_whatever_it_is_called(tmp_path):
    sets = amass.find_sets(put(tmp_path / "mosh", "CMU/01/x.npz", "KIT/3/y.npz"))
    assert {name: len(recordings) for name, recordings in sets.items()} == {"CMU": 1, "KIT": 1}


def test_sequences_are_sorted_and_nothing_else_is_one(tmp_path):
    put(
        tmp_path, "CMU/02/b.npz", "CMU/02/a.npz", "CMU/01/c.npz", "CMU/01/shape.npz", "CMU/LICENSE.txt", "CMU/d.npz.bak"
    )
    put(tmp_path, "Unknown/01/a.npz", "loose.npz", "SFU/readme.txt")
    assert {name: [r.path.name for r in found] for name, found in amass.find_sets(tmp_path).items()} == {
        "CMU": ["c.npz", "a.npz", "b.npz"]
    }


def test_links_are_followed_and_none_in_a_circle(tmp_path):
    put(tmp_path / "disk", "01/a.npz", "KIT/3/b.npz")
    (tmp_path / "AMASS" / "CMU").mkdir(parents=True)
    (tmp_path / "AMASS" / "CMU" / "s1").symlink_to(tmp_path / "disk" / "01")
    (tmp_path / "AMASS" / "KIT").symlink_to(tmp_path / "disk" / "KIT")
    (tmp_path / "AMASS" / "CMU" / "again").symlink_to(tmp_path / "AMASS" / "CMU")
    sets = amass.find_sets(tmp_path / "AMASS")
    assert {name: [(r.identity, r.path.name) for r in found] for name, found in sets.items()} == {
        "CMU": [("s1", "a.npz")],
        "KIT": [("3", "b.npz")],
    }


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("BMLrub", "BioMotionLab_NTroje", "BMLrub"),
        ("MPImosh", "MoSh", "MPI_mosh"),
        ("CMU", "more/CMU", "CMU"),
        ("a/KIT", "b/KIT", "KIT"),
    ],
)
def test_a_set_that_is_there_twice_is_refused_naming_both(tmp_path, first, second, name):
    put(tmp_path, f"{first}/01/x.npz", f"{second}/01/x.npz")
    with pytest.raises(ValueError, match=f"the set {name} twice, keep one of .* and .*") as error:
        amass.find_sets(tmp_path)
    assert str(tmp_path / first) in str(error.value)
    assert str(tmp_path / second) in str(error.value)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none: no such folder of AMASS sets"):
        amass.find_sets(tmp_path / "none")


def sets_of(*names):
    return {name: [amass.Recording(Path(name, "s", "x.npz"), name, "s")] for name in names}


def test_the_published_splits_are_the_papers(tmp_path):
    splits = amass.published_splits(sets_of("BMLrub", *reversed(TEST), "DFaust", *sorted(TRAIN)), False)
    assert {split: [r.dataset for r in found] for split, found in splits.items()} == {"train": TRAIN, "test": TEST}


def test_exactly_the_missing_sets_are_listed():
    there = [name for name in [*TRAIN, *TEST] if name not in ("KIT", "EKUT", "SFU")]
    with pytest.raises(
        ValueError, match=r"^3 of 15 sets are missing: KIT, EKUT, SFU \(available: ACCAD, BMLhandball, "
    ):
        amass.published_splits(sets_of(*there), False)
    with pytest.raises(ValueError, match=r"^15 of 15 sets are missing: .* \(available: none\); --allow-missing builds"):
        amass.published_splits({}, False)
    splits = amass.published_splits(sets_of(*there), True)
    assert [r.dataset for r in splits["train"] + splits["test"]] == there


@pytest.mark.parametrize(("there", "split"), [(TRAIN, "test"), (TEST, "train")])
def test_a_whole_split_cannot_be_missing(there, split):
    with pytest.raises(ValueError, match=f"the {split} split is empty, expected at least one of "):
        amass.published_splits(sets_of(*there), True)


def dfaust(count):
    recordings = [
        amass.Recording(Path("DFaust", f"50{i:03d}", f"{name}.npz"), "DFaust", f"50{i:03d}")
        for i in reversed(range(count))
        for name in ("jump", "run")
    ]
    return {"DFaust": recordings, **sets_of("CMU")}


@pytest.mark.parametrize("count", [10, 12])
def test_dfaust_trains_on_the_first_eight_and_tests_on_the_last_two_by_name(count):
    splits = amass.dfaust_splits(dfaust(count), False)
    identities = {split: sorted(r.identity for r in found) for split, found in splits.items()}
    names = [f"50{i:03d}" for i in range(count)]
    assert identities == {"train": sorted(names[:8] * 2), "test": sorted(names[-2:] * 2)}


def test_fewer_than_ten_of_dfaust_are_refused_unless_they_may_be_missing():
    with pytest.raises(ValueError, match=r"DFaust has 9 identities \(50000, .*\), expected 10; --allow-missing"):
        amass.dfaust_splits(dfaust(9), False)
    splits = amass.dfaust_splits(dfaust(9), True)
    assert {split: len(found) for split, found in splits.items()} == {"train": 14, "test": 4}
    for count in (0, 2):
        with pytest.raises(ValueError, match=rf"DFaust has {count} identities \(.*\), expected 10$"):
            amass.dfaust_splits(dfaust(count), True)
