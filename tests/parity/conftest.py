"""Short runs, in which the lists of operations (``algorithms.scripted_steps``, ``scripted_acting``) shall be in use for most of the way."""

import pytest

from sb3_ppo_notes.algorithms import scripted_acting, scripted_steps


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(scripted_steps, "WAIT", 2)
    monkeypatch.setattr(scripted_acting, "WAIT", 2)
