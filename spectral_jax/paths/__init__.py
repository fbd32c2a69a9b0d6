"""Paths between meshes (straight, spherical, geodesic), band filters, random samples, and measures of a path.

Pure functions over arrays. `commands` writes their results to files.
"""
