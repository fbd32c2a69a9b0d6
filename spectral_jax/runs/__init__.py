"""Run folders: configuration, checkpoints, logs, provenance, single-file bundles, and evaluation.

`run` creates, trains and loads a run; `checkpoint` says what a checkpoint holds. `training` has the training itself.
"""
