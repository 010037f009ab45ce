"""The public functions, one package for each command.

The package itself holds the function, whose signature and docstring also make the command line; it
imports nothing heavy before it is called. `core` holds the steps and the type of the result.
"""
