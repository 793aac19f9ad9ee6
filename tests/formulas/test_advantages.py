"""Returns and advantages: golden values, another algorithm, and what must hold for every rollout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_ppo_notes.formulas import advantages as formulas
from tests import oracles
from tests.strategies import fractions, rollouts


def column(*numbers):
    return np.array(numbers, dtype=np.float32)[:, None]


def gae_of(rollout, gamma, gae_lambda):
    rewards, values, last_values, episode_starts, dones = rollout
    nonterminal = formulas.next_nonterminal(episode_starts, dones)
    deltas = formulas.td_residuals(rewards, values, formulas.next_values(values, last_values), nonterminal, gamma)
    return formulas.gae(deltas, nonterminal, gamma, gae_lambda)


# r = (1, 2, 3, 4), V = (0.5, 1, 1.5, 2), the episode ends with the rollout.
FOUR = (column(1, 2, 3, 4), column(0.5, 1, 1.5, 2), np.zeros(1, np.float32), column(1, 0, 0, 0), np.array([True]))


def test_gae_golden_value():
    # γ=.9, λ=.5: δ = (1+.9-.5, 2+1.35-1, 3+1.8-1.5, 4-2) = (1.4, 2.35, 3.3, 2); A₃=2, A₂=3.3+.45·2=4.2, A₁=2.35+.45·4.2=4.24, A₀=3.308
    assert gae_of(FOUR, 0.9, 0.5).ravel() == pytest.approx([3.308, 4.24, 4.2, 2.0], abs=1e-6)


def test_gae_with_lambda_one_is_return_minus_value():
    assert gae_of(FOUR, 0.9, 1.0).ravel() == pytest.approx([7.646, 6.94, 5.1, 2.0], abs=1e-5)


def test_gae_with_lambda_zero_is_the_td_residual():
    assert gae_of(FOUR, 0.9, 0.0).ravel() == pytest.approx([1.4, 2.35, 3.3, 2.0], abs=1e-6)


def test_monte_carlo_golden_values():
    rewards, _, last_values, starts, dones = FOUR
    nonterminal = formulas.next_nonterminal(starts, dones)
    half = formulas.monte_carlo_returns(rewards, last_values, nonterminal, 0.5).ravel()
    assert half == pytest.approx([3.25, 4.5, 5, 4])  # 4; 3+4/2; 2+5/2; 1+4.5/2
    long = formulas.monte_carlo_returns(rewards, last_values, nonterminal, 0.9).ravel()
    assert long == pytest.approx([8.146, 7.94, 6.6, 4], abs=1e-5)


def test_n_step_golden_value():
    rewards, values, last_values, starts, dones = FOUR
    nonterminal, following = formulas.next_nonterminal(starts, dones), formulas.next_values(values, last_values)
    # γ=.5, n=2: 1+2/2+1.5/4, 2+3/2+2/4, 3+4/2, 4
    assert formulas.n_step_returns(rewards, following, nonterminal, 0.5, 2).ravel() == pytest.approx([2.375, 4, 5, 4])


def test_lambda_return_golden_value():
    returns = formulas.lambda_returns(gae_of(FOUR, 0.9, 0.5), FOUR[1])
    assert returns.ravel() == pytest.approx([3.808, 5.24, 5.7, 4.0], abs=1e-5)


@pytest.mark.parametrize(
    ("truncated", "expected"),
    [(False, [0.35, -1, 0.32, -0.4]), (True, [1.565, 1.7, 0.32, -0.4])],
    ids=["terminated", "truncated"],
)
def test_boundary_table(truncated, expected):
    # r=1 four times, V=(2,2,5,5), the episode ends after t=1, V(terminal observation)=3, V_last=4, γ=.9, λ=.5
    rewards, values = column(1, 1, 1, 1), column(2, 2, 5, 5)
    terminal_values = column(0, 3 if truncated else 0, 0, 0)
    rewards = formulas.bootstrap_time_limits(rewards, terminal_values, 0.9)
    rollout = (rewards, values, np.array([4], np.float32), column(1, 0, 1, 0), np.array([False]))
    advantages = gae_of(rollout, 0.9, 0.5)
    assert advantages.ravel() == pytest.approx(expected, abs=1e-6)
    if truncated:
        assert formulas.lambda_returns(advantages, values).ravel() == pytest.approx([3.565, 3.7, 5.32, 4.6], abs=1e-6)


def test_the_recursion_runs_over_time_and_never_over_environments():
    # minimalRL's continuous PPO runs it over the batch axis. δ of two environments, γ = λ = .9: 3; 2+.81·3; 1+.81·4.43
    deltas = np.array([[1.0, 10], [2, 20], [3, 30]])
    advantages = formulas.gae(deltas, np.ones((3, 2)), 0.9, 0.9)
    assert advantages[:, 0] == pytest.approx([4.5883, 4.43, 3])
    assert advantages[:, 1] == pytest.approx([45.883, 44.3, 30])


def test_constant_reward_for_ever_is_worth_one_over_one_minus_gamma():
    # A critic that already says 1/(1-γ) is never surprised, whatever λ, though the rollout ends in mid-episode.
    value = 1 / (1 - 0.98)
    rollout = (np.ones((50, 2)), np.full((50, 2), value), np.full(2, value), np.zeros((50, 2)), np.zeros(2, bool))
    assert np.abs(gae_of(rollout, 0.98, 0.95)).max() < 1e-10


@given(rollouts(), fractions, fractions)
def test_gae_equals_the_explicit_sum(rollout, gamma, gae_lambda):
    expected = oracles.gae(*rollout, gamma, gae_lambda)
    assert gae_of(rollout, gamma, gae_lambda) == pytest.approx(expected, rel=1e-4, abs=1e-3)


@given(rollouts(), fractions, st.integers(1, 15))
def test_n_step_returns_equal_the_explicit_window(rollout, gamma, n):
    rewards, values, last_values, starts, dones = rollout
    nonterminal, following = formulas.next_nonterminal(starts, dones), formulas.next_values(values, last_values)
    returns = formulas.n_step_returns(rewards, following, nonterminal, gamma, n)
    assert returns == pytest.approx(oracles.n_step_return(*rollout, gamma, n), rel=1e-4, abs=1e-3)


@given(rollouts(), fractions)
def test_monte_carlo_is_the_n_step_return_of_a_whole_rollout(rollout, gamma):
    rewards, _, last_values, starts, dones = rollout
    nonterminal = formulas.next_nonterminal(starts, dones)
    returns = formulas.monte_carlo_returns(rewards, last_values, nonterminal, gamma)
    assert returns == pytest.approx(oracles.n_step_return(*rollout, gamma, len(rewards)), rel=1e-4, abs=1e-3)


@given(rollouts(), fractions, st.integers(1, 15))
def test_returns_cut_into_chunks_equal_the_explicit_window(rollout, gamma, chunk):
    rewards, _, last_values, starts, dones = rollout
    nonterminal = formulas.cut_into_chunks(formulas.next_nonterminal(starts, dones), chunk)
    returns = formulas.monte_carlo_returns(rewards, np.zeros_like(last_values), nonterminal, gamma)
    assert returns == pytest.approx(oracles.chunked_return(rewards, starts, dones, gamma, chunk), rel=1e-4, abs=1e-3)


@given(rollouts(), fractions, fractions, st.data())
def test_nothing_leaks_over_an_episode_border(rollout, gamma, gae_lambda, data):
    rewards, values, last_values, starts, dones = rollout
    border = data.draw(st.integers(0, len(rewards) - 1))
    starts = starts.copy()
    starts[border] = 1.0
    changed_rewards, changed_values = rewards.copy(), values.copy()
    changed_rewards[border:] += 100
    changed_values[border:] -= 50
    before = gae_of((rewards, values, last_values, starts, dones), gamma, gae_lambda)[:border]
    after = gae_of((changed_rewards, changed_values, last_values + 7, starts, ~dones), gamma, gae_lambda)[:border]
    assert np.array_equal(before, after)


@given(rollouts(), fractions, fractions)
def test_permuting_environments_permutes_advantages(rollout, gamma, gae_lambda):
    flipped = tuple(part[..., ::-1] for part in rollout)
    assert np.array_equal(gae_of(rollout, gamma, gae_lambda)[:, ::-1], gae_of(flipped, gamma, gae_lambda))


@given(rollouts(), fractions, fractions)
def test_doubling_all_rewards_and_values_doubles_advantages(rollout, gamma, gae_lambda):
    rewards, values, last_values, starts, dones = rollout
    doubled = gae_of((2 * rewards, 2 * values, 2 * last_values, starts, dones), gamma, gae_lambda)
    assert np.array_equal(doubled, 2 * gae_of(rollout, gamma, gae_lambda))


@given(rollouts(), fractions, fractions)
def test_time_limit_trick_equals_an_explicit_bootstrap(rollout, gamma, gae_lambda):
    # r + γV then "terminal" is the same number as keeping the value of the cut-off state as V(s_T) of a rollout that ends there.
    rewards, values, last_values, starts, _ = rollout
    cut = np.ones(rewards.shape[1], dtype=bool)
    trick = rewards.copy()
    trick[-1] = formulas.bootstrap_time_limits(rewards[-1], last_values, gamma)
    by_trick = gae_of((trick, values, np.full_like(last_values, 99), starts, cut), gamma, gae_lambda)
    explicit = gae_of((rewards, values, last_values, starts, ~cut), gamma, gae_lambda)
    assert by_trick == pytest.approx(explicit, rel=1e-4, abs=1e-3)


def test_formulas_leave_their_inputs_alone():
    rollout = tuple(part.copy() for part in FOUR)
    gae_of(rollout, 0.9, 0.5)
    formulas.bootstrap_time_limits(rollout[0], rollout[1], 0.9)
    formulas.monte_carlo_returns(rollout[0], rollout[2], rollout[3], 0.9)
    formulas.n_step_returns(rollout[0], rollout[1], rollout[3], 0.9, 2)
    formulas.cut_into_chunks(rollout[3], 2)
    assert all(np.array_equal(now, before) for now, before in zip(rollout, FOUR, strict=True))


@pytest.mark.parametrize(
    "call",
    [
        lambda: formulas.gae(np.zeros((3, 2)), np.zeros((3, 1)), 0.9, 0.9),
        lambda: formulas.gae(np.zeros((0, 2)), np.zeros((0, 2)), 0.9, 0.9),
        lambda: formulas.next_nonterminal(np.zeros((3, 2)), np.zeros(3, bool)),
        lambda: formulas.next_nonterminal(np.zeros((0, 2)), np.zeros(2, bool)),
        lambda: formulas.n_step_returns(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2)), 0.9, 0),
        lambda: formulas.bootstrap_time_limits(np.zeros(3), np.zeros(2), 0.9),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()
