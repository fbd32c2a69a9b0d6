"""Interactive viewers of a run: a scene that both share, one viewer in the browser and one on the desktop.

`scene` holds arrays and choices but no window. `web` and `panel` use viser, `polyscope` uses Polyscope.
"""
