"""Exported files: how to write them, how to read their outputs, and a runtime without torch."""
