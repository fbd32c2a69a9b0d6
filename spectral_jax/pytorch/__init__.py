"""Conversion to and from the PyTorch system: names of weights, Lightning checkpoints, a reference, verification.

`files` reads .pth archives without torch, and `data` opens the layouts of published datasets.
"""
