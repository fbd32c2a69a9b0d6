"""The command line, a module for each group of commands: options become records, records become calls.

What a command does is in the folders below; here it is parsed, called and printed.
"""
