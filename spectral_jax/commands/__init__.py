"""The command line: one module per group of commands, one record per command.

A command parses options, calls a folder below and prints the result. It holds no algorithm of its own.
"""
