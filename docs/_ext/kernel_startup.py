"""What the kernel of a tutorial does first: go where the demo is, and leave plotly's script to the page."""

import os

import plotly.io
from plotly.io.base_renderers import HtmlRenderer

os.chdir(os.environ["SPECTRAL_JAX_DOCS_DEMO"])
plotly.io.renderers["site"] = HtmlRenderer(include_plotlyjs=False, config={"responsive": True, "displaylogo": False})
plotly.io.renderers.default = "site"
