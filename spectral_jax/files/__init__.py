"""Files read and written safely: JSON, .npy, .npz and PyTorch archives, atomic writes, locks, and progress.

Nothing here knows about meshes or networks, and nothing executes what a file contains.
"""
