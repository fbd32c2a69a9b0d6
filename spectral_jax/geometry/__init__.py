"""The triangle mesh: its record, files of single meshes and of sequences, pictures, and errors in millimetres.

Nothing here knows about modes; those are in `basis`.
"""
