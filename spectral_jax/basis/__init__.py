"""Laplacian eigenmodes of a connectivity: computed, checked, aligned, saved; projection and reconstruction.

`spectral` has the record and the two products. What a network does with coefficients is in `network`.
"""
