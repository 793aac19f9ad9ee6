"""Each choice of the rule table: golden values of the seed systems, their defects as regressions, and what stays stock."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_notes import NotesA2C, NotesPPO, rules
from sb3_ppo_notes.callbacks import StopWhenAllSucceeded
from sb3_ppo_notes.envs.wrappers import StreamingNormalize, VecEpisodeEndReward, VecRewardScale
from sb3_ppo_notes.formulas.adaptation import adapted_learning_rate, adapted_penalty
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, NonFiniteError
from sb3_ppo_notes.formulas.divergences import kl_cutoff
from sb3_ppo_notes.formulas.normalization import Moments, merged_moments, streaming_std, trajectory_z_scores
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rules import (
    GAE,
    AdaptiveLearningRate,
    AdvantageNormalization,
    EarlyStop,
    HuberValueError,
    KLPenalty,
    LambdaReturn,
    MonteCarlo,
    MonteCarloReturn,
    NStep,
    NStepReturn,
    Optimization,
    OptimizerSettings,
    PessimisticValueError,
    RolloutArrays,
    SeparateOptimizers,
    TDZero,
    UpdateRule,
)
from tests import environments

SMALL = dict(n_steps=32, batch_size=32, n_epochs=3, seed=0, device="cpu", learning_rate=1e-2)
BANDS = {"batch_ppo": ((0.7, 1.3), 1.5), "paper": ((1 / 1.5, 1.5), 2.0)}


def small(rule=None, env="CartPole-v1", **arguments):
    return NotesPPO("MlpPolicy", env, rule=rule, **SMALL | arguments)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def same(one, other):
    return all(th.equal(one[name], other[name]) for name in one)


def arrays(rewards, values, last_value=0.0, ends=()):
    rewards, values = (np.array(numbers, dtype=np.float64)[:, None] for numbers in (rewards, values))
    nonterminal = np.ones_like(rewards)
    nonterminal[list(ends)] = 0
    return RolloutArrays(rewards, values, np.concatenate([values[1:], [[last_value]]]), nonterminal)


# -- golden values --------------------------------------------------------------------------------------------


def test_adaptive_learning_rate_trace():
    # threshold .008: above .016 divided by 1.5, below .004 multiplied, both strictly
    control, rate, trace = AdaptiveLearningRate(), 1e-3, []
    for kl in (0.016, 0.0161, 0.004, 0.0039, 0.008, 0.0, 0.5):
        rate = control.next_learning_rate(rate, kl)
        trace.append(rate)
    assert trace == pytest.approx([1e-3, 6.667e-4, 6.667e-4, 1e-3, 1e-3, 1.5e-3, 1e-3], rel=1e-3)


def test_adaptive_learning_rate_stays_within_its_bounds_and_ignores_nan():
    bounds = (1e-6, 1e-2)
    assert adapted_learning_rate(8e-3, 0.0, 0.008, 2.0, 1.5, bounds) == 1e-2
    assert adapted_learning_rate(1.2e-6, 1.0, 0.008, 2.0, 1.5, bounds) == 1e-6
    assert adapted_learning_rate(1e-3, float("nan"), 0.008, 2.0, 1.5, bounds) == 1e-3


@pytest.mark.parametrize(
    ("adaptation", "expected"),
    [("batch_ppo", [1, 1.5, 1.5, 1, 1, 1.5, 2.25, 1.5]), ("paper", [1, 1, 1, 1, 1, 2, 4, 2])],
)
def test_penalty_trace(adaptation, expected):
    objective, coefficient, trace = KLPenalty(target=0.01, adaptation=adaptation), 1.0, []
    for kl in (0.013, 0.0131, 0.007, 0.0069, 0.01, 0.02, 0.02, 0.001):
        coefficient = objective.next_coefficient(coefficient, kl)
        trace.append(coefficient)
    assert trace == pytest.approx(expected)


def test_penalty_neither_dies_nor_overflows():
    band, factor = BANDS["batch_ppo"]
    down, up = 1.0, 1.0
    for _ in range(400):
        down = adapted_penalty(down, 0.0, 0.01, band, factor, (1e-6, 1e6))
        up = adapted_penalty(up, 1.0, 0.01, band, factor, (1e-6, 1e6))
    assert (down, up) == (1e-6, 1e6)
    assert adapted_penalty(down, 1.0, 0.01, band, factor, (1e-6, 1e6)) > down


def test_fixed_penalty_stays():
    assert KLPenalty(adaptation="fixed").next_coefficient(3.0, 100.0) == 3.0


def test_cutoff_golden_values_and_slopes():
    kl = th.tensor([0.02, 0.03, 0.05, 0.1], requires_grad=True)
    wall = kl_cutoff(kl, threshold=0.02, coefficient=1000.0)
    wall.sum().backward()
    assert wall.tolist() == pytest.approx([0, 0.1, 0.9, 6.4], abs=1e-5)
    assert kl.grad.tolist() == pytest.approx([0, 20, 60, 160], abs=1e-3)


def test_spinning_up_paths():
    # r=1, V=.5, γ=.9, λ=.5. Ended by a terminal state: rewards to go 2.71, 1.9, 1; cut with V=2: closed by .9³·2 …
    terminal, cut = arrays([1, 1, 1], [0.5] * 3, 2.0, ends=[2]), arrays([1, 1, 1], [0.5] * 3, 2.0)
    for rollout, advantages, returns in (
        (terminal, [1.47875, 1.175, 0.5], [2.71, 1.9, 1]),
        (cut, [1.84325, 1.985, 2.3], [4.168, 3.52, 2.8]),
    ):
        rule = UpdateRule(advantage_estimator=GAE(0.5), value_target=MonteCarloReturn())
        assert [array.ravel() for array in rule.estimate(rollout, 0.9)] == [
            pytest.approx(advantages),
            pytest.approx(returns),
        ]
    lambda_returns = UpdateRule(advantage_estimator=GAE(0.5)).estimate(terminal, 0.9)[1]
    assert lambda_returns.ravel() == pytest.approx([1.97875, 1.675, 1])


def test_a_true_terminal_on_the_last_step_is_not_bootstrapped():
    # Spinning Up's defect: it would give A (1.985, 2.3) and returns (3.52, 2.8)
    rule = UpdateRule(advantage_estimator=GAE(0.5), value_target=MonteCarloReturn())
    advantages, returns = rule.estimate(arrays([1, 1], [0.5, 0.5], 2.0, ends=[1]), 0.9)
    assert (list(advantages.ravel()), list(returns.ravel())) == (pytest.approx([1.175, 0.5]), pytest.approx([1.9, 1]))


@pytest.mark.filterwarnings("ignore:.*lie outside of")  # Scripted's observations count
@pytest.mark.parametrize(("limit", "bootstrapped"), [(2, True), (3, False), (4, False)])
def test_an_end_at_the_very_step_of_the_time_limit_is_not_bootstrapped(limit, bootstrapped):
    # Spinning Up asks only whether max_ep_len is reached, and so bootstraps an episode that ends at that very step
    env = make_vec_env(lambda: TimeLimit(Scripted([3], reward=1.0), limit), n_envs=1)
    model = NotesPPO.from_recipe("spinning_up", env, n_steps=12, batch_size=12, seed=0, device="cpu")
    _, callback = model._setup_learn(100)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 12)
    assert (np.array(model.rollout_buffer.rewards) != 1).any() == bootstrapped


def test_minimal_rl_values():
    # r=.01, V=(.2,.3,.4), V'=(.3,.4,.5), γ=.98, λ=.95
    rule = UpdateRule(advantage_estimator=GAE(0.95), value_target=TDZero())
    for ends, advantages, targets in (
        ([], [0.285638, 0.1951, 0.1], [0.304, 0.402, 0.5]),
        ([2], [-0.139075, -0.26109, -0.39], [0.304, 0.402, 0.01]),
    ):
        found = rule.estimate(arrays([0.01] * 3, [0.2, 0.3, 0.4], 0.5, ends), 0.98)
        assert found[0].ravel() == pytest.approx(advantages, abs=1e-6)
        assert found[1].ravel() == pytest.approx(targets)


def test_a2c_five_steps():
    estimator = NStep(5)
    zeros, halves = [0] * 5, [0.5] * 5
    returns = estimator.advantages(arrays(zeros, halves, 0.5), 0.99).ravel() + 0.5
    assert returns == pytest.approx([0.475495, 0.480298, 0.485149, 0.49005, 0.495], abs=1e-6)
    returns = NStepReturn(5).returns(arrays([0, 0, -1, 0, 0], halves, 0.5, ends=[2]), 0.99, None).ravel()
    assert returns == pytest.approx([-0.9801, -0.99, -1, 0.49005, 0.495], abs=1e-6)


def test_chunked_monte_carlo():
    ones = arrays([1] * 6, [0] * 6)
    full = MonteCarloReturn(bootstrap=False).returns(ones, 0.9, None).ravel()
    assert full == pytest.approx([4.68559, 4.0951, 3.439, 2.71, 1.9, 1])
    chunked = MonteCarlo(bootstrap=False, chunk=3).advantages(ones, 0.9).ravel()
    assert chunked == pytest.approx([2.71, 1.9, 1, 2.71, 1.9, 1])


def test_chunks_are_counted_from_the_first_step_of_an_episode():
    ones = arrays([1] * 6, [0] * 6, ends=[1])  # episodes of 2 and 4 steps: chunks of 2, 3 and 1
    chunked = MonteCarloReturn(bootstrap=False, chunk=3).returns(ones, 0.9, None).ravel()
    assert chunked == pytest.approx([1.9, 1, 2.71, 1.9, 1, 1])


def test_a_chunk_cuts_batch_ppos_value_target_and_not_its_advantage():
    # One episode of 60 steps that pays 1 at its very end, V = 0, γ = .995
    advantages, targets = RECIPES["batch_ppo"].rule.estimate(arrays([0] * 59 + [1], [0] * 60, ends=[59]), 0.995)
    assert advantages[0].item() == pytest.approx(0.995**59)
    assert targets[[0, 49, 50, 59]].ravel() == pytest.approx([0, 0, 0.995**9, 1])


def test_monte_carlo_without_bootstrap_leaves_the_rest_out():
    rollout = arrays([1, 1], [0, 0], last_value=100.0)
    assert MonteCarloReturn(bootstrap=False).returns(rollout, 0.5, None).ravel() == pytest.approx([1.5, 1])
    assert MonteCarloReturn(bootstrap=True).returns(rollout, 0.5, None).ravel() == pytest.approx([26.5, 51])


def test_lambda_one_equals_monte_carlo_and_many_steps():
    rollout = arrays([1, 2, 3, 4], [0.5, 1, 1.5, 2], 3.0, ends=[1])
    expected = GAE(1.0).advantages(rollout, 0.9)
    assert MonteCarlo().advantages(rollout, 0.9) == pytest.approx(expected)
    assert NStep(4).advantages(rollout, 0.9) == pytest.approx(expected)
    assert LambdaReturn().returns(rollout, 0.9, expected) == pytest.approx(expected + rollout.values)


def test_padded_normalisation_counts_the_padding_and_ours_has_none():
    # batch-ppo normalises over [[1,2,3,4],[5,7,0,0]]; the six real numbers alone give other values
    padded = AdvantageNormalization("rollout", ddof=0).normalize(th.tensor([1.0, 2, 3, 4, 5, 7, 0, 0]))
    real = AdvantageNormalization("rollout", ddof=0).normalize(th.tensor([1.0, 2, 3, 4, 5, 7]))
    assert padded[:6].tolist() == pytest.approx([-0.750, -0.322, 0.107, 0.536, 0.965, 1.823], abs=1e-3)
    assert real.tolist() == pytest.approx([-1.352, -0.845, -0.338, 0.169, 0.676, 1.690], abs=1e-3)


def test_streaming_moments_in_any_chunks():
    empty = Moments(0, np.zeros(()), np.zeros(()))
    at_once = merged_moments(empty, np.arange(10.0))
    in_two = merged_moments(merged_moments(empty, np.arange(4.0)), np.arange(4.0, 10.0))
    one_by_one = empty
    for number in range(10):
        one_by_one = merged_moments(one_by_one, np.array([float(number)]))
    for moments in (at_once, in_two, one_by_one):
        assert (moments.n, float(moments.mean)) == (10, pytest.approx(4.5))
        assert float(moments.deviations) / 9 == pytest.approx(9.166667)
    assert merged_moments(at_once, np.zeros(0)) is at_once


def test_one_row_gives_no_nan():
    # skrl's running scaler takes the unbiased variance of a batch: of one row that is NaN, and NaN it stays
    moments = merged_moments(Moments(0, np.zeros(2), np.zeros(2)), np.array([[3.0, 4.0]]))
    assert np.isfinite(streaming_std(moments)).all()
    assert np.isfinite(streaming_std(merged_moments(moments, np.array([[5.0, 6.0]])))).all()


def test_streaming_std_golden_values():
    empty = Moments(0, np.zeros(()), np.zeros(()))
    assert float(streaming_std(merged_moments(empty, np.array([1.0, 2, 3])))) == pytest.approx(1.00005, abs=1e-5)
    assert float(streaming_std(merged_moments(empty, np.array([0.0, 0, 0, 1])))) == pytest.approx(0.5001, abs=1e-4)
    assert float(streaming_std(merged_moments(empty, np.array([7.0])))) == 1.0


def test_reward_z_scores_erase_the_signal():
    one = np.ones((4, 1))
    assert (trajectory_z_scores(one, one) == 0).all()
    low, high = np.array([[1.0], [2], [3]]), np.array([[101.0], [102], [103]])
    assert trajectory_z_scores(low, np.ones((3, 1))) == pytest.approx(trajectory_z_scores(high, np.ones((3, 1))))
    assert trajectory_z_scores(low, np.ones((3, 1))).ravel() == pytest.approx([-1.2247, 0, 1.2247], abs=1e-3)
    sparse = trajectory_z_scores(np.array([[0.0], [0], [0], [1]]), np.ones((4, 1))).ravel()
    assert sparse == pytest.approx([-0.577, -0.577, -0.577, 1.732], abs=1e-3)


def test_reward_z_scores_stay_within_their_trajectory():
    rewards, nonterminal = np.array([[1.0], [3], [10], [30]]), np.array([[1.0], [0], [1], [1]])
    assert trajectory_z_scores(rewards, nonterminal).ravel() == pytest.approx([-1, 1, -1, 1], abs=1e-4)


# -- wrappers -------------------------------------------------------------------------------------------------


class Scripted(environments.SpaceEnv):
    """Rewards and episode lengths as told."""

    def __init__(self, lengths, reward=1.0):
        super().__init__(*environments.SPACES["discrete"])
        self.lengths, self.reward, self.episode = lengths, reward, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.length = self.lengths[self.episode % len(self.lengths)]
        return np.full(3, float(self.episode), dtype=np.float32), {}

    def step(self, action):
        self.count += 1
        return np.full(3, float(self.count), dtype=np.float32), self.reward, self.count >= self.length, False, {}


def test_reward_scale():
    env = VecRewardScale(make_vec_env(lambda: Scripted([5], reward=3.0), n_envs=2), scale=0.01)
    env.reset()
    assert env.step(np.zeros(2, dtype=int))[1].tolist() == pytest.approx([0.03, 0.03])


@pytest.mark.parametrize(("length", "reward"), [(194, -1), (195, -1), (196, 1), (197, 1)])
def test_episode_end_reward_threshold(length, reward):
    env = VecEpisodeEndReward(make_vec_env(lambda: Scripted([length]), n_envs=1))
    env.reset()
    rewards = [env.step(np.zeros(1, dtype=int)) for _ in range(length)]
    assert [float(step[1][0]) for step in rewards] == [0.0] * (length - 1) + [reward]
    assert rewards[-1][3][0]["is_success"] == (reward == 1)


def test_streaming_normalise_clips_centres_and_keeps_the_sign_of_rewards(tmp_path):
    env = StreamingNormalize(make_vec_env(lambda: Scripted([5], reward=-2.0), n_envs=2))
    env.observation_moments = Moments(3, np.full(3, 2.0), np.full(3, 2.0))
    assert env.normalize_observations(np.array([1.0, 3.0, 100.0])) == pytest.approx([-0.99995, 0.99995, 5.0], abs=1e-5)
    env.reward_moments = Moments(4, np.array(0.25), np.array(0.75))
    assert env.normalize_rewards(np.array([1.0, 100.0, -1.0])) == pytest.approx([1.9996, 10.0, -1.9996], abs=1e-3)
    env.save(tmp_path / "statistics.json")
    other = StreamingNormalize(make_vec_env(lambda: Scripted([5]), n_envs=1))
    other.load(tmp_path / "statistics.json")
    assert np.array_equal(other.observation_moments.mean, env.observation_moments.mean)
    other.training = False
    other.reset()
    assert other.observation_moments.n == 3
    with pytest.raises(InvalidValueError, match="^path must hold statistics"):
        StreamingNormalize(make_vec_env("CartPole-v1")).load(tmp_path / "statistics.json")


def test_streaming_normalise_learns_each_observation_once():
    env = StreamingNormalize(make_vec_env(lambda: Scripted([2]), n_envs=2))
    env.reset()
    _, _, dones, infos = [env.step(np.zeros(2, dtype=int)) for _ in range(2)][-1]
    assert env.observation_moments.n == 6
    assert env.reward_moments.n == 4
    assert dones.all()
    assert np.abs(infos[0]["terminal_observation"]).max() <= 5


# -- KL control and the rest of the update --------------------------------------------------------------------


def test_with_controls_that_never_act_parity_with_stock_holds():
    stock = PPO("MlpPolicy", "CartPole-v1", **SMALL).learn(128)
    for scope in ("update", "epoch", "policy"):
        ours = small(UpdateRule(kl_controls=(EarlyStop(1e9, scope=scope, estimator="exact"),))).learn(128)
        assert same(weights(ours), weights(stock))


@pytest.mark.parametrize("estimator", ["k2", "k3", "exact"])  # k1 may be negative and never stop anybody
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "multi_discrete", "multi_binary"])
def test_scopes_of_the_early_stop(estimator, env):
    env = env if "-v" in env else make_vec_env(lambda: environments.make(env), n_envs=1)
    steps = {}
    for scope in ("update", "epoch", "policy"):
        stop = EarlyStop(1e-9, factor=1.0, estimator=estimator, scope=scope)
        model = small(UpdateRule(kl_controls=(stop,)), env=env, batch_size=16, learning_rate=1e-3)
        model.learn(32)
        # The first minibatch is at ratio 1 and passes; after its step the limit is crossed.
        steps[scope] = model.last_report.n_gradient_steps
        assert model.last_report.stopped_in_epoch is not None
    assert steps["policy"] == 6
    assert steps["update"] <= steps["epoch"] < 6


def test_scope_policy_leaves_the_actor_alone_and_goes_on_with_the_critic():
    stop = EarlyStop(1e-12, factor=1.0, estimator="k2", scope="policy")
    once = small(n_epochs=1).learn(32)
    model = small(UpdateRule(kl_controls=(stop,)), n_epochs=5).learn(32)
    # One optimiser for both, with momentum: a weight without a gradient is passed over by Adam, it does not coast.
    assert th.equal(model.policy.action_net.weight, once.policy.action_net.weight)
    assert not th.equal(model.policy.value_net.weight, once.policy.value_net.weight)


def test_decided_on_the_epochs_mean():
    stop = EarlyStop(1e-9, factor=1.0, estimator="k3", decided="epoch")
    model = small(UpdateRule(kl_controls=(stop,)), batch_size=8)
    model.learn(32)
    assert model.last_report.n_gradient_steps == 4  # the whole first epoch, and no second
    assert model.last_report.stopped_in_epoch == 0


def test_adapted_learning_rate_is_logged_saved_and_loaded(tmp_path):
    rule = UpdateRule(kl_controls=(AdaptiveLearningRate(threshold=1e-9, lr_factor=2.0),))
    model = small(rule, learning_rate=1e-3)
    model.learn(64)
    rate = model.policy.optimizer.param_groups[0]["lr"]
    assert rate < 1e-3
    assert model.rule_state.learning_rate == model.logger.name_to_value["train/learning_rate"] == rate
    model.save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=make_vec_env("CartPole-v1"))
    assert loaded.rule_state == model.rule_state
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.rule_state.learning_rate < rate
    assert small().rule_state.learning_rate is None


def test_penalty_coefficient_is_logged_saved_and_loaded(tmp_path):
    rule = UpdateRule(policy_objective=KLPenalty(target=1e-9, cutoff_coef=0.0))
    model = small(rule).learn(64)
    assert model.rule_state.kl_coef == pytest.approx(2.25)
    assert model.logger.name_to_value["notes/kl_coef"] == pytest.approx(1.5)
    model.save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=make_vec_env("CartPole-v1"))
    assert loaded.rule_state.kl_coef == pytest.approx(2.25)
    assert loaded.rule == rule


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "multi_discrete", "multi_binary"])
def test_a_huge_penalty_holds_the_policy_where_it_is(env):
    env = env if "-v" in env else make_vec_env(lambda: environments.make(env), n_envs=1)
    kls = []
    for coefficient in (1e-6, 1e4):
        objective = KLPenalty(coefficient=coefficient, adaptation="fixed", cutoff_coef=0.0)
        model = small(UpdateRule(policy_objective=objective), env=env, n_epochs=20).learn(32)
        kls.append(float(model.last_report.approx_kl))
    assert kls[1] < kls[0] / 3


SEPARATE = SeparateOptimizers(
    actor=OptimizerSettings(learning_rate=1e-3, n_epochs=4, max_grad_norm=0.1),
    critic=OptimizerSettings(learning_rate=1e-2, n_epochs=6),
)


def test_separate_optimizers_are_saved_and_loaded(tmp_path):
    rule = UpdateRule(optimization=Optimization(separate=SEPARATE))
    model = NotesPPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, device="cpu", rule=rule).learn(64)
    assert model.last_report.n_gradient_steps == 4 + 6
    for given in (dict(learning_rate=1e-2), dict(n_epochs=3), dict(max_grad_norm=None)):
        with pytest.raises(
            InvalidValueError, match=f"^{next(iter(given))} must be left out with a rule that has separate"
        ):
            NotesPPO("MlpPolicy", "CartPole-v1", rule=rule, **given)
    assert "critic_optimizer" in model.get_parameters()
    model.save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=make_vec_env("CartPole-v1"))
    for optimizer in ("critic_optimizer", "policy.optimizer"):
        mine, theirs = (m.get_parameters()[optimizer]["state"] for m in (model, loaded))
        assert all(th.equal(mine[i]["exp_avg"], theirs[i]["exp_avg"]) for i in mine)
    loaded.learn(32)
    assert loaded.critic_optimizer.param_groups[0]["lr"] == 1e-2


def test_separate_networks_with_plain_sgd_need_no_second_optimizer():
    """The gradient of a sum is the sum of the gradients: without a common norm clip two optimisers equal one."""
    settings = OptimizerSettings(learning_rate=1e-2, n_epochs=1)
    sgd = dict(policy_kwargs=dict(optimizer_class=th.optim.SGD), normalize_advantage=True)
    rule = UpdateRule(optimization=Optimization(separate=SeparateOptimizers(settings, settings)))
    two = NotesPPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, device="cpu", rule=rule, **sgd).learn(
        32
    )
    one = small(n_epochs=1, max_grad_norm=None, **sgd).learn(32)
    assert all(th.allclose(a, b, atol=1e-7) for a, b in zip(weights(two).values(), weights(one).values(), strict=True))


def test_advantages_computed_every_epoch_follow_the_critic():
    fixed = small(n_epochs=5).learn(32)
    moving = small(UpdateRule(computed="every_epoch"), n_epochs=5).learn(32)
    assert not same(weights(fixed), weights(moving))
    once = small(UpdateRule(computed="every_epoch"), n_epochs=1).learn(32)
    assert same(weights(small(n_epochs=1).learn(32)), weights(once))


def test_recomputing_with_an_unchanged_critic_changes_nothing():
    env = make_vec_env(environments.ConstantRewardEnv, n_envs=3)
    model = small(UpdateRule(computed="every_epoch"), env=env)
    _, callback = model._setup_learn(100)
    model.collect_rollouts(env, callback, model.rollout_buffer, 32)
    before = model.rollout_buffer.advantages.copy()
    policy = model.policy

    def value_of(observations):
        with th.no_grad():
            return policy.predict_values(th.as_tensor(observations)).numpy().ravel()

    model.rollout_buffer.recompute(value_of)
    assert model.rollout_buffer.advantages == pytest.approx(before, abs=1e-5)
    assert (model.rollout_buffer.rewards > 1).sum() == 12  # four time limits in each of three environments


def test_rollout_normalisation_is_over_the_whole_rollout():
    model = small(UpdateRule(advantage_normalization=AdvantageNormalization("rollout")), batch_size=8).learn(32)
    advantages = th.cat([batch.advantages for batch in model.rollout_buffer.get(8)])
    assert advantages.mean().item() == pytest.approx(0, abs=1e-6)
    assert advantages.std().item() == pytest.approx(1, abs=1e-6)
    assert abs(model.rollout_buffer.advantages.std() - 1) > 1e-3  # what is stored stays raw


def test_constant_advantages_without_eps_stop_before_the_weights():
    normalization = AdvantageNormalization("rollout", ddof=0, eps=0.0)
    model = small(UpdateRule(advantage_normalization=normalization), gamma=0.0, gae_lambda=0.95)
    before = weights(model)
    model.policy.value_net.weight.data.zero_()
    model.policy.value_net.bias.data.zero_()
    with pytest.raises(NonFiniteError, match="^loss must be finite"):
        model.learn(32)
    assert th.equal(before["action_net.weight"], model.policy.action_net.weight)


@pytest.mark.parametrize("objective", [HuberValueError(0.5), PessimisticValueError(0.1)])
def test_other_value_objectives_learn_something_else(objective):
    assert not same(weights(small(UpdateRule(value_objective=objective)).learn(64)), weights(small().learn(64)))


# -- what does not fit together -------------------------------------------------------------------------------


class OwnNormalization:
    """Has the method and not the scope: nobody could say over which samples it is made."""

    def normalize(self, advantages):
        return advantages


@pytest.mark.parametrize(
    ("make_choice", "begins"),
    [
        (lambda: EarlyStop(target=0), "target must be > 0"),
        (lambda: EarlyStop(0.1, factor=-1), "factor must be > 0"),
        (lambda: EarlyStop(0.1, estimator="k4"), "estimator must be one of"),
        (lambda: EarlyStop(0.1, scope="epoch", decided="epoch"), "scope must be"),
        (lambda: AdaptiveLearningRate(lr_factor=1.0), "lr_factor must be > 1"),
        (lambda: AdaptiveLearningRate(bounds=(0.0, 1.0)), "bounds must satisfy"),
        (lambda: KLPenalty(coefficient=0), "coefficient must be > 0"),
        (lambda: KLPenalty(bounds=(0.0, 1.0)), "bounds must satisfy"),
        (lambda: KLPenalty(adaptation="linear"), "adaptation must be one of"),
        (lambda: KLPenalty(cutoff_coef=-1), "cutoff_coef must be >= 0"),
        (lambda: HuberValueError(0), "beta must be > 0"),
        (lambda: PessimisticValueError(-1), "clip_range_vf must be > 0"),
        (lambda: NStep(0), "n must be an int >= 1"),
        (lambda: MonteCarlo(bootstrap=True, chunk=3), "bootstrap must be False with a chunk"),
        (lambda: GAE(1.5), "gae_lambda must be in"),
        (lambda: AdvantageNormalization("batch"), "scope must be one of"),
        (lambda: Optimization(order="random"), "order must be one of"),
        (lambda: OptimizerSettings(n_epochs=0), "n_epochs must be an int >= 1"),
        (lambda: UpdateRule(truncation="ignore"), "truncation must be one of"),
        (lambda: UpdateRule(computed="never"), "computed must be one of"),
        (lambda: UpdateRule(policy_objective=GAE()), "policy_objective must be one of the choices"),
        (lambda: UpdateRule(value_objective=HuberValueError), "value_objective must be one of the choices"),
        (lambda: UpdateRule(advantage_normalization=OwnNormalization()), "advantage_normalization must be an Adv"),
        (lambda: UpdateRule(kl_controls=EarlyStop(0.1)), "kl_controls must be a tuple"),
        (
            lambda: UpdateRule(kl_controls=(EarlyStop(0.1), EarlyStop(0.2))),
            "kl_controls must hold at most one control of each kind",
        ),
        (lambda: UpdateRule(optimization="adam"), "optimization must be an Optimization"),
    ],
)
def test_wrong_choices_are_refused(make_choice, begins):
    with pytest.raises((InvalidValueError, InvalidTypeError), match="^" + begins):
        make_choice()


def test_a_rule_that_stock_buffers_cannot_serve_is_refused():
    with pytest.raises(InvalidValueError, match="^rollout_buffer_class must be NotesRolloutBuffer"):
        small(UpdateRule(value_target=TDZero()), rollout_buffer_class=RolloutBuffer)


def test_an_exact_kl_needs_a_distribution_that_can_be_read():
    class Own(ActorCriticPolicy):
        def evaluate_actions(self, obs, actions):
            return super().evaluate_actions(obs, actions)

    with pytest.raises(InvalidValueError, match="^policy must leave evaluate_actions to SB3"):
        NotesPPO(Own, "CartPole-v1", rule=UpdateRule(policy_objective=KLPenalty()), **SMALL)


def test_separate_optimizers_need_separate_networks():
    rule = UpdateRule(optimization=Optimization(separate=SEPARATE))
    policy_kwargs = RECIPES["minimal_rl"].hyperparameters["policy_kwargs"]
    with pytest.raises(InvalidValueError, match="^rule must not ask for separate optimizers"):
        NotesPPO("MlpPolicy", "CartPole-v1", rule=rule, policy_kwargs=policy_kwargs)


# -- recipes --------------------------------------------------------------------------------------------------


def test_there_are_six_recipes_and_each_says_how_it_differs():
    assert list(RECIPES) == ["skrl", "batch_ppo", "spinning_up", "moral_rl", "minimal_rl", "tsukurinagara"]
    for recipe in RECIPES.values():
        assert recipe.differs
        assert UpdateRule().diff(recipe.rule)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_print_pickle_copy_and_compare(name):
    recipe = RECIPES[name]
    choices = {choice: getattr(rules, choice) for choice in rules.__all__}
    assert eval(repr(recipe.rule), choices) == recipe.rule
    assert str(recipe.rule).count("\n") == 9
    for same_again in (pickle.loads(pickle.dumps(recipe)), copy.deepcopy(recipe), dataclasses.replace(recipe)):
        assert same_again == recipe
        assert same_again.rule.diff(recipe.rule) == ""
    for other in RECIPES.values():
        assert (other == recipe) == (other is recipe)
        assert (other.rule.diff(recipe.rule) == "") == (other is recipe)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_learn_save_and_load(name, tmp_path):
    algorithm = NotesA2C if RECIPES[name].algorithm == "a2c" else NotesPPO
    env = "Pendulum-v1" if name == "batch_ppo" else "CartPole-v1"
    model = algorithm.from_recipe(name, env, seed=1, device="cpu", n_envs=2, n_steps=40)
    model.learn(160)
    model.save(tmp_path / name)
    loaded = algorithm.load(tmp_path / name, env=model.get_env())
    assert loaded.rule == RECIPES[name].rule
    assert same(weights(model), weights(loaded))
    loaded.learn(80, reset_num_timesteps=False)


def test_recipe_overrides_merge_policy_kwargs_and_keep_the_share_of_a_batch():
    model = NotesPPO.from_recipe(
        "skrl", "CartPole-v1", n_envs=3, n_steps=10, gamma=0.5, policy_kwargs=dict(log_std_init=-1.0)
    )
    assert (model.batch_size, model.gamma, model.n_envs) == (15, 0.5, 3)
    assert model.policy_kwargs == dict(optimizer_kwargs=dict(eps=1e-8), log_std_init=-1.0)


@pytest.mark.parametrize(
    ("call", "begins"),
    [
        (lambda: NotesPPO.from_recipe("skrll", "CartPole-v1"), "name must be one of skrl, batch_ppo"),
        (
            lambda: NotesPPO.from_recipe("tsukurinagara", "CartPole-v1"),
            "name must be a recipe of PPO, got 'tsukurinagara' .use NotesA2C",
        ),
        (lambda: NotesPPO.from_recipe("skrl", make_vec_env("CartPole-v1"), n_envs=3), "n_envs must be left out"),
        (lambda: NotesPPO.from_recipe("skrl", "CartPoel-v1"), "env must be the id"),
        (lambda: NotesPPO.from_recipe("skrl", "CartPole-v1", clip_range=0.5), "clip_range must agree with rule"),
    ],
)
def test_wrong_recipe_calls(call, begins):
    with pytest.raises(ValueError, match="^" + begins):
        call()


def test_shared_trunk_is_shared():
    model = NotesPPO.from_recipe("minimal_rl", "CartPole-v1", device="cpu")
    names = [name for name, _ in model.policy.named_parameters()]
    assert len(names) == 6  # one body, two heads
    values = model.policy.predict_values(th.ones(1, 4))
    gradient = th.autograd.grad(values.sum(), list(model.policy.features_extractor.parameters()))
    assert all(part.abs().sum() > 0 for part in gradient)


def test_stop_when_all_succeeded_comes_before_the_update_of_its_rollout():
    env = VecEpisodeEndReward(make_vec_env(lambda: Scripted([3, 6]), n_envs=2), shortest_success=5)
    model = NotesA2C("MlpPolicy", env, n_steps=50, device="cpu", seed=0)
    before = weights(model)
    model.learn(1000, callback=StopWhenAllSucceeded())
    assert model.num_timesteps == 2 * 9  # the first episodes fail, the second ones end at step 9
    assert same(weights(model), before)


def test_resolving_schedules_reaches_into_the_optimizers():
    settings = OptimizerSettings(learning_rate=lambda progress: progress * 1e-3)
    rule = UpdateRule(optimization=Optimization(separate=SeparateOptimizers(settings, settings)))
    assert rule.at(0.5).optimization.separate.actor.learning_rate == pytest.approx(5e-4)
    assert dataclasses.replace(rule) == rule
