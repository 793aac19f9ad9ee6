"""One whole update of each recipe equals the original's: skrl's own code, and for the others their documented semantics written out.

Each test lets the recipe gather a rollout, gives the same data, weights and minibatch order to the original, and compares the weights afterwards.
The oracles below use torch's distribution objects and plain loops; nothing of ``formulas`` or ``rules``.
"""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from torch.nn import functional as F

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rules import EarlyStop, MonteCarloReturn
from tests.environments import make


class Rollout:
    """What a model has just gathered, as the environment paid it, time-major."""

    def __init__(self, model):
        buffer = model.rollout_buffer
        self.observations = th.as_tensor(np.array(buffer.observations))
        actions = np.array(buffer.actions)
        self.actions = th.as_tensor(actions[..., 0].astype(np.int64) if actions.dtype.kind in "iu" else actions)
        self.rewards = np.array(buffer.rewards, dtype=np.float64)
        self.starts = np.array(buffer.episode_starts)
        self.dones = np.array(model._last_episode_starts)
        self.last_observations = th.as_tensor(model._last_obs)

    @property
    def ends(self):
        """dₜ ``[T, B]``: whether the step ended its episode."""
        return np.concatenate([self.starts[1:] != 0, self.dones[None]])


def gathered(algorithm, recipe, env, seed=4, **overrides):
    """A model with a rollout in its buffer, and a copy of its policy from before any update."""
    model = algorithm.from_recipe(recipe, env, seed=seed, device="cpu", **overrides)
    _, callback = model._setup_learn(10**6)
    model._current_progress_remaining = 1.0
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    model.weights_before = copy.deepcopy(model.policy.state_dict())
    return model, copy.deepcopy(model.policy), Rollout(model)


def assert_same_weights(model, policy, tolerance=1e-5):
    before = model.weights_before
    for (name, mine), theirs in zip(model.policy.state_dict().items(), policy.state_dict().values(), strict=True):
        assert (mine - theirs).abs().max().item() < tolerance, name
    assert max((mine - before[name]).abs().max().item() for name, mine in model.policy.state_dict().items()) > 1e-4


def values_of(policy, observations):
    return policy.predict_values(observations.reshape(-1, *observations.shape[2:])).reshape(observations.shape[:2])


def log_probs_and_entropy(policy, rollout):
    flat = rollout.observations.reshape(-1, *rollout.observations.shape[2:])
    distribution = policy.get_distribution(flat)
    actions = rollout.actions.reshape(len(flat), *rollout.actions.shape[2:])
    return distribution.log_prob(actions).reshape(rollout.observations.shape[:2]), distribution.entropy()


def adam(parameters, learning_rate):
    return th.optim.Adam(parameters, lr=learning_rate, eps=1e-8)


def boxes(n_envs):
    return make_vec_env(lambda: make("box"), n_envs=n_envs, seed=2)


def choices(n_envs):
    return make_vec_env(lambda: make("discrete"), n_envs=n_envs, seed=2)


def discounted_to_go(rewards, ends, gamma, last=None):
    """Rewards to go, one step at a time, until an episode ends; ``last`` stands for what follows the rollout."""
    returns = np.zeros_like(rewards)
    for b in range(rewards.shape[1]):
        for t in range(len(rewards)):
            weight = 1.0
            for k in range(t, len(rewards)):
                returns[t, b] += weight * rewards[k, b]
                weight *= gamma
                if ends[k, b]:
                    break
            else:
                returns[t, b] += weight * (0.0 if last is None else last[b])
    return returns


@pytest.mark.slow
@pytest.mark.parametrize("kl_threshold", [0.0, 1e-6])
def test_skrl_update_equals_skrls_own_code(kl_threshold):
    skrl_ppo = pytest.importorskip("skrl.agents.torch.ppo", reason="skrl is a dev dependency")
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model

    rule = RECIPES["skrl"].rule
    if kl_threshold:
        stop = EarlyStop(target=kl_threshold, factor=1.0, scope="epoch")
        rule = dataclasses.replace(rule, kl_controls=(stop,))
    n_envs = 4
    model, policy, rollout = gathered(NotesPPO, "skrl", choices(n_envs), rule=rule)
    env = model.env

    class Actor(CategoricalMixin, Model):
        def __init__(self):
            Model.__init__(self, env.observation_space, env.action_space, "cpu")
            CategoricalMixin.__init__(self, unnormalized_log_prob=True)
            self.body, self.head = policy.mlp_extractor.policy_net, policy.action_net

        def compute(self, inputs, role):
            return self.head(self.body(inputs["states"])), {}

    class Critic(DeterministicMixin, Model):
        def __init__(self):
            Model.__init__(self, env.observation_space, env.action_space, "cpu")
            DeterministicMixin.__init__(self)
            self.body, self.head = policy.mlp_extractor.value_net, policy.value_net

        def compute(self, inputs, role):
            return self.head(self.body(inputs["states"])), {}

    config = copy.deepcopy(skrl_ppo.PPO_DEFAULT_CONFIG) | {"kl_threshold": kl_threshold}
    config["experiment"] |= {"write_interval": 0, "checkpoint_interval": 0}
    memory = RandomMemory(memory_size=16, num_envs=n_envs, device="cpu")
    agent = skrl_ppo.PPO(
        {"policy": Actor(), "value": Critic()}, memory, env.observation_space, env.action_space, "cpu", config
    )
    agent.init()
    with th.no_grad():
        log_probs, _ = log_probs_and_entropy(policy, rollout)
        values = values_of(policy, rollout.observations)
    for t in range(16):
        memory.add_samples(
            states=rollout.observations[t],
            actions=rollout.actions[t][:, None],
            rewards=th.as_tensor(rollout.rewards[t], dtype=th.float32)[:, None],
            terminated=th.as_tensor(rollout.ends[t])[:, None],
            truncated=th.zeros(n_envs, 1, dtype=th.bool),
            log_prob=log_probs[t][:, None],
            values=values[t][:, None],
        )
    agent._current_next_states = rollout.last_observations
    agent._update(0, 1)
    model.train()
    assert_same_weights(model, policy)


def test_minimal_rl_update():
    model, policy, rollout = gathered(NotesPPO, "minimal_rl", choices(1), seed=3)
    with th.no_grad():
        old_log_probs = log_probs_and_entropy(policy, rollout)[0]
    # V(s'): of the next stored state, of the last observation at a time limit (bootstrapped), 0 at a true end
    terminal = {t: th.as_tensor(observation) for t, _, observation in model.rollout_buffer._cuts}
    rewards = th.as_tensor(np.array(model.rollout_buffer.env_rewards), dtype=th.float32)
    optimizer = adam(policy.parameters(), 5e-4)
    for _ in range(3):
        with th.no_grad():
            values = values_of(policy, rollout.observations)
            following = th.cat([values[1:], policy.predict_values(rollout.last_observations).T])
            for t in range(20):
                if rollout.ends[t, 0]:
                    following[t, 0] = policy.predict_values(terminal[t][None]).item() if t in terminal else 0.0
            target = rewards + 0.98 * following
            advantages, running = th.zeros(20, 1), 0.0
            for t in range(19, -1, -1):
                running = (target - values)[t, 0] + 0.98 * 0.95 * running * (not rollout.ends[t, 0])
                advantages[t, 0] = running
        ratio = th.exp(log_probs_and_entropy(policy, rollout)[0] - old_log_probs)
        clipped = th.clamp(ratio, 0.9, 1.1) * advantages
        loss = -th.min(ratio * advantages, clipped) + F.smooth_l1_loss(
            values_of(policy, rollout.observations), target, reduction="none"
        )
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    model.train()
    assert rollout.ends.sum() >= 1
    assert len(terminal) >= 1
    assert_same_weights(model, policy)


@pytest.mark.parametrize("truncation", ["bootstrap", "terminal"], ids=["max_ep_len", "a limit of gym's below it"])
def test_spinning_up_update(truncation):
    rule = dataclasses.replace(RECIPES["spinning_up"].rule, truncation=truncation)
    env = make_vec_env(lambda: make("discrete"), n_envs=1, seed=3)
    model, policy, rollout = gathered(NotesPPO, "spinning_up", env, n_steps=200, batch_size=200, rule=rule)
    as_paid = np.array_equal(rollout.rewards, rollout.actions.numpy())  # this environment pays the action's number
    assert as_paid == (truncation == "terminal")
    with th.no_grad():
        old_log_probs = log_probs_and_entropy(policy, rollout)[0]
        values = values_of(policy, rollout.observations).double().numpy()
        last = policy.predict_values(rollout.last_observations).double().numpy().ravel()
    # rollout.rewards already hold γ·V(s') at time limits, which is what its last_val does to both sums
    following = np.concatenate([values[1:], last[None]]) * ~rollout.ends
    deltas = rollout.rewards + 0.99 * following - values
    advantages = discounted_to_go(deltas, rollout.ends, 0.99 * 0.97)
    returns = discounted_to_go(rollout.rewards, rollout.ends, 0.99, last)
    advantages = th.as_tensor((advantages - advantages.mean()) / advantages.std(), dtype=th.float32)
    returns = th.as_tensor(returns, dtype=th.float32)
    critic = [*policy.mlp_extractor.value_net.parameters(), *policy.value_net.parameters()]
    actor = [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    pi_optimizer, vf_optimizer = adam(actor, 3e-4), adam(critic, 1e-3)
    steps = 0
    for _ in range(80):
        log_probs = log_probs_and_entropy(policy, rollout)[0]
        if (old_log_probs - log_probs).mean().item() > 1.5 * 0.01:
            break
        ratio = th.exp(log_probs - old_log_probs)
        loss = -th.min(ratio * advantages, th.where(advantages > 0, 1.2 * advantages, 0.8 * advantages)).mean()
        pi_optimizer.zero_grad()
        loss.backward()
        pi_optimizer.step()
        steps += 1
    for _ in range(80):
        vf_optimizer.zero_grad()
        ((values_of(policy, rollout.observations) - returns) ** 2).mean().backward()
        vf_optimizer.step()
    model.train()
    assert 0 < steps < 80
    assert model.last_report.n_gradient_steps == steps + 80
    assert_same_weights(model, policy, tolerance=2e-5)


class TensorFlowAdam:
    """Adam as TensorFlow steps it: ε stands beside √v before that is corrected, which makes it larger at first."""

    def __init__(self, parameters, learning_rate):
        self.weights, self.learning_rate, self.count = list(parameters), learning_rate, 0
        self.means, self.squares = ([th.zeros_like(weight) for weight in self.weights] for _ in range(2))

    def zero_grad(self):
        for weight in self.weights:
            weight.grad = None

    @th.no_grad()
    def step(self):
        self.count += 1
        rate = self.learning_rate * math.sqrt(1 - 0.999**self.count) / (1 - 0.9**self.count)
        for weight, mean, square in zip(self.weights, self.means, self.squares, strict=True):
            mean.mul_(0.9).add_(weight.grad, alpha=0.1)
            square.mul_(0.999).add_(weight.grad**2, alpha=0.001)
            weight -= rate * mean / (square.sqrt() + 1e-8)


def returns_by_powers(rewards, gamma):
    """Rewards to go of one sequence, as a matrix of powers times a vector."""
    exponents = np.arange(len(rewards)) - np.arange(len(rewards))[:, None]
    return np.where(exponents >= 0, gamma ** np.maximum(exponents, 0), 0.0) @ rewards


def batch_ppo_estimates(rollout, values, gamma, chunk):
    """Episode by episode: the advantage of the whole one, then chunks, whose rewards alone make the critic's target."""
    advantages, targets = np.zeros_like(values), np.zeros_like(values)
    for b in range(values.shape[1]):
        borders = [0, *(np.flatnonzero(rollout.ends[:, b]) + 1), len(values)]
        for begin, end in itertools.pairwise(borders):
            advantages[begin:end, b] = returns_by_powers(rollout.rewards[begin:end, b], gamma) - values[begin:end, b]
            for first in range(begin, end, chunk):
                rows = slice(first, min(first + chunk, end))
                targets[rows, b] = returns_by_powers(rollout.rewards[rows, b], gamma)
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8), targets


def batch_ppo_update(model, policy, rollout, chunk, optimizer):
    """25 epochs in minibatches, and β for the next rollout."""
    flat = [
        th.as_tensor(model.rollout_buffer.flat(getattr(model.rollout_buffer, name)))
        for name in ("observations", "actions")
    ]
    with th.no_grad():
        old = policy.get_distribution(flat[0]).distribution
        old = th.distributions.Normal(old.loc.clone(), old.scale.clone())
        old_log_probs = old.log_prob(flat[1]).sum(1)
        values = values_of(policy, rollout.observations).double().numpy()
    estimates = batch_ppo_estimates(rollout, values, 0.995, chunk)
    advantages, returns = (th.as_tensor(array.T.reshape(-1), dtype=th.float32) for array in estimates)

    def kl_to(rows):
        new = policy.get_distribution(flat[0][rows]).distribution
        old_rows = th.distributions.Normal(old.loc[rows], old.scale[rows])
        return th.distributions.kl_divergence(old_rows, new).sum(1)

    for _ in range(25):
        order = th.as_tensor(np.random.permutation(len(returns)))
        for rows in order.split(model.batch_size):
            new = policy.get_distribution(flat[0][rows])
            ratio = th.exp(new.log_prob(flat[1][rows]) - old_log_probs[rows])
            kl = kl_to(rows)
            wall = 1000 * max(kl.mean() - 0.02, th.zeros(())) ** 2
            value_error = (policy.predict_values(flat[0][rows]).flatten() - returns[rows]) ** 2
            loss = -(ratio * advantages[rows]).mean() + 1.0 * kl.mean() + wall + 0.5 * value_error.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with th.no_grad():
        kl = kl_to(th.arange(len(returns))).mean().item()
    return 1.5 if kl > 0.013 else 1 / 1.5 if kl < 0.007 else 1.0


@pytest.mark.parametrize("chunk", [5, 50])
def test_batch_ppo_update_and_its_penalty(chunk):
    rule = RECIPES["batch_ppo"].rule
    assert (rule.advantage_estimator.chunk, rule.value_target.chunk) == (None, 50)
    rule = dataclasses.replace(rule, value_target=MonteCarloReturn(bootstrap=False, chunk=chunk))
    # Chunks of 5 end inside the episodes of at most 13 steps; chunks of 50 inside Pendulum's of 200.
    env = boxes(4) if chunk == 5 else make_vec_env("Pendulum-v1", n_envs=2, seed=2)
    sizes = dict(n_steps=60, batch_size=80) if chunk == 5 else dict(n_steps=200, batch_size=100)
    model, policy, rollout = gathered(NotesPPO, "batch_ppo", env, rule=rule, **sizes)
    np.random.seed(8)
    kl_coef = batch_ppo_update(model, policy, rollout, chunk, adam(policy.parameters(), 1e-4))
    np.random.seed(8)
    model.train()
    assert_same_weights(model, policy)
    assert model.rule_state.kl_coef == kl_coef


@pytest.mark.slow
def test_tensorflows_adam_leaves_a_typical_weight_of_the_policy_a_little_elsewhere():
    env = make_vec_env("Pendulum-v1", n_envs=30, seed=4)
    model, policy, rollout = gathered(NotesPPO, "batch_ppo", env)
    np.random.seed(8)
    batch_ppo_update(model, policy, rollout, 50, TensorFlowAdam(policy.parameters(), 1e-4))
    np.random.seed(8)
    model.train()
    weight = "mlp_extractor.policy_net.2.weight"  # 20,000 of the policy's 20,900 weights
    mine, theirs = model.policy.state_dict()[weight], policy.state_dict()[weight]
    assert (mine - model.weights_before[weight]).abs().median().item() == pytest.approx(9e-4, rel=0.5)
    assert 3e-6 < (mine - theirs).abs().median().item() < 3e-5
    assert 1e-3 < (mine - theirs).abs().max().item() < 2e-2  # where the gradient is no larger than ε


def test_batch_ppo_starts_with_its_deviations_in_torque():
    policy = NotesPPO.from_recipe("batch_ppo", "Pendulum-v1", seed=0, device="cpu", n_envs=1).policy
    assert policy.log_std.exp().item() == pytest.approx(0.35 * 2)  # actions in [-1, 1], stretched to [-2, 2]
    assert policy.action_net.weight.std().item() == pytest.approx(0.058, rel=0.15)  # PyTorch's: uniform, 1/√(3·100)
    # There a normal, cut at two deviations: √(1.3·0.1/100) before the cut
    normal = np.random.default_rng(0).normal(0, math.sqrt(1.3 * 0.1 / 100), 100_000)
    assert normal[np.abs(normal) < 2 * math.sqrt(1.3 * 0.1 / 100)].std() == pytest.approx(0.032, rel=0.02)


def test_moral_rl_update():
    model, policy, rollout = gathered(NotesPPO, "moral_rl", choices(3), n_steps=30, batch_size=90)
    with th.no_grad():
        old_log_probs = log_probs_and_entropy(policy, rollout)[0]
    rewards = np.array(model.rollout_buffer.env_rewards, dtype=np.float64)
    for b in range(3):
        begin = 0
        for t in range(30):
            if rollout.ends[t, b] or t == 29:
                part = rewards[begin : t + 1, b]
                rewards[begin : t + 1, b] = (part - part.mean()) / (part.std() + 1e-5)
                begin = t + 1
    returns = th.as_tensor(discounted_to_go(rewards, rollout.ends, 0.999), dtype=th.float32)
    optimizer = adam(policy.parameters(), 3e-4)
    for _ in range(5):
        log_probs, entropy = log_probs_and_entropy(policy, rollout)
        values = values_of(policy, rollout.observations)
        advantages = returns - values.detach()
        bound = th.where(advantages >= 0, 1.1 * advantages, 0.9 * advantages)
        objective = th.min(th.exp(log_probs - old_log_probs) * advantages, bound).mean()
        loss = -objective - 0.05 * entropy.mean() + ((returns - values) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.train()
    assert_same_weights(model, policy)


def test_tsukurinagara_update():
    # Episodes of at most 13 steps all fail (-1 at the end); the limit counts as an end.
    model, policy, rollout = gathered(NotesA2C, "tsukurinagara", choices(4), n_steps=20)
    assert set(np.unique(rollout.rewards)) == {-1.0, 0.0}
    optimizer = adam(policy.parameters(), 1e-2)
    log_probs, entropy = log_probs_and_entropy(policy, rollout)
    values = values_of(policy, rollout.observations)
    with th.no_grad():
        last = policy.predict_values(rollout.last_observations).double().numpy().ravel()
    returns = th.as_tensor(discounted_to_go(rollout.rewards, rollout.ends, 0.99, last), dtype=th.float32)
    advantages = returns - values
    loss = 0.5 * (advantages**2).mean() - (log_probs * advantages.detach()).mean() - 0.01 * entropy.mean()
    optimizer.zero_grad()
    loss.backward()
    th.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
    optimizer.step()
    model.train()
    assert_same_weights(model, policy)


def test_the_actor_term_does_not_train_the_critic():
    """A missing detach: the advantage must be a constant in the policy's objective, the target one in the critic's."""
    model, _, _ = gathered(NotesA2C, "tsukurinagara", choices(4), vf_coef=0.0, ent_coef=0.0)
    before = model.policy.value_net.weight.clone()
    model.train()
    assert th.equal(model.policy.value_net.weight, before)
    assert math.isfinite(model.last_report.loss)
