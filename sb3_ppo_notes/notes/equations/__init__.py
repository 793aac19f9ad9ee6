"""Equations of docstrings: read, compared with their functions, drawn."""
