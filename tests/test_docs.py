"""The documents: every relative link and anchor in them resolves, and the README stays short."""

import re
import subprocess
import sys

import pytest
from helpers import DOCUMENTS, ROOT

import spectral_jax

LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(path):
    """A document without its code."""
    text = re.sub(r"(?ms)^```.*?^```|^    .*?$", "", path.read_text(encoding="utf-8"))
    return re.sub(r"`[^`]*`", lambda code: "x" * len(code[0]), text)


def anchors(path):
    """The anchors of a document's headings, as GitHub and MyST make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", path.read_text(encoding="utf-8"))
    return {"", *(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)}


@pytest.mark.parametrize("page", DOCUMENTS)
def test_relative_links_and_anchors_resolve(page):
    path, lost = ROOT / page, []
    for link in LINK.findall(prose(path)):
        if re.match("[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        if not target.exists() or (target.suffix == ".md" and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    documented = re.findall(r"(?m)^\.\. auto\w+:: (\w+)$", page)
    assert sorted(documented) == sorted(spectral_jax.__all__)


def test_a_site_with_mistakes_is_refused(tmp_path):
    def check():
        command = [sys.executable, ROOT / "tools" / "check_site.py", tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr.split("\n")

    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1> <a href="b.html#there">b</a> <a href="https://example.org">x</a>'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p> <a href="a.html#top">a</a> <img src="data:image/png;base64,">')
    assert check() == (0, [""])
    (tmp_path / "b.html").write_text(
        '<a href="a.html#gone">a</a> <a href="c.html">c</a> <script src="//example.org/x.js">'
    )
    code, lines = check()
    assert code == 1
    told = zip(("#there", "//example.org/x.js", "#gone", "c.html"), lines[:-1], strict=True)
    assert all(words in line for words, line in told)
