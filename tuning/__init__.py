"""Tuning of NotesPPO and NotesA2C: finds configurations that hold up. ``python tuning/study.py --help``."""
