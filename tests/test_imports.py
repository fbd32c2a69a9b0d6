"""The architecture: folders import downwards only, modules form no circle, and none exceeds 350 lines."""

import ast
import re

import pytest
from helpers import DOCUMENTS, ROOT

PACKAGE = ROOT / "spectral_jax"
# From top to bottom; folders on one line do not import each other. docs/development/architecture.md draws the same.
ORDER = [
    ["__main__"],
    ["cli", "commands"],
    ["viewer", "report", "pytorch"],
    ["runs"],
    ["training", "paths", "fitting"],
    ["data"],
    ["bodies", "network"],
    ["basis"],
    ["geometry"],
    ["files"],
    ["extras", "__init__"],
]
LEVEL = {folder: len(ORDER) - i for i, line in enumerate(ORDER) for folder in line}
MOST_LINES = 350


def modules():
    """Each module's path and dotted name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, names):
    """The package's modules that a module imports, wherever in it, except for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in names else node.module


def folder(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


NAMES = {name for _, name in modules()}
GRAPH = {name: set(imported(path, NAMES)) for path, name in modules()}


def test_imports_point_downwards():
    upward = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if folder(name) != folder(other)
        and LEVEL[folder(other)] >= LEVEL[folder(name)]
        and {folder(name), folder(other)} != {"cli", "commands"}
    ]
    assert upward == []


def test_no_module_imports_itself_by_a_circle():
    left = {name: set(others) for name, others in GRAPH.items()}
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert left == {}


def test_modules_are_short():
    long = {name: lines for path, name in modules() if (lines := len(path.read_text().splitlines())) > MOST_LINES}
    assert long == {}


def test_every_folder_says_what_lives_there():
    silent = [
        f.name
        for f in PACKAGE.iterdir()
        if (f / "__init__.py").exists() and not ast.get_docstring(ast.parse((f / "__init__.py").read_text()))
    ]
    assert silent == []


def test_tests_mirror_the_folders():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_the_architecture_page_draws_these_folders():
    page = (ROOT / "docs" / "development" / "architecture.md").read_text(encoding="utf-8")
    drawing = page.split("```")[1].strip().splitlines()
    assert [line.split("   ")[0].split() for line in drawing] == ORDER


@pytest.mark.parametrize("page", DOCUMENTS)
def test_documents_name_modules_that_exist(page):
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / page).read_text(encoding="utf-8"))
    missing = {name for name in named if not any((root / name).exists() for root in (ROOT, PACKAGE, ROOT / "tests"))}
    assert missing == set()
