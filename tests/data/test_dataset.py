import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import bumpy_spheres, sphere_examples
from rounding import product_rounding

from spectral_jax.basis import spectral
from spectral_jax.bodies.smplh import demo_body_path, load_body
from spectral_jax.data import dataset, posed_bodies, writer
from spectral_jax.data.recipes import DemoRecipe


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    return posed_bodies.demo(DemoRecipe(out=tmp_path_factory.mktemp("demo") / "demo", modes=48))


def test_folder_round_trip_keeps_order_values_and_origin(sphere, sphere_basis, data_folder):
    data = dataset.open_prepared(data_folder)
    assert {name: len(records) for name, records in data.splits.items()} == {"train": 44, "test": 9}
    np.testing.assert_array_equal(data.basis.modes, np.asarray(sphere_basis.modes)[:, :32])
    for split, count, seed in (("train", 44, 1), ("test", 9, 2)):
        expected = list(sphere_examples(sphere, data.basis, count, seed, split == "test"))
        for example, wanted in zip(data.splits[split], expected, strict=True):
            np.testing.assert_array_equal(example.coefficients, wanted.coefficients)
            assert example[2:] == wanted[2:]
            assert (example.vertices is None) == (split == "train")
    np.testing.assert_array_equal(dataset.read_split(data, "test").vertices, bumpy_spheres(sphere, 9, 2))


def test_folder_is_self_contained(sphere, data_folder, tmp_path):
    from spectral_jax.geometry.mesh import read_mesh

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in data_folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    data = dataset.open_prepared(moved)
    assert data.metadata["counts"] == {"train": 44, "test": 9}
    assert data.metadata["identities"] == {"train": {"id1": 44}, "test": {"id2": 9}}
    np.testing.assert_array_equal(data.basis.faces, sphere.faces)
    np.testing.assert_array_equal(read_mesh(moved / "mesh.ply").faces, sphere.faces)


def test_fewer_modes_are_the_first_ones(data_folder):
    data = dataset.open_prepared(data_folder)
    np.testing.assert_array_equal(
        dataset.read_split(data, "train", 10).coefficients, dataset.read_split(data, "train").coefficients[:, :10]
    )


def test_records_are_read_by_index_alone(data_folder):
    records = dataset.open_prepared(data_folder).splits["test"]
    assert records[8].frame == 8
    with pytest.raises(IndexError, match="no mesh 9 in split test, which has 9"):
        records[9]


def test_tensorflow_is_never_imported(data_folder):
    code = (
        "import sys; from spectral_jax.data import dataset\n"
        f"dataset.read_split(dataset.open_prepared({str(data_folder)!r}), 'test')\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_existing_folder_is_replaced_only_on_request(sphere, sphere_basis, data_folder, tmp_path):
    def build(count, **options):
        splits = {"train": sphere_examples(sphere, sphere_basis, count, 1, False)}
        return writer.write(tmp_path / "out", sphere_basis, sphere, splits, {}, **options)

    build(3)
    with pytest.raises(ValueError, match="out exists already; --overwrite replaces it"):
        build(4)
    assert len(dataset.open_prepared(tmp_path / "out").splits["train"]) == 3
    build(5, overwrite=True)
    assert len(dataset.open_prepared(tmp_path / "out").splits["train"]) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_no_dataset_is_never_replaced(sphere, sphere_basis, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    splits = {"train": sphere_examples(sphere, sphere_basis, 3, 1, False)}
    with pytest.raises(ValueError, match=r"thesis is not a prepared dataset .*: not overwritten"):
        writer.write(tmp_path / "thesis", sphere_basis, sphere, splits, {}, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_build_leaves_nothing(sphere, sphere_basis, tmp_path, error):
    def examples():
        yield from sphere_examples(sphere, sphere_basis, 3, 1, False)
        raise error("stop")

    with pytest.raises(error):
        writer.write(tmp_path / "out", sphere_basis, sphere, {"train": examples()}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_empty_split_is_refused_by_name(sphere, sphere_basis, tmp_path):
    splits = {"train": sphere_examples(sphere, sphere_basis, 3, 1, False), "test": iter(())}
    with pytest.raises(ValueError, match="the test split would be empty"):
        writer.write(tmp_path / "out", sphere_basis, sphere, splits, {})


def copied(data_folder, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in data_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def rewrite_metadata(folder, **changes):
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**metadata, **changes}))


def foreign_class(folder):
    """TFDS would import its module."""
    path = folder / "features.json"
    path.write_text(path.read_text().replace("tensorflow_datasets.core.features.text_feature.Text", "antigravity.X"))


def truncate_records(folder):
    (path,) = folder.glob("*train.array_record*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: rewrite_metadata(f, schema=9), r"newer version \(schema 9, this version reads 1\)"),
        (lambda f: rewrite_metadata(f, counts={"train": 45}), "44 records in split train, metadata.json has 45"),
        (lambda f: (f / "metadata.json").write_text("{"), "metadata.json: not readable as JSON"),
        (lambda f: rewrite_metadata(f, counts=[3]), "metadata.json: not a dataset's metadata .counts is .3."),
        (lambda f: rewrite_metadata(f, identities={}), "metadata.json: .*no identities .*test"),
        (lambda f: rewrite_metadata(f, num_modes=31), "basis.npz: num_modes is 32, metadata.json has 31"),
        (lambda f: rewrite_metadata(f, connectivity="x"), "basis.npz: connectivity is .*, metadata.json has 'x'"),
        (foreign_class, "features.json: names the class 'antigravity.X'"),
        (lambda f: (f / "metadata.json").unlink(), r"not a prepared dataset \(metadata.json is missing\)"),
        (lambda f: (f / "basis.npz").unlink(), "no such basis file"),
        (lambda f: (f / "dataset_info.json").unlink(), "not a prepared dataset"),
        (truncate_records, "split train"),
    ],
)
def test_a_damaged_folder_is_refused_and_named(data_folder, tmp_path, damage, message):
    folder = copied(data_folder, tmp_path)
    damage(folder)
    with pytest.raises(ValueError, match=rf"damaged.*{message}"):
        dataset.read_split(dataset.open_prepared(folder), "train")


def test_values_that_are_not_finite_name_the_mesh(sphere, sphere_basis, tmp_path):
    examples = list(sphere_examples(sphere, sphere_basis, 3, 1, False))
    broken = examples[1].coefficients.copy()
    broken[5, 2] = np.nan
    examples[1] = examples[1]._replace(coefficients=broken)
    folder = writer.write(tmp_path / "out", sphere_basis, sphere, {"train": examples}, {})
    with pytest.raises(ValueError, match=r"mesh 1 of split train \(001.ply\) has values that are not finite"):
        dataset.read_split(dataset.open_prepared(folder), "train")


@pytest.mark.parametrize(
    ("split", "modes", "message"),
    [("vald", None, "no split 'vald', available: train, test"), ("test", 33, "33 modes .* 32")],
)
def test_what_is_not_there_is_refused(data_folder, split, modes, message):
    with pytest.raises(ValueError, match=message):
        dataset.read_split(dataset.open_prepared(data_folder), split, modes)


def test_demo_subjects_are_disjoint_and_meshes_enough(demo_folder):
    data = dataset.open_prepared(demo_folder)
    train, test = (data.metadata["identities"][name] for name in ("train", "test"))
    assert not train.keys() & test.keys()
    assert len(data.splits["train"]) >= 3000
    assert len(data.splits["test"]) >= 500
    assert data.basis.num_vertices == 1229


def test_demo_meshes_are_bodies_in_metres_with_the_pelvis_at_the_origin(demo_folder):
    data = dataset.open_prepared(demo_folder)
    body = load_body(demo_body_path())
    split = dataset.read_split(data, "test")
    heights = np.ptp(split.vertices[..., 1], axis=1)
    assert 0.7 < heights.min() < heights.max() < 2.6
    # the pelvis is a fixed combination of vertices in every pose only roughly: within a hand's breadth
    with np.load(demo_body_path(), allow_pickle=False) as file:
        pelvis = np.einsum("v,mvc->mc", file["J_regressor"][0], split.vertices)
    assert np.linalg.norm(pelvis, axis=-1).max() < 0.1
    tolerance = product_rounding(data.basis.modes.T, split.vertices[:5])
    np.testing.assert_allclose(spectral.project(data.basis, split.vertices[:5]), split.coefficients[:5], atol=tolerance)
    np.testing.assert_array_equal(data.basis.faces, body.faces)


@pytest.mark.slow
def test_same_seed_gives_the_same_records(demo_folder, tmp_path):
    again = posed_bodies.demo(DemoRecipe(out=tmp_path / "again", modes=48))
    for path in demo_folder.iterdir():
        if "array_record" in path.name or path.name in ("basis.npz", "metadata.json"):
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name
