"""``bench``: how fast ours and the peers train on this machine."""
