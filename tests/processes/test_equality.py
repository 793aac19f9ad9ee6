"""Several processes learn what one would: two to rounding what one learns from both their rollouts; a fixed number of
shards to the bit the same on any number of processes.
"""

import copy

import numpy as np
import pytest
import torch as th

from sb3_ppo_notes.algorithms import update
from sb3_ppo_notes.policies.memory import Recurrence
from sb3_ppo_notes.processes import Alone
from sb3_ppo_notes.rollouts.minibatches import Minibatch, MinibatchSampler
from tests.processes import cases
from tests.processes.launch import built, run, values

pytestmark = [pytest.mark.slow, built, pytest.mark.filterwarnings("ignore:batch_size=56")]
N_UPDATES = 8  # of 20 steps each


class Union:
    """The minibatches that one process with all environments makes of the permutations of two."""

    def __init__(self, buffer, batch_size, generators):
        self.sampler = MinibatchSampler(buffer, None if batch_size is None else batch_size // len(generators))
        self.buffer, self.generators = buffer, generators

    def epoch(self):
        sampler, buffer = self.sampler, self.buffer
        sampler._prepare()
        n_each = buffer.n_envs // len(self.generators)
        if batch_of_all := sampler.batch_size == sampler.n_samples:
            sampler.batch_size = n_each * buffer.buffer_size
        assert batch_of_all or sampler.batch_size < n_each * buffer.buffer_size
        streams = [
            list(sampler._minibatches(sampler._order(slice(s * n_each, (s + 1) * n_each), generator.permutation), None))
            for s, generator in enumerate(self.generators)
        ]
        normalization = buffer.rule.advantage_normalization
        for number in range(max(map(len, streams))):
            whole = concatenated([stream[number] for stream in streams if number < len(stream)])
            if normalization.scope == "minibatch":
                whole = whole._replace(advantages=normalization.normalize(whole.advantages))
            yield whole


def concatenated(parts):
    """One minibatch of the rows of several."""
    if len(parts) == 1:
        return parts[0]
    columns = []
    for column in zip(*(part[:-1] for part in parts), strict=True):
        if column[0] is None:
            columns.append(None)
        elif isinstance(column[0], dict):
            columns.append({key: th.cat([each[key] for each in column]) for key in column[0]})
        elif isinstance(column[0], tuple):
            columns.append(tuple(th.cat(each) for each in zip(*column, strict=True)))
        else:
            columns.append(th.cat(column))
    recurrences = [part.recurrence for part in parts]
    return Minibatch(*columns, None if recurrences[0] is None else side_by_side(recurrences))


def side_by_side(recurrences):
    """One grid of the lanes of several."""
    n_lanes = sum(each.n_lanes for each in recurrences)
    positions, breaks, first = [], [], 0
    for each in recurrences:
        for places, moved in ((each.positions, positions), (each.breaks, breaks)):
            if places is not None:
                moved.append(places // each.n_lanes * n_lanes + places % each.n_lanes + first)
        first += each.n_lanes
    states = tuple(th.cat(parts, dim=1) for parts in zip(*(each.states for each in recurrences), strict=True))
    length = max(each.length for each in recurrences)
    return Recurrence(th.cat(positions), length, n_lanes, states, th.cat(breaks) if breaks else None)


def generator_from(state):
    generator = np.random.default_rng()
    generator.bit_generator.state = state
    return generator


def joined(arrays, n_each):
    """The rollout of all environments, from those of each process."""
    first = arrays[0]
    whole = {}
    for name, value in first.items():
        column = [each[name] for each in arrays]
        if value is None:
            whole[name] = None
        elif name == "_cuts":
            whole[name] = [(t, b + n_each * s, seen) for s, cuts in enumerate(column) for t, b, seen in cuts]
        elif name == "_states":
            whole[name] = [
                tuple(th.cat(parts, dim=1) for parts in zip(*chunk, strict=True)) for chunk in zip(*column, strict=True)
            ]
        elif name == "_end":
            dones, last = zip(*column, strict=True)
            whole[name] = np.concatenate(dones), observations_of_all(last)
        elif isinstance(value, dict):
            whole[name] = {key: time_major(np.concatenate([each[key] for each in column], axis=1)) for key in value}
        elif name in ("observations", "action_masks"):
            whole[name] = time_major(np.concatenate(column, axis=1))
        else:
            whole[name] = np.concatenate(column, axis=1)
    return whole


def observations_of_all(observations):
    if isinstance(observations[0], dict):
        return {key: np.concatenate([each[key] for each in observations]) for key in observations[0]}
    return np.concatenate(observations)


def time_major(array):
    """In the layout of our buffers: environment by environment."""
    return np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1)


def learn_from_union(name, rollouts, monkeypatch):
    """The weights of one process, without a word of shards, that learns from the rollouts of several."""
    model = cases.build(name)
    model.compile = False
    model._setup_learn(10**6)
    model.engine.begin_learning()
    for number, each in enumerate(zip(*rollouts, strict=True)):
        arrays, states = zip(*each, strict=True)
        model.rollout_buffer.reset()
        vars(model.rollout_buffer).update(joined(copy.deepcopy(arrays), cases.N_ENVS // len(arrays)))
        model.rollout_buffer.pos, model.rollout_buffer.full = model.n_steps, True
        generators = [generator_from(state) for of_process in states for state in of_process]
        monkeypatch.setattr(update, "minibatches_of", lambda buffer, rule, size, g=generators: Union(buffer, size, g))
        model.num_timesteps = (number + 1) * model.n_steps * cases.N_ENVS
        model._update_current_progress_remaining(model.num_timesteps, N_UPDATES * model.n_steps * cases.N_ENVS)
        model.train()
    return model


def largest_difference(one, other):
    """Of two sets of weights."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Every case, trained by two processes."""
    folder = tmp_path_factory.mktemp("two")
    values(run(cases.train, 2, folder, list(cases.CASES), 2, N_UPDATES, kind="gloo", limit=400))
    return cases.read(folder, 2)


#: gSDE's noise and float16's rounding are those of another number of rows for one process.
COMPARED = [name for name in cases.CASES if name not in ("gSDE", "float16")]


@pytest.mark.parametrize("name", COMPARED)
def test_two_processes_learn_what_one_learns_from_both_their_rollouts(two, name, monkeypatch):
    one, other = (each[name] for each in two)
    before = cases.build(name).policy.state_dict()
    after = learn_from_union(name, [one["rollouts"], other["rollouts"]], monkeypatch).policy.state_dict()
    assert largest_difference(after, before) > 1e-3
    assert largest_difference(after, one["weights"]) <= 1e-6


@pytest.mark.parametrize("name", [name for name in cases.CASES if name.startswith("early stop")])
def test_who_is_to_stop_early_does(two, name):
    assert two[0][name]["stopped_in_epoch"] == two[1][name]["stopped_in_epoch"] is not None


@pytest.mark.parametrize("name", list(cases.CASES))
def test_all_processes_have_the_same_weights_and_say_the_same(two, name):
    one, other = (each[name] for each in two)
    assert one["digest"] == other["digest"]
    assert one["episodes"] == other["episodes"] != []
    assert one["num_timesteps"] == other["num_timesteps"] == N_UPDATES * cases.n_steps_of(name) * cases.N_ENVS
    assert one["said"] == other["said"]


#: A process's noise cannot be two shards'.
SHARDED = [name for name in cases.CASES if name != "gSDE"]


@pytest.fixture(scope="module")
def four_shards(tmp_path_factory):
    """Every case in four shards, on one, two and four processes, which exchange in two ways."""
    folder = tmp_path_factory.mktemp("four")
    cases.train(Alone(), folder, SHARDED, 4, 2)
    values(run(cases.train, 2, folder, SHARDED, 4, 2, kind="gloo", limit=400))
    values(run(cases.train, 4, folder, SHARDED, 4, 2, kind="shared memory", limit=400))
    return [each for size in (1, 2, 4) for each in cases.read(folder, size)]


@pytest.mark.parametrize("name", SHARDED)
def test_four_shards_end_with_the_same_bits_on_any_number_of_processes(four_shards, name):
    assert len(four_shards) == 7
    assert len({each[name]["digest"] for each in four_shards}) == 1
    assert len({str(each[name]["episodes"]) for each in four_shards}) == 1
    assert len({each[name]["said"] for each in four_shards}) == 1


def test_shards_are_not_alike(four_shards):
    """Each has an experience of its own."""
    (arrays, _), *_ = four_shards[0]["PPO"]["rollouts"]
    assert len({arrays["rewards"][:, 2 * shard].tobytes() for shard in range(4)}) == 4


def test_the_pages_table_has_a_row_for_every_training():
    from tests.processes.table import PAGE, rows_of

    assert rows_of(PAGE.read_text()) == list(cases.CASES)


@pytest.mark.parametrize(("name", "executor"), [("PPO", "recorded"), ("compiled", "compiled"), ("memory", "eager")])
def test_each_executor_was_tried(two, name, executor):
    assert two[0][name]["ran"].startswith(f"steps {executor}")
