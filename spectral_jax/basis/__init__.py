"""Laplacian eigenmodes of a connectivity: solvers, checks, alignment, file formats, projection and reconstruction.

`spectral` has the record and both products. What a network does with the coefficients is in `network`.
"""
