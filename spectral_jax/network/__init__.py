"""The networks as Flax modules, the codec that applies a trained one, and the linear one, PCA.

Modules and arrays only: how a network is trained is in `training`, where it is kept in `runs`.
"""
