"""The report on a run as one HTML page: measurements, plots, and the document.

It reads a run and a dataset and writes one file. Only the command line imports it.
"""
