import os
import re
import subprocess
import sys
import zipfile

import pytest
import yaml
from helpers import ROOT

import spectral_jax

HEAVY = "flax optax orbax tensorflow_datasets tensorflow grain viser torch trimesh body_models scipy sklearn"


def loaded_by(module, packages):
    code = f"import sys, {module}; print([n for n in {packages.split()} if n in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    assert loaded_by("spectral_jax", HEAVY) == "[]"


def test_help_waits_for_nothing_heavy():
    assert loaded_by("spectral_jax.cli", f"jax {HEAVY}") == "[]"


def test_public_names_resolve():
    import spectral_jax as sj

    for name in sj.__all__:
        assert getattr(sj, name).__doc__, name
        assert name in dir(sj)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        sj.nonsense  # noqa: B018


def test_the_citation_names_this_version_and_the_article_of_the_notice():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == spectral_jax.__version__
    (article,) = citation["references"]
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    for text in (
        article["doi"],
        article["title"],
        article["journal"],
        *(a["family-names"] for a in article["authors"]),
    ):
        assert text in notice


def test_versions_in_the_changelog_have_their_dates():
    """But for the one that is being worked on."""
    headings = re.findall("^## (.*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(f"{spectral_jax.__version__} (")
    assert [h for h in headings[1:] if not re.fullmatch(r"\d+\.\d+\.\d+ \((\d{4}-\d\d-\d\d|unreleased)\)", h)] == []


@pytest.mark.parametrize("name", ["tests", "docs", "release"])
def test_workflows_may_do_no_more_than_they_need(name):
    """They read the code; only the job that publishes gets a token, and it runs none of this repository's code."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert all(
            re.fullmatch(r"[\w./-]+@(v\d+|release/v\d+|[0-9a-f]{40})", s["uses"]) for s in job["steps"] if "uses" in s
        )
        assert "permissions" not in job or not any("run" in step for step in job["steps"])


def test_wheel_holds_the_assets_and_works_outside_the_checkout(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    tracked = ["setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]
    tracked += [str(p.relative_to(ROOT)) for p in ROOT.glob("spectral_jax/**/*") if p.is_file() and p.suffix != ".pyc"]
    for name in tracked:  # a copy: building in the checkout would leave files in it
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        source,
    ]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    code = (
        "import spectral_jax; from spectral_jax.bodies.smplh import demo_body_path, load_body\n"
        "from spectral_jax.cli import main\n"
        "print(spectral_jax.__file__, load_body(demo_body_path(1229)).num_vertices, demo_body_path(12272).exists())\n"
        "raise SystemExit(main(['--help']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.startswith(f"{tmp_path / 'site' / 'spectral_jax' / '__init__.py'} 1229 True")
    assert (tmp_path / "site" / "spectral_jax" / "assets" / "demo_network.npz").is_file()
    assert [*(tmp_path / "site").glob("*.dist-info/licenses/spectral_jax/assets/LICENSE-CC0.txt")]
