"""The verbs of ``tuning/study.py``."""
