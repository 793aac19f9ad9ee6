"""``visualize``: videos of a trained run."""
