"""What the kernel of a page does first: go where the demo is, and draw figures for a light or a dark page."""

import os

import plotly.io
from plotly.io.base_renderers import HtmlRenderer

os.chdir(os.environ["SPECTRAL_JAX_DOCS_DEMO"])
plotly.io.renderers["site"] = HtmlRenderer(include_plotlyjs=False, config={"responsive": True, "displaylogo": False})
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
