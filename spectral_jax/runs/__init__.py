"""Run folders: configuration, checkpoints, logs, provenance, evaluation, files of latents, single-file bundles.

`run` creates, trains and loads a run; `checkpoint` says what a checkpoint holds. `training` has the training itself.
"""
