"""Give pages with plotly figures plotly's script: one local file for the whole site, loaded where it is needed."""

from pathlib import Path

from plotly.offline import get_plotlyjs

SCRIPT = "_static/plotly.min.js"


def add_script(app, pagename, templatename, context, doctree):
    """Load the script in the head of a page that has a figure, as the figures' own scripts in the body need it."""
    if "plotly-graph-div" in context.get("body", ""):
        context["metatags"] = f'{context.get("metatags", "")}<script src="{context["pathto"](SCRIPT, 1)}"></script>'


def write_script(app, error):
    """Copy the script out of the installed package."""
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / SCRIPT).write_text(get_plotlyjs(), encoding="utf-8")


def setup(app):
    app.connect("html-page-context", add_script)
    app.connect("build-finished", write_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
