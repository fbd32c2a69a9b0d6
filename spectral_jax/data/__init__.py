"""Prepared datasets: how to read them, how to write them, and the recipes that build them.

`open` opens any dataset; `recipes` has the options of all recipes. `training` makes batches.
"""
