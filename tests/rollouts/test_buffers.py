"""The rollout buffer by itself: its one door, its two writes a step, and the samplers that go through it."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.policies.memory import SequenceLayout
from sb3_ppo_notes.rollouts import NotesRolloutBuffer, minibatches_of
from sb3_ppo_notes.rollouts.minibatches import MinibatchSampler, SampledMinibatches
from sb3_ppo_notes.rules import GAE, AdvantageNormalization, UpdateRule
from tests.environments import ConstantRewardEnv

SPACES = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)


def filled(kind, n_steps=6, n_envs=2):
    buffer = kind(n_steps, *SPACES, device="cpu", gamma=0.9, gae_lambda=0.8, n_envs=n_envs)
    random = np.random.default_rng(0)
    for step in range(n_steps):
        buffer.add(
            random.normal(size=(n_envs, 3)).astype(np.float32),
            random.integers(2, size=(n_envs, 1)),
            random.normal(size=n_envs).astype(np.float32),
            np.full(n_envs, step in (0, 3), np.float32),
            th.tensor(random.normal(size=(n_envs, 1)), dtype=th.float32),
            th.tensor(random.normal(size=n_envs), dtype=th.float32),
        )
    buffer.compute_returns_and_advantage(th.zeros(n_envs), np.zeros(n_envs))
    return buffer


def test_a_buffer_that_nobody_prepared_is_sb3s():
    samples = []
    for kind in (RolloutBuffer, NotesRolloutBuffer):
        buffer = filled(kind)
        np.random.seed(1)
        samples.append(list(buffer.get(5)))
    for one, other in zip(*samples, strict=True):
        assert type(one) is type(other)
        assert all(map(th.equal, one, other))


def test_an_update_sees_normalised_advantages_and_whoever_asks_besides_does_not():
    buffer, rule = filled(NotesRolloutBuffer), UpdateRule()
    buffer.prepare(rule)
    (seen,) = minibatches_of(buffer, rule, None).epoch()
    (raw,) = buffer.get()
    assert seen.advantages.std().item() == pytest.approx(1, abs=1e-5)
    assert sorted(raw.advantages.tolist()) == sorted(buffer.advantages.ravel().tolist())
    assert sorted(seen.advantages.tolist()) == pytest.approx(
        sorted(((raw.advantages - raw.advantages.mean()) / (raw.advantages.std() + 1e-8)).tolist()), abs=1e-6
    )


def test_the_rule_of_the_door_computes_the_advantages():
    buffer = filled(NotesRolloutBuffer)
    before = buffer.advantages.copy()
    buffer.prepare(UpdateRule(advantage_estimator=GAE(0.0)))
    buffer.compute_returns_and_advantage(th.zeros(2), np.zeros(2))
    assert not np.allclose(before, buffer.advantages)
    buffer.prepare(None)  # stock SB3's again, with the buffer's own λ
    buffer.compute_returns_and_advantage(th.zeros(2), np.zeros(2))
    assert np.array_equal(before, buffer.advantages)


def test_a_rollout_that_has_begun_keeps_the_length_of_its_sequences():
    buffer = NotesRolloutBuffer(8, *SPACES, device="cpu")
    buffer.prepare(None, batch_size=4, sequences=SequenceLayout())
    assert buffer.sequence_length == 4
    observation, number = np.zeros((1, 3), np.float32), th.zeros(1)
    buffer.store_policy_step(observation, np.zeros((1, 1)), np.ones(1), number, number, states=(th.zeros(1, 1, 2),))
    buffer.store_transition(np.zeros(1))
    buffer.prepare(None, batch_size=2, sequences=SequenceLayout(longest=2))
    assert buffer.sequence_length == 4
    buffer.reset()
    buffer.prepare(None, batch_size=2, sequences=SequenceLayout(longest=3))
    assert buffer.sequence_length == 3


def test_an_incomplete_rollout_has_no_minibatches():
    buffer = NotesRolloutBuffer(8, *SPACES, device="cpu")
    for epoch in (buffer.get(4), MinibatchSampler(buffer, 4).epoch()):
        with pytest.raises(InvalidValueError, match="^rollout_buffer must be full .* it holds 0 of 8 steps"):
            next(epoch)


class SlowLane(NotesRolloutBuffer):
    """Hands its samples out in a way of its own."""

    kind = staticmethod(lambda sample: sample)

    def get(self, batch_size=None):
        yield from map(self.kind, super().get(batch_size))


def as_namespace(sample):
    return SimpleNamespace(**sample._asdict())


@pytest.mark.parametrize("kind", [copy.copy, as_namespace])
@pytest.mark.parametrize("scope", ["minibatch", "none"])
def test_a_buffer_with_a_get_of_its_own_trains_the_same_weights(kind, scope):
    rule = UpdateRule(advantage_normalization=AdvantageNormalization(scope))
    own = type("Own", (SlowLane,), {"kind": staticmethod(kind)})
    models = [
        NotesPPO(
            "MlpPolicy",
            make_vec_env("CartPole-v1", 2, seed=0),
            rule=rule,
            n_steps=16,
            batch_size=8,
            n_epochs=2,
            seed=0,
            device="cpu",
            rollout_buffer_class=buffer_class,
        ).learn(64)
        for buffer_class in (None, own)
    ]
    assert isinstance(minibatches_of(models[1].rollout_buffer, rule, 8), SampledMinibatches)
    assert all(map(th.equal, *(model.policy.parameters() for model in models)))


@pytest.mark.parametrize(
    ("policy", "rule"),
    [("MlpLstmPolicy", UpdateRule()), ("MlpPolicy", UpdateRule(computed="every_epoch"))],
    ids=["memory", "every_epoch"],
)
def test_an_add_of_somebodys_own_loses_nothing_that_sb3s_has_no_argument_for(policy, rule):
    models = []
    for is_own in (False, True):
        env = make_vec_env(ConstantRewardEnv, 2, seed=0)
        model = NotesPPO(policy, env, rule=rule, n_steps=16, batch_size=8, n_epochs=3, seed=0, device="cpu")
        if is_own:
            add = model.rollout_buffer.add
            model.rollout_buffer.add = lambda *arguments, add=add: add(*arguments)
        models.append(model.learn(64))
    assert all(map(th.equal, *(model.policy.parameters() for model in models)))


def test_advantages_that_were_computed_again_are_in_the_next_epoch():
    """With several environments: of one alone the tensors share the buffer's memory."""
    buffer = filled(NotesRolloutBuffer)
    sampler = MinibatchSampler(buffer)
    list(sampler.epoch())
    buffer.prepare(UpdateRule(advantage_estimator=GAE(0.0)))
    buffer.compute_returns_and_advantage(th.zeros(2), np.zeros(2))
    (batch,) = sampler.epoch()
    assert sorted(batch.advantages.tolist()) == sorted(buffer.advantages.ravel().tolist())
