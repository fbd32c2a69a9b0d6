"""The writer of prepared datasets: what it keeps of an interrupted build, and what it refuses."""

import contextlib

import numpy as np
import pytest
from helpers import contents

from spectral_jax.basis import spectral
from spectral_jax.data import dataset, writer
from spectral_jax.data.dataset import Example
from spectral_jax.data.writer import Skipped, Source


def examples(basis, count=12):
    rng = np.random.default_rng(0)
    for i in range(count):
        coefficients = rng.normal(size=(basis.num_modes, 3)).astype(np.float32)
        yield i // 2, Example(coefficients, None, f"id{i // 4}", "Random", f"{i // 2}.npz", i % 2, "")


class Spied:
    """A source of six items of two meshes that raises at a mesh, and remembers where it was read from."""

    def __init__(self, basis, stop=None, error=KeyboardInterrupt):
        self.basis, self.stop, self.error, self.starts = basis, stop, error, []

    def read(self, start):
        self.starts.append(start)
        for i, (item, example) in enumerate(examples(self.basis)):
            if i == self.stop:
                raise self.error
            if item >= start:
                yield item, example

    def __call__(self, version="1", names="abcdef"):
        return Source(list(names), self.read, version)


def test_ctrl_c_keeps_finished_parts_and_says_so(sphere, kept, tmp_path, small_parts):
    stopped, going_on, whole = Spied(kept, 9), Spied(kept), Spied(kept)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        writer.write(tmp_path / "out", kept, sphere, {"train": stopped()}, {})
    assert interrupt.value.__notes__ == ["8 meshes are kept: the same command resumes from there"]
    assert not (tmp_path / "out").exists()
    writer.write(tmp_path / "out", kept, sphere, {"train": going_on()}, {})
    assert (stopped.starts, going_on.starts) == ([0], [4])
    writer.write(tmp_path / "whole", kept, sphere, {"train": whole()}, {})
    assert contents(tmp_path / "whole") == contents(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole"}
    for found, (_, wanted) in zip(dataset.open_prepared(tmp_path / "out").splits["train"], examples(kept), strict=True):
        np.testing.assert_array_equal(found.coefficients, wanted.coefficients)
        assert found[2:] == wanted[2:]


def test_a_build_may_be_cut_short_again_and_again(sphere, kept, tmp_path, small_parts):
    starts = []
    for stop in (5, 6, 9, 11, None):
        source = Spied(kept, stop)
        with contextlib.suppress(KeyboardInterrupt):
            writer.write(tmp_path / "out", kept, sphere, {"train": source()}, {})
        starts += source.starts
    assert starts == [0, 2, 2, 4, 4]
    writer.write(tmp_path / "whole", kept, sphere, {"train": Spied(kept)()}, {})
    assert contents(tmp_path / "whole") == contents(tmp_path / "out")


@pytest.mark.parametrize("change", ["version", "names", "options", "modes", "splits"])
def test_another_build_starts_from_nothing(sphere, kept, sphere_basis, tmp_path, small_parts, change):
    with pytest.raises(KeyboardInterrupt):
        writer.write(tmp_path / "out", kept, sphere, {"train": Spied(kept, 9)()}, {"scale": 1})
    basis = spectral.truncate(sphere_basis, 9) if change == "modes" else kept
    train, test = Spied(basis), Spied(basis)
    splits = {"train": train("2") if change == "version" else train("1", "abcdeg" if change == "names" else "abcdef")}
    splits |= {"test": test()} if change == "splits" else {}
    writer.write(tmp_path / "out", basis, sphere, splits, {"scale": 2 if change == "options" else 1})
    assert train.starts == [0]
    assert dataset.open_prepared(tmp_path / "out").metadata["counts"]["train"] == 12
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize(
    ("stop", "error", "version"),
    [
        (2, KeyboardInterrupt, "1"),  # no part is finished
        (9, ValueError, "1"),  # what is read is wrong, and must change
        (9, KeyboardInterrupt, ""),  # nobody knows whether it will be the same again
    ],
)
def test_what_cannot_go_on_leaves_nothing(sphere, kept, tmp_path, small_parts, stop, error, version):
    with pytest.raises(error) as raised:
        writer.write(tmp_path / "out", kept, sphere, {"train": Spied(kept, stop, error)(version)}, {})
    assert not hasattr(raised.value, "__notes__")
    assert list(tmp_path.iterdir()) == []


def test_a_cut_short_overwrite_leaves_the_old_dataset(sphere, kept, tmp_path, small_parts):
    out = writer.write(tmp_path / "out", kept, sphere, {"train": Spied(kept)()}, {"scale": 1})
    before = contents(out)
    with pytest.raises(KeyboardInterrupt):
        writer.write(out, kept, sphere, {"train": Spied(kept, 9)()}, {"scale": 2}, overwrite=True)
    assert contents(out) == before
    writer.write(out, kept, sphere, {"train": Spied(kept)()}, {"scale": 2}, overwrite=True)
    assert dataset.open_prepared(out).metadata["source"] == {"scale": 2}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_split_of_skipped_files_alone_is_refused_with_the_first_reason(sphere, kept, tmp_path):
    source = Source(["a", "b"], lambda start: [(0, Skipped("a: torn")), (1, Skipped("b: torn"))], "1")
    with pytest.raises(ValueError, match="the train split would be empty, a: torn"):
        writer.write(tmp_path / "out", kept, sphere, {"train": source}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_last_part_of_skipped_files_alone_is_no_shard(sphere, kept, tmp_path, small_parts):
    def read(start):
        yield from ((item, example) for item, example in examples(kept, 4))
        yield 2, Skipped("c: torn")

    out = writer.write(tmp_path / "out", kept, sphere, {"train": Source(["a", "b", "c"], read, "1")}, {})
    data = dataset.open_prepared(out)
    assert len(data.splits["train"]) == 4
    assert data.metadata["skipped"] == {"train": ["c: torn"]}
