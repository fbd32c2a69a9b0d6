"""Prepared datasets: how to read them, how to write them, and the recipes that build them.

`dataset` opens a prepared folder, `pytorch_layouts` opens those of the PyTorch code. `training` makes batches.
"""
