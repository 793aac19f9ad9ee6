"""Returns and advantages of a rollout: how good each action was, compared with what the critic expected.

All arrays are time-major ``[T, B]``: ``rewards[t]`` follows the action taken in state sₜ, ``values[t]`` is V(sₜ), the
critic's estimate of the *state's* value (one number a state, no action in it), and ``last_values`` ``[B]`` is V(s_T),
the state after the last step. Every recursion runs backwards and is cut by ``next_nonterminal`` ``[T, B]``: 1 where
sₜ₊₁ continues the episode, 0 where it starts another one. Nothing ever leaks over that cut.
"""

import numpy as np
import numpy.typing as npt

from sb3_ppo_notes.formulas.checks import check_integer, check_shapes

FloatArray = npt.NDArray[np.floating]


def next_nonterminal(episode_starts: FloatArray, dones: npt.NDArray[np.bool_] | FloatArray) -> FloatArray:
    """1 where the next state belongs to the same episode, else 0.

        nₜ = 1 − startₜ₊₁ for t < T−1 ,   n_{T−1} = 1 − done

    SB3 stores *starts* ("sₜ is the first state of an episode"), one step later than the ``done`` that caused them; the
    last row has no later start and takes ``dones``. Mixing the two up shifts every episode border by one step.

    Source: Stable-Baselines3 2.9, ``RolloutBuffer.compute_returns_and_advantage``.

    :param episode_starts: ``[T, B]`` float, startₜ: 1 if sₜ starts an episode.
    :param dones: ``[B]`` bool or float, done: whether the last step ended its episode.
    :return: ``[T, B]`` float32, 0 or 1; dimensionless.
    :raises ValueError: if the shapes do not fit or T = 0.

    >>> next_nonterminal(np.array([[1.0], [0.0], [1.0]]), np.array([False])).ravel().tolist()
    [1.0, 0.0, 1.0]
    """
    if len(episode_starts) == 0:
        raise ValueError(f"episode_starts must have at least one step, got shape {episode_starts.shape}")
    check_shapes(last_episode_starts=episode_starts[-1], dones=dones)
    last = 1.0 - dones.astype(np.float32)
    return np.concatenate([1.0 - episode_starts[1:].astype(np.float32, copy=False), last[np.newaxis]])


def next_values(values: FloatArray, last_values: FloatArray) -> FloatArray:
    """V(sₜ₊₁) of every step: the values shifted by one, closed by V(s_T).

    :param values: ``[T, B]``, V(sₜ); reward units.
    :param last_values: ``[B]``, V(s_T) of the state after the last step; reward units.
    :return: ``[T, B]``; reward units.
    :raises ValueError: if the shapes do not fit.

    >>> next_values(np.array([[1.0], [2.0]]), np.array([3.0])).ravel().tolist()
    [2.0, 3.0]
    """
    check_shapes(values_of_a_step=values[0], last_values=last_values)
    return np.concatenate([values[1:], last_values[np.newaxis]])


def bootstrap_time_limits(rewards: FloatArray, terminal_values: FloatArray, gamma: float) -> FloatArray:
    """Rewards in which a step cut off by a time limit also carries the value that was still to come.

        r̃ₜ = rₜ + γ·V(s_terminal)   if the episode was truncated at t, else rₜ

    An episode that ends by a *time limit* did not end because of what the agent did: the state it was cut in was worth
    V(s_terminal), and calling it worthless teaches the critic that the clock is a catastrophe. SB3 adds that value to
    the reward and then treats the step as terminal, which is the same number as bootstrapping there: δ = r +
    γ·V(s_terminal) − V(sₜ). The price: what the buffer calls ``rewards`` is no longer what the environment paid. A true
    terminal state gets nothing.

    Source: Pardo et al. 2018 (arXiv:1712.00378) section 2; Stable-Baselines3 2.9, ``collect_rollouts`` (issue #633).
    Deviation: skrl 1.4.3 adds γ·V(sₜ), the value of the state *before* the action, and only on request.

    :param rewards: ``[B]`` (or ``[T, B]``), rₜ as the environment paid it; reward units.
    :param terminal_values: same shape, V(s_terminal), of the truncated episode's last observation, 0 everywhere else;
        reward units.
    :param gamma: γ in [0, 1]; dimensionless.
    :return: same shape, a new float32 array; reward units.
    :raises ValueError: if the shapes differ.

    >>> bootstrap_time_limits(np.array([1.0, 1.0]), np.array([3.0, 0.0]), gamma=0.5).tolist()
    [2.5, 1.0]
    """
    check_shapes(rewards=rewards, terminal_values=terminal_values)
    return rewards.astype(np.float32, copy=False) + np.float32(gamma) * terminal_values.astype(np.float32, copy=False)


def td_residuals(
    rewards: FloatArray, values: FloatArray, following_values: FloatArray, nonterminal: FloatArray, gamma: float
) -> FloatArray:
    """One-step temporal-difference errors: how much better the step was than the critic expected.

        δₜ = rₜ + γ·nₜ·V(sₜ₊₁) − V(sₜ)

    Zero on average when the critic is right. γ = 0 leaves rₜ − V(sₜ): only the next reward counts.

    Source: Schulman et al. 2016 (arXiv:1506.02438) eq. 10; PPO (arXiv:1707.06347) eq. 12.

    :param rewards: ``[T, B]``, rₜ after time-limit bootstrapping; reward units.
    :param values: ``[T, B]``, V(sₜ); reward units.
    :param following_values: ``[T, B]``, V(sₜ₊₁); reward units.
    :param nonterminal: ``[T, B]``, nₜ: 0 where sₜ₊₁ starts another episode.
    :param gamma: γ in [0, 1]; dimensionless.
    :return: ``[T, B]``; reward units.
    :raises ValueError: if the shapes differ.

    >>> one, half = np.ones((1, 1)), np.full((1, 1), 0.5)
    >>> td_residuals(one, half, one, one, gamma=0.9).item()  # 1 + 0.9 * 1 - 0.5
    1.4
    """
    check_shapes(rewards=rewards, values=values, following_values=following_values, nonterminal=nonterminal)
    return rewards + gamma * following_values * nonterminal - values


def gae(deltas: FloatArray, nonterminal: FloatArray, gamma: float, gae_lambda: float) -> FloatArray:
    """Advantages by generalised advantage estimation, GAE(λ).

        Âₜ = δₜ + γλ·nₜ·Âₜ₊₁ ,   Â_T = 0        that is Âₜ = Σₖ (γλ)ᵏ·δₜ₊ₖ up to the episode's end

    How much better was *this action* than the policy's average in that state? λ trades bias against variance: λ = 0 is
    the TD residual δₜ (one reward seen, all else is the critic's word), λ = 1 is return − V(sₜ) (all rewards seen, the
    critic is only a baseline).

    Source: Schulman et al. 2016 (arXiv:1506.02438) eq. 16; truncated form PPO (arXiv:1707.06347) eq. 11.
    Deviation: eq. 11 prints the last exponent as T−t+1; the recursion gives T−1−t (a random rollout tells them apart).
    SB3: same operations in the same order as ``RolloutBuffer.compute_returns_and_advantage``, bit for bit.

    :param deltas: ``[T, B]``, δₜ; reward units.
    :param nonterminal: ``[T, B]``, nₜ: 0 where sₜ₊₁ starts another episode.
    :param gamma: γ in [0, 1]; dimensionless.
    :param gae_lambda: λ in [0, 1]; dimensionless.
    :return: ``[T, B]``, dtype of ``deltas``; reward units. A new array.
    :raises ValueError: if the shapes differ or T = 0.

    >>> deltas = np.array([[1.0], [2.0], [4.0]])
    >>> gae(deltas, np.ones((3, 1)), gamma=0.5, gae_lambda=1.0).ravel().tolist()  # 4; 2 + 4/2; 1 + 4/2
    [3.0, 4.0, 4.0]
    """
    check_shapes(deltas=deltas, nonterminal=nonterminal)
    if len(deltas) == 0:
        raise ValueError(f"deltas must have at least one step, got shape {deltas.shape}")
    # (γ·λ) first, then ·nₜ, then ·Âₜ₊₁: float32 rounds differently in any other order, and SB3's order is the contract.
    decays = gamma * gae_lambda * nonterminal
    advantages = np.empty_like(deltas)
    following = np.zeros_like(deltas[0])
    for step in range(len(deltas) - 1, -1, -1):
        following = deltas[step] + decays[step] * following
        advantages[step] = following
    return advantages


def lambda_returns(advantages: FloatArray, values: FloatArray) -> FloatArray:
    """λ-returns: what the critic should have said, the regression target of V.

        Ĝₜ = Âₜ + V(sₜ)

    An estimate of Q(sₜ, aₜ), the value of the *action taken*, used as a target for V(sₜ), the value of the *state*:
    averaged over the policy's actions Q is V, and the estimate too if λ = 1 or the critic is right. λ = 1 gives the
    discounted return, λ = 0 the one-step target r + γ·V(sₜ₊₁).

    Source: Sutton & Barto 2018 section 12.1; "TD(λ) estimator" of Stable-Baselines3 (pull request #375).

    :param advantages: ``[T, B]``, Âₜ: GAE(λ) advantages *before* any normalisation; reward units.
    :param values: ``[T, B]``, V(sₜ) of the critic that the advantages were computed with; reward units.
    :return: ``[T, B]``; reward units.
    :raises ValueError: if the shapes differ.

    >>> lambda_returns(np.array([0.5]), np.array([2.0])).tolist()
    [2.5]
    """
    check_shapes(advantages=advantages, values=values)
    return advantages + values


def monte_carlo_returns(
    rewards: FloatArray, last_values: FloatArray, nonterminal: FloatArray, gamma: float
) -> FloatArray:
    """Discounted rewards to go, up to the episode's end or the end of the rollout.

        Ĝₜ = rₜ + γ·nₜ·Ĝₜ₊₁ ,   Ĝ_T = V(s_T)

    No critic in it except where the rollout cuts an episode: there V(s_T) stands for the rest. ``last_values`` = 0
    leaves the rest out, which is right only if every episode ends inside the rollout.

    Source: Sutton & Barto 2018 eq. 3.9; Spinning Up's ``finish_path``.

    :param rewards: ``[T, B]``, rₜ; reward units.
    :param last_values: ``[B]``, V(s_T), or zeros; reward units.
    :param nonterminal: ``[T, B]``, nₜ: 0 where sₜ₊₁ starts another episode.
    :param gamma: γ in [0, 1]; dimensionless.
    :return: ``[T, B]``; reward units.
    :raises ValueError: if the shapes do not fit.

    >>> monte_carlo_returns(np.ones((3, 1)), np.zeros(1), np.ones((3, 1)), gamma=0.5).ravel().tolist()
    [1.75, 1.5, 1.0]
    """
    check_shapes(rewards=rewards, nonterminal=nonterminal)
    check_shapes(rewards_of_a_step=rewards[0], last_values=last_values)
    returns = np.empty_like(rewards)
    following = last_values
    for step in range(len(rewards) - 1, -1, -1):
        following = rewards[step] + gamma * nonterminal[step] * following
        returns[step] = following
    return returns


def cut_into_chunks(nonterminal: FloatArray, chunk: int) -> FloatArray:
    """nₜ of a sum that also ends after every ``chunk`` steps of an episode.

        cₜ = 0 if t is the last of ``chunk`` steps, counted from the episode's first one, else nₜ

    An episode that the rollout joins in its middle is counted from the rollout's first step. The sums of
    :func:`monte_carlo_returns` end there: the first step of a chunk sees ``chunk`` rewards, its last one a single
    reward. A critic that cannot tell these steps apart learns their mean: the rewards of about half a chunk.

    Source: batch-ppo's ``chunk_length``, for the critic's target alone.

    :param nonterminal: ``[T, B]``, nₜ: 0 where sₜ₊₁ starts another episode.
    :param chunk: at least 1; environment steps.
    :return: ``[T, B]``, 0 or 1; dimensionless. A new array.
    :raises ValueError: if chunk < 1.

    >>> whole, ends_after_one = [1.0] * 5, [0.0, 1.0, 1.0, 1.0, 1.0]
    >>> cut_into_chunks(np.array([whole, ends_after_one]).T, chunk=2).T.tolist()
    [[1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0, 0.0]]
    """
    check_integer("chunk", chunk, minimum=1)
    cut = nonterminal.copy()
    steps = np.zeros(nonterminal.shape[1:], dtype=int)
    for row in cut:
        steps = np.where(steps == chunk, 1, steps + 1)
        ends_episode = row == 0
        row[steps == chunk] = 0
        steps[ends_episode] = 0
    return cut


def n_step_returns(
    rewards: FloatArray, following_values: FloatArray, nonterminal: FloatArray, gamma: float, n: int
) -> FloatArray:
    """N rewards, then the critic's word for the rest.

        Ĝₜ⁽ⁿ⁾ = rₜ + γ·nₜ·Ĝₜ₊₁⁽ⁿ⁻¹⁾ ,   Ĝₜ⁽⁰⁾ = V(sₜ)

    n = 1 is the TD(0) target r + γ·V(sₜ₊₁); n ≥ T is the Monte-Carlo return closed by V(s_T). More steps mean less bias
    from a wrong critic and more variance from luck. The window stops at the episode's end; at the rollout's end it is
    shorter than n and bootstraps from V(s_T).

    Source: Mnih et al. 2016 (arXiv:1602.01783) section 4; Sutton & Barto 2018 eq. 7.1.

    :param rewards: ``[T, B]``, rₜ; reward units.
    :param following_values: ``[T, B]``, V(sₜ₊₁), the last row V(s_T); reward units.
    :param nonterminal: ``[T, B]``, nₜ: 0 where sₜ₊₁ starts another episode.
    :param gamma: γ in [0, 1]; dimensionless.
    :param n: number of rewards, at least 1; environment steps.
    :return: ``[T, B]``; reward units.
    :raises ValueError: if the shapes differ or n < 1.

    >>> rewards, values = np.ones((3, 1)), np.full((3, 1), 8.0)
    >>> returns = n_step_returns(rewards, values, np.ones((3, 1)), gamma=0.5, n=2)
    >>> returns.ravel().tolist()  # 1 + 1/2 + 8/4; the last: 1 + 8/2
    [3.5, 3.5, 5.0]
    """
    check_shapes(rewards=rewards, following_values=following_values, nonterminal=nonterminal)
    check_integer("n", n, minimum=1)
    following_returns = following_values
    for _ in range(min(n, len(rewards))):
        returns = rewards + gamma * nonterminal * following_returns
        # Row t needs the shorter return of row t+1; the last row has none after it and keeps V(s_T).
        following_returns = np.concatenate([returns[1:], following_values[-1:]])
    return returns
