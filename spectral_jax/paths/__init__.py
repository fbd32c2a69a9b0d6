"""Paths between meshes through a latent space: straight, spherical, geodesic, and measures of them.

Pure functions over arrays; the command line that writes them to files is in `commands`.
"""
