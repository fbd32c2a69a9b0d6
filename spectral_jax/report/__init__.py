"""The report of a run as one HTML page: what is measured, the plots, and the document.

It reads runs and datasets and writes one file; nothing else imports it but the command line.
"""
