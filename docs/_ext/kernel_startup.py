"""What the kernel of a page does first: go where the demo is, and draw figures for a light or a dark page."""

import os

import plotly.io
from plotly.io.base_renderers import MimetypeRenderer

os.chdir(os.environ["SPECTRAL_JAX_DOCS_DEMO"])
os.environ |= {"TERM": "dumb", "COLUMNS": "90"}  # for commands: no moving bars, no colours


class Renderer(MimetypeRenderer):
    """Figures without any script of their own, from here or from elsewhere."""

    def to_mimebundle(self, fig_dict):
        config = {"responsive": True, "displaylogo": False}
        options = {"include_plotlyjs": False, "include_mathjax": False, "full_html": False, "auto_play": False}
        return {"text/html": plotly.io.to_html(fig_dict, config, **options)}


plotly.io.renderers["site"] = Renderer()
plotly.io.renderers.default = "site"
axis = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "automargin": True}
plotly.io.templates["site"] = {
    "layout": {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": ["#3b7dd8", "#d9822b", "#2a9d6f", "#a05cc8"],
        "xaxis": axis,
        "yaxis": axis,
        "height": 380,
        "margin": {"l": 8, "r": 8, "t": 30, "b": 8},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
}
plotly.io.templates.default = "site"
