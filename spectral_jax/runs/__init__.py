"""Run folders: configuration, checkpoints, logs, provenance, single-file bundles, and evaluation.

`run` creates, trains and loads one; `checkpoint` says what a checkpoint holds. The training itself is in `training`.
"""
