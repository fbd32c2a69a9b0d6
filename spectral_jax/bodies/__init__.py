"""Bodies of the SMPL-H format and motions of the AMASS format, read or synthesised.

Here a pose becomes vertices. Choosing frames and writing them as a dataset is in `data`.
"""
