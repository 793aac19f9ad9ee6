"""Part IV, KL: how far a policy has moved."""
