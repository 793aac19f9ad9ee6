"""A recurrent policy's methods take what sb3-contrib's take, and return what they return."""

import inspect
import itertools

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent import policies as contrib
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from sb3_ppo_notes import NotesPPO, policies
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError
from sb3_ppo_notes.policies.actor_critic import act, evaluate
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.policies.shipped import keeps_sb3_method, own_code_of

METHODS = ("forward", "evaluate_actions", "get_distribution", "predict_values")
VARIANTS = {
    "two_memories": dict(),
    "shared": dict(shared_lstm=True, enable_critic_lstm=False),
    "critic_without": dict(enable_critic_lstm=False),
    "two_layers": dict(n_lstm_layers=2),
    "own_code": dict(lstm_hidden_size=64),
    "two_extractors": dict(share_features_extractor=False),
    "gsde": dict(use_sde=True),
}
VECTOR = spaces.Box(-1.0, 1.0, (3,))
SPACES = {
    "discrete": (VECTOR, spaces.Discrete(3), "RecurrentActorCriticPolicy"),
    "gaussian": (VECTOR, spaces.Box(-1.0, 1.0, (2,)), "RecurrentActorCriticPolicy"),
    "multi_discrete": (VECTOR, spaces.MultiDiscrete([2, 3]), "RecurrentActorCriticPolicy"),
    "dict": (
        spaces.Dict(a=VECTOR, b=spaces.Box(0.0, 1.0, (2,))),
        spaces.MultiBinary(2),
        "RecurrentMultiInputActorCriticPolicy",
    ),
    "image": (spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Discrete(2), "RecurrentActorCriticCnnPolicy"),
}
CASES = [
    *((variant, "gaussian" if variant == "gsde" else "discrete") for variant in VARIANTS),
    *(("two_memories", name) for name in SPACES if name != "discrete"),
]


def both(variant, kind):
    """Ours and sb3-contrib's policy, with the same weights."""
    observation_space, action_space, name = SPACES[kind]
    arguments = dict(lstm_hidden_size=16, net_arch=[8]) | VARIANTS[variant]
    th.manual_seed(0)
    theirs = getattr(contrib, name)(observation_space, action_space, lambda _: 1e-3, **arguments)
    ours = getattr(policies, f"Notes{name}")(observation_space, action_space, lambda _: 1e-3, **arguments)
    ours.load_state_dict(theirs.state_dict())
    with th.no_grad():
        for policy in (ours, theirs):
            policy.action_net.weight.mul_(100.0)  # so that different features lead to different actions
            if variant == "gsde":
                th.manual_seed(1)
                policy.reset_noise(8)
    return ours, theirs


def batch_of(space, n):
    if isinstance(space, spaces.Dict):
        return {key: batch_of(part, n) for key, part in space.spaces.items()}
    space.seed(0)
    return th.as_tensor(np.stack([space.sample() for _ in range(n)]))


def states_for(policy, n_sequences):
    lstm = policy.lstm_actor
    shape = lstm.num_layers, n_sequences, lstm.hidden_size
    assert policy.lstm_hidden_state_shape == (shape[0], 1, shape[2])
    generator = th.Generator().manual_seed(1)
    pi, vf = (tuple(th.randn(shape, generator=generator) for _ in range(2)) for _ in range(2))
    return RNNStates(pi, vf)


def assert_near(one, other, most=1e-5):
    if isinstance(one, tuple):
        assert len(one) == len(other)
        for each, its in zip(one, other, strict=True):
            assert_near(each, its, most)
    else:
        assert one.shape == other.shape
        assert th.allclose(one, other, rtol=most, atol=most)


@pytest.mark.parametrize(("variant", "kind"), CASES)
@pytest.mark.parametrize("length", [1, 4])
def test_each_method_says_what_contribs_says(variant, kind, length):
    ours, theirs = both(variant, kind)
    n_sequences = 8 // length
    observations, states = batch_of(ours.observation_space, 8), states_for(ours, n_sequences)
    for starts in (th.zeros(8), th.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0])):
        with th.no_grad():
            actions, *rest, next_states = ours(observations, states, starts, True)
            their_actions, *their_rest, their_states = theirs(observations, states, starts, True)
            assert_near(actions.float(), their_actions.float())
            assert_near(tuple(rest), tuple(their_rest))
            assert_near(next_states.pi, their_states.pi)
            assert_near(next_states.vf, their_states.vf)
            distribution, pi_states = ours.get_distribution(observations, states.pi, starts)
            their_distribution, their_pi_states = theirs.get_distribution(observations, states.pi, starts)
            assert_near(pi_states, their_pi_states)
            assert type(distribution) is type(their_distribution)
            assert_near(distribution.log_prob(actions), their_distribution.log_prob(actions), 1e-4)
        # With gradients, as for an update. The critic that reads the actor's memory gets the actor's states.
        vf_states = states.pi if ours.lstm_critic is None else states.vf
        results = []
        for policy in (ours, theirs):
            values, log_probs, entropy = policy.evaluate_actions(observations, actions, states, starts)
            assert_near(policy.predict_values(observations, vf_states, starts), values)
            policy.zero_grad()
            (values.mean() + log_probs.mean() + entropy.mean()).backward()
            gradients = {name: weight.grad for name, weight in policy.named_parameters() if weight.grad is not None}
            results.append(((values, log_probs, entropy), gradients))
        assert_near(results[0][0], results[1][0], 1e-4)
        assert results[0][1].keys() == results[1][1].keys()
        for name, gradient in results[0][1].items():
            assert th.allclose(gradient, results[1][1][name], rtol=1e-3, atol=1e-4), name


def test_samples_are_contribs_too():
    """From the same generator: the random numbers are drawn alike."""
    ours, theirs = both("two_memories", "gaussian")
    observations, states, starts = batch_of(ours.observation_space, 8), states_for(ours, 8), th.zeros(8)
    drawn = []
    for policy in (ours, theirs):
        th.manual_seed(3)
        drawn.append(policy(observations, states, starts)[0])
    assert_near(*drawn)


def test_they_say_what_act_and_evaluate_say_to_the_bit():
    policy, _ = both("two_memories", "discrete")
    observations, states, starts = batch_of(policy.observation_space, 8), states_for(policy, 8), th.zeros(8)
    step = policy.one_step((*states.pi, *states.vf), starts)
    with th.no_grad():
        expected = act(policy, observations, None, step, deterministic=True)
        actions, values, log_probs, next_states = policy(observations, states, starts, deterministic=True)
        told = evaluate(policy, observations, actions, None, step)
        evaluated = policy.evaluate_actions(observations, actions, states, starts)
    for one, other in zip(expected[:3], (actions, values, log_probs), strict=True):
        assert th.equal(one, other)
    assert all(map(th.equal, expected.states, (*next_states.pi, *next_states.vf)))
    assert all(map(th.equal, (told.values.unsqueeze(1), told.log_probs, told.entropy), evaluated))


def test_a_gru_has_one_state():
    policy = NotesRecurrentPolicy(VECTOR, spaces.Discrete(3), lambda _: 1e-3, rnn="gru", lstm_hidden_size=16)
    states = RNNStates((th.randn(1, 2, 16),), (th.randn(1, 2, 16),))
    observations, starts = batch_of(VECTOR, 6), th.zeros(6)
    *_, after = policy(observations, states, starts)
    one_by_one = states
    for step in range(3):
        _, values, _, one_by_one = policy(observations[step::3], one_by_one, starts[step::3])
    assert_near((*after.pi, *after.vf), (*one_by_one.pi, *one_by_one.vf))
    assert_near(policy.predict_values(observations, states.vf, starts)[2::3], values)


def test_masks_are_taken_too():
    policy, _ = both("two_memories", "discrete")
    observations, states, starts = batch_of(VECTOR, 8), states_for(policy, 4), th.zeros(8)
    masks = np.tile([False, True, False], (8, 1))
    assert (policy(observations, states, starts, action_masks=masks)[0] == 1).all()
    distribution, _ = policy.get_distribution(observations, states.pi, starts, action_masks=masks)
    assert (distribution.sample() == 1).all()
    _, log_probs, _ = policy.evaluate_actions(observations, th.ones(8).long(), states, starts, action_masks=masks)
    assert (log_probs == 0.0).all()


def test_the_arguments_are_contribs_in_its_order():
    for method in METHODS:
        ours, theirs = (inspect.signature(getattr(kind, method)).parameters for kind in (
            NotesRecurrentPolicy, contrib.RecurrentActorCriticPolicy
        ))  # fmt: skip
        assert list(ours)[: len(theirs)] == list(theirs)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_called_without_states_says_so(method):
    policy, _ = both("two_memories", "discrete")
    arguments = [batch_of(VECTOR, 2)] + ([th.zeros(2).long()] if method == "evaluate_actions" else [])
    with pytest.raises(InvalidTypeError, match=rf"^lstm_states must be given to a policy with memory.*{method}\(obs"):
        getattr(policy, method)(*arguments)
    states = states_for(policy, 2)
    arguments.append(states if method in METHODS[:2] else states.pi)
    with pytest.raises(InvalidTypeError, match="^episode_starts must be given"):
        getattr(policy, method)(*arguments)
    with pytest.raises(InvalidValueError, match="^episode_starts must have an entry for each of the 2 observations"):
        getattr(policy, method)(*arguments, th.zeros(3))


def test_the_methods_count_as_shipped_until_somebody_replaces_one(monkeypatch):
    policy = NotesPPO("MlpLstmPolicy", "CartPole-v1", n_steps=64, device="cpu").policy
    names = ("forward", "evaluate_actions", "extract_features", "predict_values")
    assert keeps_sb3_method(policy, *names)
    assert own_code_of(policy) is None
    for name, kind in itertools.product(METHODS[:2], (NotesRecurrentPolicy, policy)):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, lambda *arguments: None)
            assert not keeps_sb3_method(policy, name)


class Own(NotesRecurrentPolicy):
    def forward(self, *arguments, **named):
        return super().forward(*arguments, **named)


def test_a_subclass_with_a_forward_of_its_own_is_somebodys_own_code():
    policy = Own(VECTOR, spaces.Discrete(2), lambda _: 1e-3)
    assert not keeps_sb3_method(policy, "forward")
    assert "forward of its own" in own_code_of(policy)
