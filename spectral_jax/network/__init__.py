"""Networks as Flax modules, the codec that applies a trained one, and PCA as the linear baseline.

Modules and arrays only. `training` trains a network, and `runs` stores it.
"""
