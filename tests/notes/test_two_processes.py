"""Note 29 starts processes; not every machine lets it."""

import socket

import numpy as np
import pytest
import torch as th

from sb3_ppo_notes.notes import NOTES, two_processes
from sb3_ppo_notes.processes import Alone

NOTE = NOTES["many-learners"]


def test_two_processes_were_started():
    result = NOTE.run()
    assert len(result.differences) == 2
    assert "Two processes have just trained one model on this machine" in NOTE.answer(result)


def refused(*arguments, **settings):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("missing", ["socket.create_server", "two_processes.ProcessPoolExecutor"])
def test_where_none_can_be_started_it_says_so_and_claims_nothing_of_them(missing, monkeypatch):
    module, name = missing.split(".")
    monkeypatch.setattr({"socket": socket, "two_processes": two_processes}[module], name, refused)
    result = NOTE.module.experiment(0)
    assert "no two processes could be started" in NOTE.answer(result)
    assert "Operation not permitted" in NOTE.answer(result)
    claims = list(NOTE.module.claims(result))
    assert all(claim.holds for claim in claims)
    assert len(NOTE.claims()) - len(claims) == 2


@pytest.mark.slow
def test_where_a_gpu_would_not_survive_a_fork_they_are_spawned(monkeypatch):
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    two, why_none = two_processes.train_in_two_processes(0)
    assert len(two) == 2, why_none
    one = two_processes.train(Alone(), 0)
    for each in two:
        np.testing.assert_array_equal(each.weights, one.weights)
        np.testing.assert_array_equal(np.concatenate(each.updates), np.concatenate(one.updates))
