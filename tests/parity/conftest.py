"""Short runs, in which recorded operations (``engine.recorded``) shall be in use for most of the way."""

import pytest

from sb3_ppo_notes.engine import recorded


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(recorded, "WAIT", 2)
