"""One torch thread (two would change the last bit of a sum), and hypothesis without a clock."""

import hypothesis
import pytest
import torch as th

hypothesis.settings.register_profile("notes", max_examples=60, derandomize=True, deadline=None)
hypothesis.settings.load_profile("notes")


@pytest.fixture(autouse=True)
def one_thread():
    th.set_num_threads(1)
