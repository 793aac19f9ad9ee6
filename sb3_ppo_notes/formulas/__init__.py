"""What PPO and A2C compute: pure functions, one formula each, on NumPy arrays and torch tensors only.

Rollouts are time-major ``[T, B]`` (``T`` steps of ``B`` environments), minibatches are ``[N]``. Formulas are
element-wise: they return ``[T, B]`` or ``[N]`` and the update takes the mean, so that padding and weights stay the
caller's affair.

Above each function stands its equation, in a notation that a test reads and compares with the function at random inputs
(``sb3_ppo_notes/notes/equations/``). A sum reaches to the end of its bracket, or of the line where it has none; ``←``
gives a new value to the name of the old one; γλ is a product, V(s) and π(a|s) are none.
"""
