"""The documents: every relative link and anchor in them resolves, and the README stays short."""

import re

import pytest
from helpers import DOCUMENTS, ROOT

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
