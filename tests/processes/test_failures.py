"""A process of a group fails: all others say which and why, and nobody waits for ever."""

import random
import signal

import pytest

from tests.processes import ranks
from tests.processes.launch import both_kinds, built, run

ERROR = "FloatingPointError: rewards of environment 3 are nan"


@both_kinds
@pytest.mark.parametrize(("size", "rank"), [(3, 1), (2, 0)])
def test_an_exception_is_raised_in_all_with_its_own_words_and_traceback(kind, size, rank):
    outcomes = run(ranks.fail, size, "exception", rank, 3, kind=kind)
    assert (outcomes[rank].error, outcomes[rank].text) == tuple(ERROR.split(": "))
    for outcome in outcomes[:rank] + outcomes[rank + 1 :]:
        assert outcome.error == "RankFailedError"
        assert outcome.ranks == [rank]
        assert outcome.text.splitlines()[0] == f"rank {rank}: {ERROR}"
        assert "in raise_deep_down" in outcome.text
        assert outcome.seconds < 10


@pytest.mark.parametrize("how", ["KeyboardInterrupt", "SystemExit"])
def test_who_is_interrupted_or_leaves_has_failed(how):
    outcomes = run(ranks.fail, 2, how, 1, 1)
    assert outcomes[1].error == how
    assert outcomes[0].error == "RankFailedError"
    assert outcomes[0].text.startswith(f"rank 1: {how}")


@both_kinds
@pytest.mark.parametrize(("size", "rank"), [(3, 1), (2, 0)])
def test_a_process_that_is_killed_is_named(kind, size, rank):
    outcomes = run(ranks.fail, size, "SIGKILL", rank, 3, kind=kind)
    assert outcomes[rank].code == -signal.SIGKILL
    for outcome in outcomes[:rank] + outcomes[rank + 1 :]:
        assert outcome.error == "RankFailedError"
        assert outcome.ranks == [rank]
        assert outcome.text == f"rank {rank} is gone without a word: killed, or out of memory"
        assert outcome.seconds < 10


def test_where_no_process_sees_another_the_one_that_does_not_answer_is_named():
    outcomes = run(ranks.fail_without_seeing_processes, 3, "SIGKILL", 1, 3)
    for outcome in (outcomes[0], outcomes[2]):
        assert outcome.error == "RankFailedError"
        assert outcome.text == "rank 1 is gone without a word: killed, or out of memory"


@both_kinds
def test_a_process_that_leaves_is_gone(kind):
    outcomes = run(ranks.fail, 2, "leaves", 1, 1, kind=kind)
    assert outcomes[1].error is None
    assert outcomes[0].ranks == [1]


@pytest.mark.parametrize("kind", ["gloo", pytest.param("shared memory", marks=[built, pytest.mark.slow])])
def test_a_process_that_does_not_come_is_named_with_the_exchange_it_was_last_heard_at(kind):
    outcomes = run(ranks.fail, 3, "hangs", 2, 3, kind=kind, timeout=2.0)
    for outcome in outcomes[:2]:
        assert outcome.error == "RankFailedError"
        assert outcome.ranks == [2]
        assert outcome.text.startswith("rank 2 did not arrive at exchange")
        assert "rank 2 was last heard at exchange" in outcome.text
        assert 1.5 < outcome.seconds < 10
    assert outcomes[2].error == "RankFailedError"  # once it is awake


@both_kinds
def test_after_a_failure_the_group_is_of_no_use(kind):
    outcomes = run(ranks.fail_again, 2, kind=kind)
    assert outcomes[0].value.startswith(f"rank 1: {ERROR}")


@pytest.mark.parametrize("kind", ["gloo", pytest.param("shared memory", marks=[built, pytest.mark.slow])])
def test_who_fails_waits_until_the_others_have_heard_of_it(kind):
    outcomes = run(ranks.fail_before_others_come, 3, kind=kind)
    assert [outcome.error for outcome in outcomes] == ["RankFailedError", "FloatingPointError", "RankFailedError"]
    assert all(0.8 < outcome.seconds < 10 for outcome in outcomes)


@pytest.mark.slow
@both_kinds
def test_fifteen_kills_at_random_moments_are_all_named(kind):
    moments = random.Random(0)
    for _ in range(15):
        size = moments.choice([2, 3, 4])
        killed, seconds = moments.randrange(size), moments.uniform(0.001, 0.3)
        outcomes = run(ranks.exchange_until_killed, size, killed, seconds, kind=kind)
        assert outcomes[killed].code == -signal.SIGALRM
        for outcome in outcomes[:killed] + outcomes[killed + 1 :]:
            assert outcome.text == f"rank {killed} is gone without a word: killed, or out of memory", (
                seconds,
                outcomes,
            )
            assert outcome.seconds < 10
