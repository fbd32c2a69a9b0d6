"""Fitting a trained network to scans: the points of a surface in any pose, of any connectivity, noisy and incomplete.

Functions over arrays. `geometry` reads scans, and `runs` opens the network and writes what was fitted.
"""
