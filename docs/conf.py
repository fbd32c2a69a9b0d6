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
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton", "commands", "plotly_pages"]
exclude_patterns = ["_build", "_ext"]
highlight_language = "text"

myst_heading_anchors = 4

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
default_role = "literal"  # docstrings put code between single backticks

html_theme = "furo"
html_title = "spectral_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_edit_link": "", "top_of_page_buttons": []}
html_copy_source = html_show_sourcelink = html_show_copyright = html_show_sphinx = False

# Tutorials run where `make demo` has left data/demo and runs/demo-residual, as a reader's do.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
DEMO = BUILD / "demo"
DEMO_COMMANDS = {
    "data/demo": "dataset demo",
    "runs/demo-residual/best": "train --data data/demo --run runs/demo-residual --network residual --mirror "
    "--hidden-size 512 --pictures 0 --overwrite",
}
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
    for made, command in DEMO_COMMANDS.items():
        if not (DEMO / made).exists():
            subprocess.run([sys.executable, "-m", "spectral_jax", *command.split()], cwd=DEMO, check=True)


def literal_docstrings(app, what, name, obj, options, lines):
    """Make reStructuredText of a docstring, whose markup is code between backticks and lists under "Attributes:"."""
    listed = False
    for i, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[i] = "`".join(parts)
        listed = line == "Attributes:" or (listed and line.startswith(" "))
        if line == "Attributes:":
            lines[i] = ""
        elif listed:
            lines[i] = re.sub(r"^  ([\w, ]+): ", r":\1: ", lines[i])


def short_types(app, what, name, obj, options, signature, returned):
    """Write jax.Array as such, not as the module that defines it."""
    return tuple(part and part.replace("jaxlib._jax.Array", "jax.Array") for part in (signature, returned))


def hide_bare_fields(app, what, name, obj, skip, options):
    """Leave out the fields of a NamedTuple that nothing is said about."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app):
    app.connect("autodoc-process-docstring", literal_docstrings)
    app.connect("autodoc-process-signature", short_types)
    app.connect("autodoc-skip-member", hide_bare_fields)
    app.connect("builder-inited", make_demo)
