"""``compare``: stock SB3, ours and others side by side, with the same seeds."""
