"""The documentation site: `make docs` builds it into docs/_build/html, and runs the tutorials on the way."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import spectral_jax

HERE = Path(__file__).parent
BUILD = HERE / "_build"
sys.path.insert(0, str(HERE / "_ext"))

project = "spectral_jax"
version = release = spectral_jax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "commands", "plotly_pages"]
exclude_patterns = ["_build", "_ext"]
highlight_language = "text"

myst_heading_anchors = 4

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
default_role = "literal"  # docstrings put code between single backticks

html_theme = "furo"
html_title = "spectral_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_edit_link": "", "top_of_page_buttons": []}
html_copy_source = html_show_sourcelink = False

# Tutorials run where `make demo` has left data/demo and runs/demo-residual, as a reader's do.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
DEMO = BUILD / "demo"
os.environ["SPECTRAL_JAX_DOCS_DEMO"] = str(DEMO)
os.environ["IPYTHONDIR"] = str(BUILD / "ipython")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def make_demo(app):
    """The dataset and the run that the tutorials share, made once: those of `spectral-jax demo`."""
    startup = BUILD / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "_ext" / "kernel_startup.py", startup)
    for left in ("scans", "data/scans", "runs/scans", "runs/theirs", "tiny"):  # by an earlier build
        shutil.rmtree(DEMO / left, ignore_errors=True)
    shutil.copytree(HERE.parent / "tests" / "tiny", DEMO / "tiny")
    DEMO.mkdir(parents=True, exist_ok=True)
    for command in (
        "dataset demo",
        "train --data data/demo --run runs/demo-residual --network residual --mirror --hidden-size 512 --pictures 0",
    ):
        made = "data/demo/metadata.json" if command == "dataset demo" else "runs/demo-residual/best"
        if not (DEMO / made).exists():
            subprocess.run([sys.executable, "-m", "spectral_jax.cli", *command.split()], cwd=DEMO, check=True)


def literal_docstrings(app, what, name, obj, options, lines):
    """Keep characters with a meaning in reStructuredText as they are; code between backticks is the only markup."""
    for i, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[i] = "`".join(parts)


def hide_bare_fields(app, what, name, obj, skip, options):
    """Leave out the fields of a NamedTuple that nothing is said about."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app):
    app.connect("autodoc-process-docstring", literal_docstrings, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", hide_bare_fields)
    app.connect("builder-inited", make_demo)
