"""Training as pure functions: batches, the step, the learning-rate rules, and the loop that yields its progress.

`batches` makes batches, `step` is one step, `schedule` has the learning-rate rules. `runs` writes the files.
"""
