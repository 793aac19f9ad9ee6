"""Pages, notebooks and search, made of notes, docstrings and sources."""
