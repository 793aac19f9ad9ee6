"""What PPO and A2C compute: pure functions, one formula each, on NumPy arrays and torch tensors only.

Rollouts are time-major ``[T, B]`` (``T`` steps of ``B`` environments), minibatches are ``[N]``. Formulas are
element-wise: they return ``[T, B]`` or ``[N]`` and the update takes the mean, so that padding and weights stay the
caller's affair.
"""
