"""Part V, entropy: how undecided a policy is."""
