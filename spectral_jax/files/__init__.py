"""Safe reading and writing of files: JSON, .npy, .npz and PyTorch archives; atomic writes, locks, and progress.

Nothing here knows about meshes or networks, and nothing executes the contents of a file.
"""
