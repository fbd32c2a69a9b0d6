"""Run folders: configuration, checkpoints, logs, provenance, evaluation, files of latents, exports.

`run` creates, trains and loads a run; `checkpoint` says what a checkpoint holds. `training` has the training itself.
`bundle`, `onnx_export` and `shapes` write a run as one file; `pretrained` reads the network that the package brings.
"""
