"""The version of the package, apart so that any module can read it without importing the public functions."""

__version__ = "0.1.0"
