from pathlib import Path

import pytest

from spectral_jax.data.recipes import MeshRecipe
from spectral_jax.data.registered_meshes import split_items
from spectral_jax.geometry.sequences import Item

ITEMS = [
    Item(Path(), "", f"{who}{i}", f"{who}{i}/{k}.ply") for who in ("an", "bo", "cy") for i in (0, 1) for k in (0, 1)
]


def identities(parts):
    return {name: sorted({item.identity for item in items}) for name, items in parts.items()}


def split(items=ITEMS, **options):
    return split_items(items, MeshRecipe(folder=Path("meshes"), out=Path("out"), **options))


def test_split_by_patterns():
    both = identities(split(train=("an*",), test=("cy0", "bo?")))
    assert both == {"train": ["an0", "an1"], "test": ["bo0", "bo1", "cy0"], "unused": ["cy1"]}
    assert identities(split(test=("*0",))) == {
        "train": ["an1", "bo1", "cy1"],
        "test": ["an0", "bo0", "cy0"],
        "unused": [],
    }
    assert identities(split(train=("*0",)))["test"] == ["an1", "bo1", "cy1"]
    brackets = [item._replace(identity=f"[{item.identity}]") for item in ITEMS]
    assert identities(split(brackets, test=("[an0]",)))["test"] == ["[an0]"]


def test_split_by_fraction_takes_the_last_identities():
    assert identities(split(fraction=0.2))["test"] == ["cy0", "cy1"]
    assert identities(split(fraction=0.01))["test"] == ["cy1"]
    assert identities(split(fraction=0.99))["train"] == ["an0"]
    parts = split(fraction=0.5)
    assert parts["train"] + parts["test"] == ITEMS


def test_split_by_mesh_is_random_and_repeatable():
    parts = split(split_by="mesh", fraction=0.25, seed=3)
    assert len(parts["test"]) == 3
    assert sorted(parts["train"] + parts["test"], key=ITEMS.index) == ITEMS
    assert parts == split(split_by="mesh", fraction=0.25, seed=3)
    assert parts != split(split_by="mesh", fraction=0.25, seed=4)


@pytest.mark.parametrize(
    ("items", "train", "test", "fraction", "by", "message"),
    [
        (ITEMS, ("an*",), ("*1",), 0.2, "identity", "identity an1 matches both"),
        (ITEMS, (), ("Cy*",), 0.2, "identity", "'Cy.', available .6.: an0, an1, bo0"),
        (ITEMS, ("*",), (), 0.2, "identity", "nothing is left for test: train gets all 6 identities, an0, an1"),
        (ITEMS, (), ("??0", "??1"), 0.2, "identity", "nothing is left for train: test gets all"),
        (ITEMS[:2], (), (), 0.2, "identity", r"train gets the only identity, an0; split by mesh instead"),
        (ITEMS[:1], (), (), 0.2, "mesh", r"train gets the only mesh, an0/0\.ply$"),
        (ITEMS, ("an*",), (), 0.2, "mesh", "an. cannot split by mesh"),
        (ITEMS, (), (), 1.5, "identity", r"fraction for test is 1\.5"),
    ],
)
def test_splits_that_cannot_be_are_refused(items, train, test, fraction, by, message):
    with pytest.raises(ValueError, match=message):
        split(items, train=train, test=test, fraction=fraction, split_by=by)
