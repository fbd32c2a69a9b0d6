"""Bodies in SMPL-H format and motion in AMASS format, read from files or synthesised.

A pose becomes vertices here. `data` chooses frames and writes them as a dataset.
"""
