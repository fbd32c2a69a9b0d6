"""Prepared datasets: how they are read, how they are written, and the recipes that make them.

`dataset` opens one, `pytorch_layouts` opens those of the PyTorch code. Batches are made in `training`.
"""
