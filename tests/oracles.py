"""Every formula a second time, by another algorithm: float64, explicit sums over explicit episodes, no recursion, nothing of ours imported."""

import math

import numpy as np


def episode_of_each_step(episode_starts, dones):
    """An episode number for every step ``[T, B]``, and for the state after the last one ``[B]``."""
    numbers = np.cumsum(np.asarray(episode_starts) != 0, axis=0)
    return numbers, numbers[-1] + (np.asarray(dones) != 0)


def td_residual(rewards, values, last_values, episode_starts, dones, gamma, t, b):
    """δₜ from first principles: does the next state belong to this episode?"""
    numbers, final = episode_of_each_step(episode_starts, dones)
    last = t == len(rewards) - 1
    following_value = last_values[b] if last else values[t + 1, b]
    same = (final[b] if last else numbers[t + 1, b]) == numbers[t, b]
    return float(rewards[t, b]) + gamma * float(following_value) * same - float(values[t, b])


def gae(rewards, values, last_values, episode_starts, dones, gamma, gae_lambda):
    """Âₜ = Σₖ (γλ)ᵏ δₜ₊ₖ over the rest of the episode."""
    numbers, _ = episode_of_each_step(episode_starts, dones)
    horizon, n_envs = rewards.shape
    result = np.zeros((horizon, n_envs))
    for b in range(n_envs):
        for t in range(horizon):
            for k in range(t, horizon):
                if numbers[k, b] == numbers[t, b]:
                    delta = td_residual(rewards, values, last_values, episode_starts, dones, gamma, k, b)
                    result[t, b] += (gamma * gae_lambda) ** (k - t) * delta
    return result


def n_step_return(rewards, values, last_values, episode_starts, dones, gamma, n):
    """Σ of at most n discounted rewards of the episode, plus the discounted value of the state after them if it is still the episode."""
    numbers, final = episode_of_each_step(episode_starts, dones)
    horizon, n_envs = rewards.shape
    result = np.zeros((horizon, n_envs))
    for b in range(n_envs):
        for t in range(horizon):
            end = min(t + n, horizon)
            window = [k for k in range(t, end) if numbers[k, b] == numbers[t, b]]
            result[t, b] = sum(gamma ** (k - t) * float(rewards[k, b]) for k in window)
            after = window[-1] + 1
            number_after = final[b] if after == horizon else numbers[after, b]
            if number_after == numbers[t, b]:
                value_after = last_values[b] if after == horizon else values[after, b]
                result[t, b] += gamma ** (after - t) * float(value_after)
    return result


def chunked_return(rewards, episode_starts, dones, gamma, chunk):
    """Σ of the discounted rewards that lie in the same episode and, counted from its first step, in the same chunk."""
    numbers, _ = episode_of_each_step(episode_starts, dones)
    result = np.zeros(rewards.shape)
    for b in range(rewards.shape[1]):
        place = [int(np.sum(numbers[:t, b] == numbers[t, b])) // chunk for t in range(len(rewards))]
        for t in range(len(rewards)):
            window = [k for k in range(t, len(rewards)) if (numbers[k, b], place[k]) == (numbers[t, b], place[t])]
            result[t, b] = sum(gamma ** (k - t) * float(rewards[k, b]) for k in window)
    return result


def clipped_surrogate(ratio, advantage, clip_range):
    """Spinning Up's form: min(ρ·A, g(ε, A))."""
    bound = (1 + clip_range) * advantage if advantage >= 0 else (1 - clip_range) * advantage
    return min(ratio * advantage, bound)


def categorical_kl(old, new):
    """Σ p log(p/q) over plain probabilities."""
    return sum(p * math.log(p / q) for p, q in zip(old, new, strict=True) if p > 0)


def integrate(function, low, high, cells=20001):
    """Trapezoids."""
    grid = np.linspace(low, high, cells)
    heights = function(grid)
    return float(np.sum((heights[1:] + heights[:-1]) / 2 * np.diff(grid)))


def gaussian_density(x, mean, std):
    """The textbook formula."""
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
