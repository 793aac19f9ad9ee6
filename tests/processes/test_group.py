"""A group of processes: the same numbers in all, by sockets and by memory, bit for bit."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch as th
import torch.distributed as dist

from sb3_ppo_notes.processes import Alone, ProcessesDivergedError, check_equal, join_group, shared_memory
from sb3_ppo_notes.processes.distributed import _meet
from sb3_ppo_notes.processes.group import KIND, VARIABLES
from tests.processes import ranks
from tests.processes.launch import both_kinds, built, run, values

LENGTHS = [1, 7, 9155, 200_000, 3, 500_000, 9155]


def expected_vectors(size):
    generators = [th.Generator().manual_seed(rank) for rank in range(size)]
    return [th.stack([th.randn(length, generator=each) for each in generators]) for length in LENGTHS]


@built
def test_memory_and_sockets_give_the_same_bits_in_the_order_of_ranks():
    import hashlib

    expected = [hashlib.sha256(each.numpy().tobytes()).hexdigest() for each in expected_vectors(3)]
    for kind in ("gloo", "shared memory"):
        for value in values(run(ranks.exchange, 3, LENGTHS, kind=kind)):
            assert value["kind"].startswith(kind)
            assert value["digests"] == expected
            for length, gathered in zip(LENGTHS, value["gathered"], strict=True):
                assert [each["rank"] for each in gathered] == [0, 1, 2]
                assert [len(each["long"]) for each in gathered] == [0, 1000, 2000]
                assert {each["length"] for each in gathered} == {length}


@built
@pytest.mark.parametrize(("size", "n_times", "length"), [(2, 2000, 101), (2, 200, 200_000), (3, 1000, 17)])
def test_whoever_sees_that_a_rank_has_come_sees_its_numbers_and_keeps_them_for_one_more_exchange(size, n_times, length):
    assert values(run(ranks.write_and_read, size, n_times, length, kind="shared memory")) == [[]] * size


@built
def test_the_counters_may_run_over():
    assert values(run(ranks.run_over, 2, kind="shared memory")) == [[], []]


@built
def test_vectors_of_unequal_length_are_refused_in_all_processes():
    for outcome in run(ranks.differ_in_length, 2, kind="shared memory"):
        assert outcome.error == "InvalidValueError"
        assert outcome.text.startswith("vector must be as long in all processes")


@built
def test_if_one_process_cannot_share_memory_none_does():
    first, second = values(run(ranks.have_no_code_in_rank_1, 2, kind="shared memory"))
    assert first == second
    assert first[0] == "gloo"


@pytest.mark.parametrize(
    ("kind", "environment"),
    [
        pytest.param("shared memory", {}, marks=built),
        ("gloo", {KIND: "gloo"}),
        ("gloo", {"LOCAL_WORLD_SIZE": "1"}),
    ],
)
def test_auto_shares_memory_on_one_host_and_is_one_group(kind, environment):
    assert values(run(ranks.join_again, 2, kind="auto", **environment)) == [(kind, True)] * 2


@both_kinds
def test_signals_are_served_while_a_process_waits(kind):
    first, second = values(run(ranks.be_interrupted, 2, kind=kind))
    assert 0 < first[0] < 1.1
    assert second == []


def test_code_that_cannot_be_loaded_is_not_used(tmp_path, monkeypatch, caplog):
    (tmp_path / "_shared.so").write_text("of another processor")
    monkeypatch.setattr(shared_memory, "path_of", lambda name: str(tmp_path / "_shared.so"))
    assert shared_memory.library.__wrapped__() is None
    assert "processes exchange numbers through gloo" in caplog.text


@both_kinds
@pytest.mark.parametrize("size", [1, 2])
def test_numbers_that_are_not_float32_keep_every_bit(kind, size):
    assert values(run(ranks.gather_other_numbers, size, kind=kind)) == ["exact"] * size


@both_kinds
def test_processes_that_differ_are_named(kind):
    for outcome in run(ranks.compare, 3, ["ab12", "ffff", "ab12"], kind=kind):
        assert outcome.error == "ProcessesDivergedError"
        assert outcome.ranks == [1]
        assert outcome.text == "weights must be equal in all processes: of rank 1 ffff, of ranks 0 and 2 ab12"


class Told:
    """A group whose other processes say what they are told to."""

    rank, kind = 0, "told"

    def __init__(self, others):
        self.others, self.size = others, 1 + len(others)

    def gather(self, value):
        return [value, *self.others]


@pytest.mark.parametrize(
    ("others", "ranks_that_differ"), [(["a"], None), (["b"], [1]), (["b", "b"], [0]), (["b", "a", "c"], [1, 3])]
)
def test_those_that_differ_are_the_minority_and_of_two_not_rank_0(others, ranks_that_differ):
    if ranks_that_differ is None:
        check_equal(Told(others), "a", "weights")
    else:
        with pytest.raises(ProcessesDivergedError) as raised:
            check_equal(Told(others), "a", "weights")
        assert raised.value.ranks == ranks_that_differ


def test_alone_nothing_is_exchanged():
    group = Alone()
    with pytest.raises(KeyError), group.telling_failures():
        raise KeyError
    assert th.equal(group.gather_vectors(th.arange(3.0)), th.tensor([[0.0, 1.0, 2.0]]))
    assert group.gather("value") == ["value"]
    check_equal(group, "digest", "weights")
    group.close()


@pytest.mark.parametrize("missing", VARIABLES)
def test_without_torchrun_one_clear_error(missing, monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=f"^processes='auto' needs .* no {missing}: start the program with torchrun"):
        join_group("auto")


@pytest.mark.parametrize("wrong", ["always", 2, None])
def test_processes_is_auto_or_a_group(wrong):
    words = f"^processes must be None, 'auto' or a group, got {type(wrong).__name__} {re.escape(repr(wrong))}"
    with pytest.raises(TypeError, match=words):
        join_group(wrong)


def test_a_group_stays_itself():
    group = Alone()
    assert join_group(group) is group
    assert not [name for name in os.environ if name == "TORCHELASTIC_RUN_ID"]


def test_each_meeting_in_one_store_has_keys_of_its_own():
    """torchrun keeps the store when it starts processes again: what the first have left in it is nothing to the next."""
    store = dist.HashStore()

    def prefixes():
        with ThreadPoolExecutor(3) as pool:
            return {*pool.map(lambda rank: _meet(store, rank, 3, 10.0), range(3))}

    (first,), (second,) = prefixes(), prefixes()
    assert first != second
