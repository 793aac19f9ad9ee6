"""Note 29 starts processes; not every machine lets it."""

import socket

import pytest
import torch as th

from sb3_ppo_notes.notes import NOTES
from sb3_ppo_notes.notes.machinery import n29_many_learners as note


def test_it_has_started_two_processes():
    result = NOTES["many-learners"].run()
    assert len(result.differences) == note.N_PROCESSES
    assert result.two.startswith("Two processes have just trained one model on this machine")


def refused(*arguments, **settings):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("missing", ["sockets", "semaphores"])
def test_where_none_can_be_started_it_says_so_and_claims_nothing_of_them(missing, monkeypatch):
    if missing == "sockets":
        monkeypatch.setattr(socket, "create_server", refused)
    else:
        monkeypatch.setattr(note, "ProcessPoolExecutor", refused)
    two, said = note._two_processes(0)
    assert two == []
    assert "could be started" in said
    assert "Operation not permitted" in said
    result = NOTES["many-learners"].run()
    alone = result._replace(two=said, differences=[], steps_taken=result.steps_taken[:1])
    assert said in NOTES["many-learners"].answer(alone)
    sentences = {claim.sentence for claim in note.claims(result)}
    left = [claim for claim in note.claims(alone)]
    assert all(claim.holds for claim in left)
    assert len(sentences - {claim.sentence for claim in left}) == 2


@pytest.mark.slow
def test_where_a_fork_would_break_a_gpu_it_spawns(monkeypatch):
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    two, said = note._two_processes(0)
    assert len(two) == note.N_PROCESSES, said
    one = note._train(note.Alone(), 0)
    assert all((each.weights == one.weights).all() for each in two)
