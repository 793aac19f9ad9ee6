"""Random rollouts and minibatches for hypothesis."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

# Multiples of 1/64: exact in float32, and never so small that doubling loses bits.
MODERATE = st.integers(-640, 640).map(lambda number: number / 64)


@st.composite
def rollouts(draw, max_steps=12, max_envs=3):
    """rewards, values, last_values, episode_starts, dones; episodes may end anywhere, first and last step included."""
    shape = (draw(st.integers(1, max_steps)), draw(st.integers(1, max_envs)))
    rewards = draw(hnp.arrays(np.float32, shape, elements=MODERATE))
    values = draw(hnp.arrays(np.float32, shape, elements=MODERATE))
    last_values = draw(hnp.arrays(np.float32, shape[1], elements=MODERATE))
    episode_starts = draw(hnp.arrays(np.bool_, shape)).astype(np.float32)
    dones = draw(hnp.arrays(np.bool_, shape[1]))
    return rewards, values, last_values, episode_starts, dones


fractions = st.integers(0, 1000).map(lambda number: number / 1000)


def float_vectors(size, low=-10.0, high=10.0):
    """float32 vectors of a fixed length; nothing so small that half of it loses a bit (the gradient of a tie is halved)."""
    elements = st.floats(low, high, width=32).map(lambda number: number if abs(number) >= 1e-30 else 0.0)
    return hnp.arrays(np.float32, size, elements=elements)
