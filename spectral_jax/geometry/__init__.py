"""Triangle meshes: the record, files of single meshes and of sequences, pictures, errors in millimetres.

Nothing here knows about modes; they are in `basis`.
"""
