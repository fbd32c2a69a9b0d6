"""Training as pure functions: batches, the step, the learning-rate rule, and the loop that yields progress.

Nothing here writes a file: checkpoints and logs are in `runs`.
"""
