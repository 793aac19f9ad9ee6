"""Memory: states reset, carried and batched right; as sb3-contrib's RecurrentPPO on the same minibatches."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import with_frozen_normalizers
from sb3_ppo_notes.engine.step import evaluate_loss
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.policies.actor_critic import act, evaluate
from sb3_ppo_notes.policies.memory import Recurrence, SequenceLayout
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.policies.trunk import shared_trunk
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rollouts.minibatches import MinibatchSampler
from sb3_ppo_notes.rollouts.sequences import cut_sequences, pack_sequences
from sb3_ppo_notes.rules import (
    EarlyStop,
    KLPenalty,
    Optimization,
    OptimizerSettings,
    SeparateOptimizers,
    TDZero,
    UpdateRule,
)
from sb3_ppo_notes.rules.loss import LossCoefficients
from tests import environments
from tests.policies.combinations import COMBINATIONS, refusal
from tests.policies.test_masks import discrete

NET = dict(lstm_hidden_size=16, net_arch=[8])
SMALL = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu", learning_rate=1e-2, ent_coef=0.01)


def small(env="CartPole-v1", policy="MlpLstmPolicy", n_envs=2, policy_kwargs=None, **arguments):
    vec_env = make_vec_env(env, n_envs=n_envs, seed=1) if not hasattr(env, "num_envs") else env
    return NotesPPO(policy, vec_env, policy_kwargs=NET | (policy_kwargs or {}), **SMALL | arguments)


def gathered(model):
    _, callback = model._setup_learn(10**6, None, model._last_obs is None)
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


VARIANTS = {
    "two_memories": dict(),
    "shared": dict(shared_lstm=True, enable_critic_lstm=False),
    "critic_without": dict(enable_critic_lstm=False),
    "two_layers": dict(n_lstm_layers=2),
    "gru": dict(rnn="gru"),
    "gru_shared": dict(rnn="gru", shared_lstm=True, enable_critic_lstm=False),
    # Units in multiples of 64 are run by _lstm.c, where it was built.
    "own_code": dict(lstm_hidden_size=64),
    "own_code_shared": dict(lstm_hidden_size=128, shared_lstm=True, enable_critic_lstm=False),
}
END_TO_END = ("two_memories", "shared", "critic_without", "own_code", "own_code_shared")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_predicts_saves_and_loads(variant, tmp_path):
    model = small(policy_kwargs=VARIANTS[variant]).learn(128)
    observation, state, starts = model.env.reset(), None, np.ones(2, dtype=bool)
    model.save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=model.env)
    other_state = None
    for _ in range(4):
        action, state = model.predict(observation, state, starts, deterministic=True)
        same, other_state = loaded.predict(observation, other_state, starts, deterministic=True)
        assert np.array_equal(action, same)
        starts = np.zeros(2, dtype=bool)
    layers, units = (
        VARIANTS[variant].get(name, usual) for name, usual in (("n_lstm_layers", 1), ("lstm_hidden_size", 16))
    )
    assert all(part.shape == (layers, 2, units) for part in state)
    loaded.learn(64, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("variant", "end_to_end"),
    [(name, False) for name in VARIANTS] + [(name, True) for name in END_TO_END],
)
def test_the_update_sees_what_the_rollout_saw(variant, end_to_end):
    """At ratio 1: log-probabilities and values of whole sequences equal those of single steps, over resets and chunks."""
    model = gathered(
        small(policy_kwargs=VARIANTS[variant], batch_size=8, env=lambda: environments.make("discrete"), n_envs=3)
    )
    gathered(model)  # a second rollout, which begins with something to remember
    buffer = model.rollout_buffer
    # Only an LSTM of one layer can be wiped within a lane.
    assert model.policy.supports_mid_sequence_reset == (variant in END_TO_END)
    buffer.prepare(model.rule, sequences=SequenceLayout(can_reset=end_to_end))
    assert buffer.episode_starts[1:].sum() >= 3
    for minibatch in buffer.get(8):
        with th.no_grad():
            result = evaluate(
                model.policy, minibatch.observations, minibatch.actions.long().flatten(), None, minibatch.recurrence
            )
        assert result.log_probs.numpy() == pytest.approx(minibatch.old_log_prob.numpy(), abs=1e-5)
        assert result.values.numpy() == pytest.approx(minibatch.old_values.numpy(), abs=1e-5)


def test_an_episode_that_begins_with_a_chunk_begins_from_nothing():
    model = gathered(gathered(small(env=environments.ConstantRewardEnv, batch_size=8)))
    assert (model.rollout_buffer.episode_starts[::8] == 1).all()
    for minibatch in model.rollout_buffer.get(8):
        assert all((state == 0).all() for state in minibatch.recurrence.states)


def test_observations_whose_size_is_numpys_number_have_a_memory_too():
    space = spaces.MultiDiscrete([3, 4])
    policy = NotesRecurrentPolicy(space, spaces.Discrete(2), lambda _: 1e-3, **NET)
    assert policy.lstm_actor.input_size == 7


def test_every_step_is_learned_from_exactly_once():
    model = gathered(small(batch_size=12, n_envs=3))
    rows = np.concatenate([batch.returns.numpy() for batch in model.rollout_buffer.get(12)])
    assert sorted(rows) == sorted(model.rollout_buffer.returns.ravel())


def test_each_minibatchs_advantages_are_normalised_by_themselves():
    model = gathered(small(batch_size=12, n_envs=3))
    buffer = model.rollout_buffer
    # Numbered, so that a minibatch's rows can be told by their returns.
    buffer.returns = np.arange(buffer.returns.size, dtype=np.float32).reshape(buffer.returns.shape)
    numbers, raw = buffer.flat(buffer.returns), buffer.flat(buffer.advantages)
    for batch in MinibatchSampler(buffer, 12, normalizes=True).epoch():
        expected = raw[[int(np.flatnonzero(numbers == number)[0]) for number in batch.returns.numpy()]]
        expected = (expected - expected.mean()) / (expected.std(ddof=1) + 1e-8)
        assert batch.advantages.numpy() == pytest.approx(expected, abs=1e-5)


def test_sequences_cross_neither_episodes_nor_environments():
    starts = np.zeros((6, 2))
    starts[[0, 3], 0] = 1
    sequences = cut_sequences(starts, longest=4)
    pieces = list(
        zip(sequences.environments.tolist(), sequences.starts.tolist(), sequences.lengths.tolist(), strict=True)
    )
    assert pieces == [(0, 0, 3), (0, 3, 1), (0, 4, 2), (1, 0, 4), (1, 4, 2)]


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=20).flatmap(
        lambda lengths: st.tuples(
            st.just(lengths), st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))
        )
    )
)
def test_sequences_laid_end_to_end_never_touch(drawn):
    lengths, has_initial_state = map(np.array, drawn)
    lanes, begins = pack_sequences(lengths, has_initial_state, can_reset=True)
    taken = np.zeros((lengths.max() + 1, len(lengths)), dtype=int)
    for lane, begin, length in zip(lanes, begins, lengths, strict=True):
        assert begin + length <= lengths.max()
        taken[begin : begin + length + 1, lane] += 1  # itself, and the step after it
    assert taken.max() == 1
    assert (begins[has_initial_state] == 0).all()
    assert sorted(set(lanes)) == list(range(lanes.max() + 1))


def test_short_sequences_share_lanes():
    lanes, begins = pack_sequences(np.array([5, 2, 2, 1]), np.array([False] * 4), can_reset=True)
    assert lanes.tolist() == [0, 1, 1, 2]
    assert begins.tolist() == [0, 0, 3, 0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("variant", ["two_memories", "shared", "critic_without"])
def test_lanes_change_neither_loss_nor_gradient(variant, bias):
    """Also with weights so large that gates are driven far from zero: what shuts them must be stronger."""
    model = small(
        env=lambda: environments.make("discrete"),
        n_envs=3,
        policy_kwargs=VARIANTS[variant] | dict(lstm_kwargs=dict(bias=bias)),
    )
    with th.no_grad():
        model.policy.lstm_actor.weight_hh_l0.mul_(50.0)
    gathered(gathered(model))
    found = []
    for can_reset in (False, True):
        model.rollout_buffer.prepare(model.rule, sequences=SequenceLayout(can_reset=can_reset))
        (batch,) = list(model.rollout_buffer.get(None))
        loss = evaluate_loss(model.policy, batch, model.rule.at(1.0), LossCoefficients(0.01, 0.5)).loss
        weights = [weight for weight in model.policy.parameters() if weight.requires_grad]
        found.append((batch.recurrence, [loss, *th.autograd.grad(loss, weights, allow_unused=True)]))
    (apart, expected), (together, got) = found
    assert apart.breaks is None
    assert len(together.breaks) >= 3
    assert together.n_lanes * together.length < 0.8 * apart.n_lanes * apart.length
    for one, other in zip(expected, got, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert th.allclose(one, other, rtol=1e-4, atol=1e-5 * max(1.0, one.abs().max().item()))


def test_nothing_passes_a_break():
    """A step after a break says what it says alone, and no gradient goes back over it, not even a bit.

    What it says is equal to rounding: with how many rows PyTorch's LSTM takes a sum in which order is its own affair.
    """
    model = small()
    lstm = model.policy.lstm_actor
    with th.no_grad():
        for weight in lstm.parameters():
            weight.mul_(100.0)
    features = th.randn(4, 4, requires_grad=True)
    zeros = tuple(th.zeros(1, 1, 16) for _ in range(4))
    lane = Recurrence(th.tensor([0, 1, 3, 4]), 5, 1, zeros, breaks=th.tensor([2]))
    after = model.policy.remember(features, lane)[0][2:]
    alone = model.policy.remember(features[2:], Recurrence(th.tensor([0, 1]), 2, 1, zeros))[0]
    assert th.allclose(after, alone, rtol=1e-5, atol=1e-6)
    (gradient,) = th.autograd.grad(after.sum(), features)
    assert (gradient[:2] == 0).all()


def test_training_lays_sequences_end_to_end(monkeypatch):
    seen = []
    remember = NotesRecurrentPolicy.remember
    monkeypatch.setattr(
        NotesRecurrentPolicy,
        "remember",
        lambda policy, features, recurrence: seen.append(recurrence) or remember(policy, features, recurrence),
    )
    small(env=lambda: environments.make("discrete")).learn(128)
    assert any(recurrence.breaks is not None for recurrence in seen)


def test_gradients_go_back_no_further_than_the_sequence_length(tmp_path):
    """A whole rollout and its pieces have one loss; of the pieces' gradients none goes back into the piece before."""
    model = small(policy_kwargs=dict(sequence_length=4), env=environments.ConstantRewardEnv, batch_size=64)
    assert model.rollout_buffer.sequence_length == 4
    model.save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=model.env)
    assert loaded.rollout_buffer.sequence_length == loaded.policy.sequence_length == 4
    gathered(model)
    (batch,) = list(model.rollout_buffer.get(None))
    assert batch.recurrence.length == 4
    assert {len(batch.returns)} == {64}
    seen = batch.observations.clone().requires_grad_()
    latent, _, _ = model.policy.remember(seen, batch.recurrence)
    row_of = {int(place): row for row, place in enumerate(batch.recurrence.positions)}
    third = [row_of[2 * batch.recurrence.n_lanes + lane] for lane in range(batch.recurrence.n_lanes)]
    (gradient,) = th.autograd.grad(latent[third[1]].sum(), seen)
    reached = set(th.nonzero(gradient.abs().sum(1)).flatten().tolist())
    assert reached <= {row_of[step * batch.recurrence.n_lanes + 1] for step in range(3)}
    assert small(policy_kwargs=dict(sequence_length=1000)).rollout_buffer.sequence_length == 32
    assert small(batch_size=16).rollout_buffer.sequence_length == 16


def listen_forward(lstm, heard):
    lstm.register_forward_hook(lambda *_: heard.append(lstm.training))


def listen_before(lstm, heard):
    lstm.register_forward_pre_hook(lambda *_: heard.append(lstm.training))


def listen_backward(lstm, heard):
    lstm.register_full_backward_hook(lambda *_: heard.append(lstm.training))


def wrap_forward(lstm, heard):
    plain = lstm.forward
    lstm.forward = lambda *arguments: heard.append(lstm.training) or plain(*arguments)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("listen", [listen_forward, listen_before, listen_backward, wrap_forward])
def test_who_listens_to_a_memory_hears_every_call(listen):
    model = small(env=lambda: environments.make("discrete"), batch_size=64)
    heard = []
    listen(model.policy.lstm_actor, heard)
    assert not model.policy.supports_mid_sequence_reset
    model.learn(64)
    # One minibatch in each of two epochs; and while acting every step, the state after the last one, and those that a
    # time limit cuts off.
    assert heard.count(True) == 2
    assert listen is listen_backward or heard.count(False) >= 33


def test_hooks_on_the_gradient_of_a_memorys_weights_are_heard():
    model = small(env=lambda: environments.make("discrete"))
    weight = model.policy.lstm_actor.weight_hh_l0
    before = weight.detach().clone()

    def forget(parameter):
        parameter.grad.zero_()

    weight.register_post_accumulate_grad_hook(forget)
    model.learn(64)
    assert th.equal(weight, before)


class OwnMemory(NotesRecurrentPolicy):
    """Runs the memory itself, and knows nothing of breaks; its critic remembers less than its actor."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.lstm_critic = th.nn.LSTM(self.features_dim, 8)
        self.widen = th.nn.Linear(8, self.lstm_hidden_size)
        self.optimizer = self.optimizer_class(self.parameters(), lr=1e-3, **self.optimizer_kwargs)

    def initial_states(self, n):
        return tuple(th.zeros(1, n, size) for size in (self.lstm_hidden_size,) * 2 + (8,) * 2)

    def remember(self, features, recurrence):
        shape = recurrence.length, len(recurrence.states[0][0])
        grid = features.new_zeros(shape[0] * shape[1], features.shape[1])
        grid = grid.index_copy(0, recurrence.positions, features).reshape(*shape, -1)
        latent_pi, states = self.lstm_actor(grid, recurrence.states[:2])
        latent_vf, critic_states = self.lstm_critic(grid, recurrence.states[2:])
        rows = [part.flatten(0, 1)[recurrence.positions] for part in (latent_pi, self.widen(latent_vf))]
        return rows[0], rows[1], (*states, *critic_states)


def first_ratio_errors(model, n_updates=3):
    errors = []
    for _ in range(n_updates):
        model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)
        errors.append(model.last_report.first_ratio_error)
    return errors


def test_a_policy_that_runs_its_memory_itself_is_not_given_lanes_to_share():
    model = small(policy=OwnMemory, env=lambda: environments.make("discrete"), n_envs=3)
    assert max(first_ratio_errors(model)) < 1e-5


class Bandit(gym.Env):
    """Episodes of one step."""

    observation_space, action_space = spaces.Box(0, 1, (3,), dtype=np.float32), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(3, dtype=np.float32), {}

    def step(self, action):
        return self.np_random.random(3, dtype=np.float32), float(action), True, False, {}


@pytest.mark.parametrize("env", [Bandit, lambda: environments.make("discrete")])
@pytest.mark.parametrize("batch_size", [2, 8, 64])
def test_the_first_ratio_is_one_however_short_the_episodes(env, batch_size):
    assert max(first_ratio_errors(small(env=env, n_envs=4, batch_size=batch_size))) < 1e-5


def test_in_bfloat16_acting_and_learning_round_alike():
    model = small(env=lambda: environments.make("discrete"), n_envs=4, batch_size=64, precision="bfloat16")
    assert max(first_ratio_errors(model)) < 1e-3


def test_many_short_sequences_are_pack_sequences_in_no_time():
    lengths = np.tile([1, 2, 3, 7], 5000)
    lanes, _ = pack_sequences(lengths, np.zeros(len(lengths), dtype=bool), can_reset=True)
    assert lanes.max() + 1 < 0.6 * len(lengths)


def test_a_remember_of_the_users_own_is_called_as_ever():
    model = small()
    original, calls = model.policy.remember, []
    model.policy.remember = lambda features, recurrence: calls.append(0) or original(features, recurrence)
    model.learn(64)
    assert calls


@pytest.mark.parametrize("name", ["batch_first", "bidirectional", "proj_size"])
def test_memory_options_that_would_change_shapes_are_refused(name):
    small(policy_kwargs=dict(lstm_kwargs={name: 0 if name == "proj_size" else False}))
    with pytest.raises(InvalidValueError, match=f"^lstm_kwargs must not contain {name!r}"):
        small(policy_kwargs=dict(lstm_kwargs={name: 1}))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13, 32])
def test_the_loss_does_not_depend_on_where_sequences_are_split(length):
    losses = []
    for longest in (32, length):
        model = small(env=lambda: environments.make("discrete"))
        model.policy.sequence_length = longest
        gathered(model)
        (batch,) = list(model.rollout_buffer.get(None))
        losses.append(evaluate_loss(model.policy, batch, model.rule.at(1.0), LossCoefficients(0.01, 0.5)).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_feed_forward_network_disguised_as_a_memory_gives_the_plain_result():
    """A GRU whose reset and update gates are shut is a plain tanh layer: the order and the length of sequences cannot matter."""
    model = small(env=lambda: environments.make("discrete"), policy_kwargs=dict(rnn="gru"))
    for module in (model.policy.lstm_actor, model.policy.lstm_critic):
        for name, parameter in module.named_parameters():
            hidden = parameter.data.view(3, 16, -1)
            if name.startswith(("weight_hh", "bias_hh")):
                hidden.zero_()
            else:
                hidden[1] = -100.0 if name.startswith("bias") else 0.0  # update gate: always take the new
    gathered(model)
    (batch,) = list(model.rollout_buffer.get(None))
    with th.no_grad():
        at_once = evaluate(model.policy, batch.observations, batch.actions.long().flatten(), None, batch.recurrence)
        alone = model.policy.one_step(model.policy.initial_states(len(batch.returns)), th.ones(len(batch.returns)))
        one_by_one = evaluate(model.policy, batch.observations, batch.actions.long().flatten(), None, alone)
    assert at_once.log_probs.numpy() == pytest.approx(one_by_one.log_probs.numpy(), abs=1e-5)
    assert at_once.values.numpy() == pytest.approx(one_by_one.values.numpy(), abs=1e-5)


def test_permuting_environments_permutes_nothing_else():
    model = small(env=lambda: environments.make("discrete"), n_envs=3)
    observations = th.randn(3, 3)
    states = tuple(th.randn(part.shape) for part in model.policy.initial_states(3))
    starts, order = th.tensor([0.0, 1.0, 0.0]), [2, 0, 1]
    with th.no_grad():
        plain = act(model.policy, observations, None, model.policy.one_step(states, starts), deterministic=True)
        permuted_states = tuple(part[:, order] for part in states)
        recurrence = model.policy.one_step(permuted_states, starts[order])
        permuted = act(model.policy, observations[order], None, recurrence, deterministic=True)
    assert permuted.values.numpy() == pytest.approx(plain.values[order].numpy(), abs=1e-6)
    for mine, theirs in zip(permuted.states, plain.states, strict=True):
        assert mine.numpy() == pytest.approx(theirs[:, order].numpy(), abs=1e-6)


def test_an_episodes_start_forgets_everything():
    model = small()
    states = tuple(th.randn(part.shape) for part in model.policy.initial_states(2))
    recurrence = model.policy.one_step(states, th.tensor([1.0, 0.0]))
    assert all((part[:, 0] == 0).all() for part in recurrence.states)
    assert all(th.equal(part[:, 1], state[:, 1]) for part, state in zip(recurrence.states, states, strict=True))


@pytest.mark.parametrize("variant", END_TO_END)
def test_recurrent_training_equals_recurrent_ppo_on_the_same_minibatches(variant, monkeypatch):
    """One environment, one whole rollout in a minibatch, no shuffling of its start: both learn from the same sequences."""
    # contrib cuts its batch at a random place; 0 leaves it whole
    monkeypatch.setattr("sb3_contrib.common.recurrent.buffers.np.random.randint", lambda *_: 0)
    arguments = SMALL | dict(batch_size=32, n_epochs=3, clip_range=0.1)
    policy_kwargs = NET | VARIANTS[variant]
    env = lambda: environments.make("discrete")  # noqa: E731
    ours = NotesPPO("MlpLstmPolicy", make_vec_env(env, 1, seed=1), policy_kwargs=policy_kwargs, **arguments)
    theirs = RecurrentPPO("MlpLstmPolicy", make_vec_env(env, 1, seed=1), policy_kwargs=policy_kwargs, **arguments)
    theirs.policy.load_state_dict(ours.policy.state_dict())
    for model in (ours, theirs):
        th.manual_seed(3)
        model.learn(96)
    mine = dict(ours.policy.named_parameters())
    for key, parameter in theirs.policy.named_parameters():
        assert (parameter - mine[key]).abs().max().item() < 1e-5, key
    assert ours.rollout_buffer.episode_starts.sum() > 1


@pytest.mark.parametrize(
    ("rule", "begins"),
    [
        (
            UpdateRule(computed="every_epoch", value_target=TDZero()),
            "computed must be 'once' with a recurrent policy",
        ),
        (
            UpdateRule(
                optimization=Optimization(separate=SeparateOptimizers(OptimizerSettings(), OptimizerSettings()))
            ),
            "separate must be None with a recurrent policy",
        ),
    ],
)
def test_combinations_that_make_no_sense_say_why(rule, begins):
    with pytest.raises(InvalidValueError, match="^" + begins):
        NotesPPO("MlpLstmPolicy", "CartPole-v1", rule=rule, n_steps=32, batch_size=32)


@pytest.mark.parametrize(
    ("policy_kwargs", "begins"),
    [
        (dict(shared_lstm=True), "enable_critic_lstm must be False when shared_lstm=True"),
        (
            dict(shared_lstm=True, enable_critic_lstm=False, share_features_extractor=False),
            "share_features_extractor must be True when shared_lstm=True, got False",
        ),
        (dict(lstm_hidden_size=0), "lstm_hidden_size must be an int >= 1"),
        (dict(n_lstm_layers=0), "n_lstm_layers must be an int >= 1"),
        (dict(sequence_length=0), "sequence_length must be an int >= 1"),
        (dict(rnn="elman"), "rnn must be one of 'lstm', 'gru'"),
    ],
)
def test_wrong_memory_arguments(policy_kwargs, begins):
    with pytest.raises(InvalidValueError, match="^" + begins):
        small(policy_kwargs=policy_kwargs)


def test_a_reset_forgets_and_learning_on_does_not():
    model = small().learn(64)
    assert model._last_states is not None
    kept = model._last_states
    model._setup_learn(100, None, False)
    assert model._last_states is kept
    model._setup_learn(100)
    assert model._last_states is None


# -- the table of combinations --------------------------------------------------------------------------------


def built(policy, is_masked, system, env):
    """The algorithm of a system with this policy, small."""
    is_recurrent, is_trunk, uses_sde = "Lstm" in policy, "trunk" in policy, "gSDE" in policy
    recipe = RECIPES.get(system)
    algorithm = NotesA2C if recipe and recipe.algorithm == "a2c" else NotesPPO
    policy_kwargs = (shared_trunk([16]) if is_trunk else {}) | (dict(lstm_hidden_size=8) if is_recurrent else {})
    arguments = dict(seed=0, device="cpu", n_steps=16, action_masking=is_masked)
    arguments |= dict(use_sde=True, sde_sample_freq=4) if uses_sde else {}
    if algorithm is NotesPPO:
        arguments |= dict(batch_size=16)
    if recipe:
        hyperparameters = {key: value for key, value in recipe.hyperparameters.items() if key != "policy_kwargs"}
        policy_kwargs["optimizer_kwargs"] = dict(eps=1e-8)
        arguments = hyperparameters | arguments | dict(rule=recipe.rule)
    name = ("Mlp" if is_trunk else base_of(policy)) + ("LstmPolicy" if is_recurrent else "Policy")
    return algorithm, lambda: algorithm(name, env, policy_kwargs=policy_kwargs, **arguments)


def base_of(policy):
    return policy.removesuffix(" gSDE").removesuffix("Lstm")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_trains_saves_loads_and_goes_on(name, tmp_path):
    policy, masked, system = COMBINATIONS[name]
    continuous = "box" if "gSDE" in policy else "discrete"
    space = {"MultiInput": "dict", "Cnn": "image"}.get(base_of(policy), continuous)
    make = masked_environment if masked == "masked" else environments.make
    env = make_vec_env(lambda: make(space), 2, seed=0)
    algorithm, build = built(policy, masked == "masked", system, env)
    reason = refusal(policy, system)
    if reason is not None:
        with pytest.raises(InvalidValueError, match="^" + reason):
            build()
        return
    model = build().learn(64)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env)
    pairs = zip(model.policy.state_dict().values(), loaded.policy.state_dict().values(), strict=True)
    assert all(th.equal(*pair) for pair in pairs)
    loaded.learn(32, reset_num_timesteps=False)
    assert all(th.isfinite(tensor).all() for tensor in loaded.policy.state_dict().values())


def masked_environment(space):
    from sb3_contrib.common.wrappers import ActionMasker

    return ActionMasker(environments.make(space), lambda _: np.array([True, False, True]))


# -- learning -------------------------------------------------------------------------------------------------


class NoVelocity(gym.ObservationWrapper):
    """CartPole that shows positions only: whoever has no memory cannot know where the pole is going."""

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))
        self.observation_space = spaces.Box(-5, 5, (2,), dtype=np.float32)

    def observation(self, observation):
        return observation[[0, 2]]


class RecallUnderMasks(gym.Env):
    """A cue is shown once; three blank steps later it says which of the two actions allowed then is right: the lower or the higher one.

    Which two of eight are allowed is drawn anew at every step and cannot be seen: it takes memory *and* masks."""

    observation_space = spaces.Box(0, 1, (3,), dtype=np.float32)
    action_space = spaces.Discrete(8)

    def _show(self):
        self.allowed = np.sort(self.np_random.permutation(8)[:2])
        shown = np.zeros(3, dtype=np.float32)
        shown[self.cue] = self.count == 0
        shown[2] = self.count == 4
        return shown

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.cue = 0, int(self.np_random.integers(2))
        return self._show(), {}

    def action_masks(self):
        return np.isin(np.arange(8), self.allowed)

    def step(self, action):
        last = self.count == 4
        reward = float(last and action == self.allowed[self.cue]) - float(action not in self.allowed)
        self.count += 1
        return self._show(), reward, last, False, {}


@pytest.mark.slow
def test_memory_solves_cartpole_without_velocities():
    # Angles are a tenth of positions: without normalisation 50,000 steps go into learning that (sb3-contrib's too).
    env = VecNormalize(make_vec_env(NoVelocity, 8, seed=0))
    sizes = dict(n_steps=128, batch_size=256, learning_rate=1e-3, policy_kwargs=dict(lstm_hidden_size=64, net_arch=[]))
    model = NotesPPO("MlpLstmPolicy", env, seed=0, device="cpu", **sizes).learn(50_000)
    evaluation = with_frozen_normalizers(make_vec_env(NoVelocity, 1, seed=99), env)
    mean, _ = evaluate_policy(model, evaluation, n_eval_episodes=20)
    assert mean >= 450


@pytest.mark.slow
def test_recall_under_masks_needs_memory_and_masks():
    from sb3_ppo_notes.callbacks import MaskableEvalCallback

    scores = {}
    for policy in ("MlpPolicy", "MlpLstmPolicy"):
        for masked in (False, True):
            policy_kwargs = dict(lstm_hidden_size=16) if "Lstm" in policy else {}
            env = make_vec_env(RecallUnderMasks, 8, seed=0)
            model = NotesPPO(
                policy,
                env,
                n_steps=40,
                batch_size=160,
                learning_rate=5e-3,
                seed=0,
                device="cpu",
                action_masking=masked,
                policy_kwargs=policy_kwargs,
            ).learn(6400)
            evaluation = MaskableEvalCallback(make_vec_env(RecallUnderMasks, 1, seed=7), n_eval_episodes=50, verbose=0)
            scores[policy, masked] = (
                evaluation.evaluate(model)[0]
                if masked
                else evaluate_policy(model, evaluation.eval_env, n_eval_episodes=50)[0]
            )
    assert scores["MlpLstmPolicy", True] >= 0.95
    assert all(score < 0.8 for key, score in scores.items() if key != ("MlpLstmPolicy", True)), scores


@pytest.mark.parametrize("masked", [False, True])
def test_recurrent_policies_serve_rules_and_a2c(masked):
    env = make_vec_env(discrete, 2)
    rule = UpdateRule(policy_objective=KLPenalty(target=1e-4), kl_controls=(EarlyStop(0.5, estimator="exact"),))
    model = NotesPPO("MlpLstmPolicy", env, rule=rule, action_masking=masked, policy_kwargs=NET, **SMALL).learn(128)
    assert model.rule_state.kl_coef is not None
    NotesA2C("MlpLstmPolicy", env, action_masking=masked, policy_kwargs=NET, seed=0, device="cpu").learn(40)
