"""One torch thread (two would change the last bit of a sum), hypothesis without a clock, and another processor's paths.

``TEST_LSTM_LEVEL=plain`` or ``avx2`` has our LSTM use no newer instructions than that, ``none`` does without it; PyTorch has
its own such variables.
"""

import os

import gymnasium as gym
import hypothesis
import pytest
import torch as th

from sb3_ppo_notes.kernels import lstm
from sb3_ppo_notes.kernels.compiled import path_of

hypothesis.settings.register_profile("notes", max_examples=60, derandomize=True, deadline=None)
hypothesis.settings.load_profile("notes")


@pytest.fixture(autouse=True)
def one_thread():
    th.set_num_threads(1)


@pytest.fixture(autouse=True)
def checked_distributions():
    """Importing skrl switches the checks of PyTorch's distributions off for everybody."""
    th.distributions.Distribution.set_default_validate_args(True)


#: Where Gymnasium's class stands by name, and rl_zoo3 puts another one, for everybody, when it is imported.
TIME_LIMITS = (gym.wrappers, gym.wrappers.common, gym.envs.registration)
TIME_LIMIT = gym.wrappers.TimeLimit


@pytest.fixture(autouse=True)
def gymnasiums_own_time_limit():
    for module in TIME_LIMITS:
        module.TimeLimit = TIME_LIMIT


def pytest_configure():
    level = os.environ.get("TEST_LSTM_LEVEL")
    if level == "none":
        lstm.LIBRARY = None
    elif level is not None and lstm.LIBRARY is not None:
        lstm.LIBRARY = lstm.Library(path_of("kernels._lstm"), ("plain", "avx2").index(level))


def pytest_report_header():
    return f"LSTM: {lstm.in_use()}, PyTorch: {th.backends.cpu.get_cpu_capability()}"
