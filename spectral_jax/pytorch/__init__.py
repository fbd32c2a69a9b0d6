"""The bridge to the PyTorch system: names of weights, Lightning checkpoints, a reference module, verification.

Reading a .pth file without torch is in `files`; the layouts of published datasets are in `data`.
"""
