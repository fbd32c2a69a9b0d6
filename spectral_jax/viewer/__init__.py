"""Interactive viewers of a run: the scene both share, one in the browser, one on the desktop.

`scene` is arrays and choices without a window; `web` and `panel` use viser, `polyscope` uses Polyscope.
"""
