"""How the symbols above each formula are bound to its arguments, at random inputs.

A long table: one row a formula. Each row says which symbol stands for which argument (a test looks it up in the ``:param`` line), draws
numbers for the symbols, and says which equation of the block gives which output.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ppo_notes.formulas import (
    activity,
    adaptation,
    advantages,
    diagnostics,
    divergences,
    normalization,
    objectives,
    optimizers,
)
from sb3_ppo_notes.formulas import lstm as memory
from sb3_ppo_notes.formulas.distributions import (
    BERNOULLI,
    bernoulli,
    beta,
    categorical,
    dimensions,
    gaussian,
    squashed,
)
from sb3_ppo_notes.notes.equations.values import STANDARD_NORMAL, Bound
from sb3_ppo_notes.rules import UpdateRule, loss

#: Length of each axis; no two axes that could be mixed up are equal.
SIZES = {"N": 2, "i": 3, "n": 3, "t": 4, "B": 2, "k": 5, "P": 3, "j": 2}


class Situation(NamedTuple):
    bound: dict[str, Any]
    #: by the number of the equation in its block
    outputs: dict[int, Bound]
    at: Mapping[str, int] = MappingProxyType({})


class Case(NamedTuple):
    name: str
    function: Callable[..., Any]
    symbols: dict[str, str]
    draw: Callable[[np.random.Generator], Situation]


def shape(axes):
    return tuple(SIZES[letter] for letter in axes)


def normal(rng, axes):
    return rng.normal(size=shape(axes))


def positive(rng, axes):
    return np.exp(0.5 * rng.normal(size=shape(axes)))


def above_one(rng, axes):
    return 1 + positive(rng, axes)


def small(rng, axes):
    return rng.uniform(0.01, 0.3, size=shape(axes))


def unit(rng, axes):
    return rng.uniform(0.05, 0.95, size=shape(axes))


def inside(rng, axes):
    return rng.uniform(-0.9, 0.9, size=shape(axes))


def bit(rng, axes):
    return rng.integers(0, 2, size=shape(axes)).astype(float)


def simplex(rng, axes):
    return rng.dirichlet(np.ones(SIZES[axes[-1]]), size=shape(axes[:-1]))


def choice(rng, axes):
    return rng.integers(0, SIZES["i"], size=shape(axes)).astype(float)


def exactly(number):
    return lambda rng, axes: np.asarray(float(number))


def between(low, high):
    return lambda rng, axes: rng.uniform(low, high, size=shape(axes))


def logit(p):
    return np.log(p) - np.log1p(-p)


def as_argument(function, name, values):
    annotation = inspect.signature(function).parameters[name].annotation
    if annotation is th.Tensor:
        return th.from_numpy(np.array(values))
    if annotation in (int, float, bool):
        return annotation(values)
    return float(values) if np.ndim(values) == 0 else np.array(values)


def tensor(values):
    return th.from_numpy(np.array(values))


def numbers(value):
    return value.detach().numpy() if isinstance(value, th.Tensor) else np.asarray(value, dtype=float)


def case(function, inputs, *outputs, name=None, **constants):
    """A row whose symbols are arguments, each by itself: symbol -> (argument, sampler, axes[, symbol's value to argument's]).

    An argument ``bounds.0`` is the first of a tuple. Outputs are the axes of what the function returns, an equation each.
    """
    symbols = {symbol: argument.split(".")[0] for symbol, (argument, *_) in inputs.items()}

    def draw(rng):
        bound, arguments = {key: Bound(np.asarray(float(value))) for key, value in constants.items()}, {}
        for symbol, (argument, sampler, axes, *to_argument) in inputs.items():
            values = sampler(rng, axes)
            bound[symbol.removeprefix("log ").replace("ᵢ", "")] = Bound(values, axes)
            values = to_argument[0](values) if to_argument else values
            head, _, part = argument.partition(".")
            if part:
                arguments[head] = (*arguments.get(head, ()), float(values))
            else:
                arguments[head] = as_argument(function, head, values)
        returned = function(**arguments)
        returned = returned if isinstance(returned, tuple) else (returned,)
        pairs = zip(returned, outputs, strict=True)
        return Situation(bound, {number: Bound(numbers(part), axes) for number, (part, axes) in enumerate(pairs)})

    return Case(name or function.__name__, function, symbols, draw)


def special(function, symbols, draw, name=None):
    return Case(name or function.__name__, function, symbols, draw)


def drawn_next_nonterminal(rng):
    starts, done = bit(rng, "tB"), bit(rng, "B")
    output = Bound(advantages.next_nonterminal(starts, done), "tB")
    bound = {"start": Bound(starts, "tB"), "done": Bound(done, "B"), "T": Bound(np.asarray(float(SIZES["t"])))}
    return Situation({**bound, "n": output}, {0: output, 1: output})


def rollout(rng):
    rewards, values, nonterminal = normal(rng, "tB"), rng.normal(size=(SIZES["t"] + 1, SIZES["B"])), bit(rng, "tB")
    gamma = unit(rng, "")
    bound = {"r": Bound(rewards, "tB"), "V(s)": Bound(values, "tB"), "n": Bound(nonterminal, "tB"), "γ": Bound(gamma)}
    return bound, rewards, values, nonterminal, float(gamma)


def drawn_td_residuals(rng):
    bound, rewards, values, nonterminal, gamma = rollout(rng)
    return Situation(
        bound, {0: Bound(advantages.td_residuals(rewards, values[:-1], values[1:], nonterminal, gamma), "tB")}
    )


def drawn_monte_carlo(rng):
    bound, rewards, values, nonterminal, gamma = rollout(rng)
    bound["V(s_T)"] = Bound(values[-1], "B")
    output = Bound(advantages.monte_carlo_returns(rewards, values[-1], nonterminal, gamma), "tB")
    return Situation({**bound, "Ĝ": output}, {0: output})


def drawn_n_step(rng):
    bound, rewards, values, nonterminal, gamma = rollout(rng)
    n = int(rng.integers(1, 4))
    returns = [np.concatenate([values[:-1], values[-1:]])] + [
        np.concatenate([advantages.n_step_returns(rewards, values[1:], nonterminal, gamma, k), values[-1:]])
        for k in range(1, n + 1)
    ]
    bound["Ĝ"] = Bound(np.stack(returns, axis=-1).swapaxes(0, 1), "Btn")
    return Situation(bound, {0: Bound(returns[n][:-1], "tB"), 1: Bound(values[:-1], "tB")}, at={"n": n})


def drawn_gae(rng):
    deltas, nonterminal, gamma, lam = normal(rng, "tB"), bit(rng, "tB"), unit(rng, ""), unit(rng, "")
    output = Bound(advantages.gae(deltas, nonterminal, float(gamma), float(lam)), "tB")
    bound = {"δ": Bound(deltas, "tB"), "n": Bound(nonterminal, "tB"), "γ": Bound(gamma), "λ": Bound(lam), "Â": output}
    return Situation(bound, {0: output})


def drawn_race(rng):
    p = simplex(rng, "Ni")
    seed = int(rng.integers(2**31))
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        clocks = th.empty(p.shape, dtype=th.float64).exponential_(1).numpy()
        th.manual_seed(seed)
        actions = categorical.categorical_sample(tensor(np.log(p)))
    return Situation({"p": Bound(p, "Ni"), "E": Bound(clocks, "Ni")}, {0: Bound(numbers(actions), "N")})


def drawn_gaussian_sample(rng):
    mean, std, seed = normal(rng, "Ni"), positive(rng, "Ni"), int(rng.integers(2**31))
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        noise = th.empty(mean.shape, dtype=th.float64).normal_().numpy()
        th.manual_seed(seed)
        actions = gaussian.gaussian_sample(tensor(mean), tensor(std))
    bound = {"μ": Bound(mean, "Ni"), "σ": Bound(std, "Ni"), "ε": Bound(noise, "Ni")}
    return Situation(bound, {0: Bound(numbers(actions), "Ni")})


def drawn_beta_sample(rng):
    alpha, beta_, seed = above_one(rng, "Ni"), above_one(rng, "Ni"), int(rng.integers(2**31))
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        first, second = th._standard_gamma(tensor(alpha)), th._standard_gamma(tensor(beta_))
        th.manual_seed(seed)
        actions = beta.beta_sample(tensor(alpha), tensor(beta_))
    return Situation(
        {"g₁": Bound(first.numpy(), "Ni"), "g₂": Bound(second.numpy(), "Ni")}, {0: Bound(numbers(actions), "Ni")}
    )


def components(rng):
    return [simplex(rng, "Ni") for _ in range(SIZES["j"])]


def logarithms(parts):
    return [tensor(np.log(part)) for part in parts]


def drawn_multi_log_prob(rng):
    parts, actions = components(rng), rng.integers(0, SIZES["i"], size=(SIZES["N"], SIZES["j"]))
    taken = np.stack([part[np.arange(SIZES["N"]), actions[:, j]] for j, part in enumerate(parts)], axis=1)
    output = categorical.multi_categorical_log_prob(logarithms(parts), th.from_numpy(actions))
    return Situation({"π(a|s)": Bound(taken, "Nj")}, {0: Bound(numbers(output), "N")})


def drawn_multi_entropy(rng):
    parts = logarithms(components(rng))
    entropies = np.stack([numbers(categorical.categorical_entropy(part)) for part in parts], axis=1)
    return Situation(
        {"H": Bound(entropies, "Nj")}, {0: Bound(numbers(categorical.multi_categorical_entropy(parts)), "N")}
    )


def drawn_multi_kl(rng):
    old, new = logarithms(components(rng)), logarithms(components(rng))
    divergences_ = np.stack([numbers(categorical.categorical_kl(*pair)) for pair in zip(old, new, strict=True)], axis=1)
    return Situation(
        {"KL": Bound(divergences_, "Nj")}, {0: Bound(numbers(categorical.multi_categorical_kl(old, new)), "N")}
    )


def drawn_dimensions(rng):
    logits, actions = tensor(normal(rng, "Ni")), tensor(bit(rng, "Ni"))
    parts = dimensions.dimensions_of(BERNOULLI, (logits,))
    entropies = np.stack([numbers(formulas.entropy(parameters)) for formulas, parameters in parts], axis=1)
    columns = actions.split(1, dim=1)
    log_probs = [
        formulas.log_prob(parameters, column) for (formulas, parameters), column in zip(parts, columns, strict=True)
    ]
    bound = {"H(π)": Bound(entropies, "Ni"), "π(a)": Bound(np.exp(np.stack(log_probs, axis=1)), "Ni")}
    whole = bernoulli.bernoulli_entropy(logits), bernoulli.bernoulli_log_prob(logits, actions)
    return Situation(bound, {number: Bound(numbers(part), "N") for number, part in enumerate(whole)})


def drawn_noise(rng):
    latent, weights = normal(rng, "Nk"), normal(rng, "ki")
    of_another_number_of_environments = th.zeros(SIZES["N"] + 1, SIZES["k"], SIZES["i"], dtype=th.float64)
    noise = gaussian.state_dependent_noise(tensor(latent), tensor(weights), of_another_number_of_environments)
    return Situation({"h(s)": Bound(latent, "Nk"), "W": Bound(weights, "ki")}, {0: Bound(numbers(noise), "Ni")})


def drawn_expln(use_expln):
    def draw(rng):
        log_std, epsilon = normal(rng, "ki"), small(rng, "")
        std = gaussian.exploration_weight_std(tensor(log_std), SIZES["i"], use_expln, float(epsilon))
        bound = {"w": Bound(np.exp(log_std), "ki"), "ε": Bound(epsilon)}
        return Situation(bound, {int(use_expln): Bound(numbers(std), "ki")})

    return draw


def drawn_squashed_entropy(rng):
    mean, std = normal(rng, "Ni"), small(rng, "Ni")
    each = np.stack([numbers(gaussian.gaussian_entropy(tensor(std[:, i : i + 1]))) for i in range(SIZES["i"])], axis=1)
    bound = {"μ": Bound(mean, "Ni"), "σ": Bound(std, "Ni"), "ε": STANDARD_NORMAL, "H(N(μ,σ))": Bound(each, "Ni")}
    return Situation(bound, {0: Bound(numbers(squashed.squashed_gaussian_entropy(tensor(mean), tensor(std))), "N")})


def log_ratio(function):
    def draw(rng):
        log_prob, difference = -positive(rng, "N"), 0.5 * normal(rng, "N")
        values = {"ρ": difference, "π": log_prob, "π_old": log_prob - difference}
        bound = {symbol: Bound(np.exp(logarithm), "N") for symbol, logarithm in values.items()}
        return Situation(bound, {0: Bound(numbers(function(tensor(difference))), "N")})

    return special(function, {"log ρ": "log_ratio"}, draw)


def drawn_penalized(rng):
    ratio, advantage, kl, coefficient = positive(rng, "N"), normal(rng, "N"), positive(rng, "N"), positive(rng, "")
    bound = {"ρ": Bound(ratio, "N"), "Â": Bound(advantage, "N"), "KL(π_old‖π)": Bound(kl, "N"), "β": Bound(coefficient)}
    output = divergences.kl_penalized(tensor(ratio * advantage), tensor(kl), float(coefficient))
    return Situation(bound, {0: Bound(numbers(output), "N")})


def drawn_gates(rng):
    sums = normal(rng, "kP")[:4]
    gates = memory.lstm_gates(tensor(sums.ravel()))
    bound = {f"z_{letter}": Bound(row, "P") for letter, row in zip("ifgo", sums, strict=True)}
    return Situation(bound, {number: Bound(numbers(gate), "P") for number, gate in enumerate(gates)})


def gates_of(rng):
    gates = memory.lstm_gates(tensor(rng.normal(size=4 * SIZES["P"])))
    return gates, {letter: Bound(numbers(gate), "P") for letter, gate in gates._asdict().items()}


def drawn_lstm_step(rng):
    gates, bound = gates_of(rng)
    before = normal(rng, "P")
    hidden, cell = memory.lstm_step(gates, tensor(before))
    bound |= {"c'": Bound(before, "P"), "c": Bound(numbers(cell), "P")}
    return Situation(bound, {0: Bound(numbers(cell), "P"), 1: Bound(numbers(hidden), "P")})


def drawn_lstm_gradient(rng):
    gates, bound = gates_of(rng)
    before, cell, d_hidden, d_cell = (normal(rng, "P") for _ in range(4))
    d_sums, d_before = memory.lstm_step_gradient(gates, *map(tensor, (before, cell, d_hidden, d_cell)))
    symbols = {"c'": before, "c": cell, "∂h": d_hidden, "∂c_later": d_cell}
    bound |= {symbol: Bound(values, "P") for symbol, values in symbols.items()}
    parts = dict(enumerate([d_before, *d_sums.chunk(4)], start=1))
    # In the order of the lines: ∂c', ∂i, ∂f, ∂g, ∂o.
    return Situation(bound, {number: Bound(numbers(part), "P") for number, part in parts.items()})


def two_sets_of_moments(rng):
    sets = rng.normal(size=(5, 3)), rng.normal(size=(3, 3)) + 1
    first, second = (normalization.Moments(len(x), x.mean(0), ((x - x.mean(0)) ** 2).sum(0)) for x in sets)
    return first, second, sets[1]


def moments_situation(values, outputs):
    """``values``: by symbol; ``outputs``: by the number of the equation."""
    bound = {symbol: Bound(np.asarray(value, float), "P"[: np.ndim(value)]) for symbol, value in values.items()}
    return Situation(bound, {n: Bound(np.asarray(value, float), "P"[: np.ndim(value)]) for n, value in outputs.items()})


def drawn_moments(rng, is_pooled=False):
    first, second, samples = two_sets_of_moments(rng)
    n, mean, deviations = (
        normalization.pooled_moments(first, second) if is_pooled else normalization.merged_moments(first, samples)
    )
    values = {"n₁": first.n, "n₂": second.n, "μ₁": first.mean, "μ₂": second.mean}
    values |= {"M₁": first.deviations, "M₂": second.deviations, "n": n}
    return moments_situation(values, {0: n, 1: mean, 2: deviations})


def drawn_moments_since(rng):
    first, second, _ = two_sets_of_moments(rng)
    whole = normalization.pooled_moments(first, second)
    n, mean, deviations = normalization.moments_since(whole, first)
    values = {"n": whole.n, "n₁": first.n, "n₂": n, "μ": whole.mean, "μ₁": first.mean}
    values |= {"M": whole.deviations, "M₁": first.deviations}
    return moments_situation(values, {0: n, 2: mean, 3: deviations})


def drawn_streaming_std(rng):
    deviations, n = positive(rng, "P"), float(rng.integers(2, 9))
    output = normalization.streaming_std(normalization.Moments(int(n), np.zeros(SIZES["P"]), deviations))
    return Situation({"M": Bound(deviations, "P"), "n": Bound(np.asarray(n))}, {0: Bound(output, "P")})


def drawn_z_scores(rng):
    rewards, eps = normal(rng, "t"), small(rng, "")
    scores = normalization.trajectory_z_scores(rewards[:, np.newaxis], np.ones((SIZES["t"], 1)), float(eps))
    return Situation({"r": Bound(rewards, "t"), "eps": Bound(eps)}, {0: Bound(scores[:, 0], "t")})


def drawn_ratio(rng):
    new, old = unit(rng, "N"), unit(rng, "N")
    output = objectives.probability_ratio(tensor(np.log(new)), tensor(np.log(old)))
    bound = {"π(a|s)": new, "π_old(a|s)": old, "π": new, "π_old": old}
    return Situation({symbol: Bound(values, "N") for symbol, values in bound.items()}, {0: Bound(numbers(output), "N")})


def drawn_pessimistic(rng):
    values, old, returns, epsilon = normal(rng, "N"), normal(rng, "N"), normal(rng, "N"), small(rng, "")
    clipped = objectives.clipped_values(tensor(values), tensor(old), float(epsilon))
    output = objectives.pessimistic_value_error(tensor(values), tensor(old), tensor(returns), float(epsilon))
    bound = {"V": values, "Ĝ": returns, "V_clip": numbers(clipped)}
    return Situation(
        {symbol: Bound(numbers_, "N") for symbol, numbers_ in bound.items()}, {0: Bound(numbers(output), "N")}
    )


def drawn_normalized(rng):
    values, eps, ddof = normal(rng, "i"), small(rng, ""), int(rng.integers(0, 2))
    output = objectives.normalize_advantages(tensor(values), float(eps), ddof)
    constants = {"eps": eps, "ddof": np.asarray(float(ddof)), "N": np.asarray(float(SIZES["i"]))}
    bound = {"Â": Bound(values, "i")} | {symbol: Bound(value) for symbol, value in constants.items()}
    return Situation(bound, {0: Bound(numbers(output), "i")})


def drawn_adam_step(rng):
    weights, m, v = normal(rng, "P"), normal(rng, "P"), positive(rng, "P")
    betas, rate, step, eps = (0.8, 0.9), 0.1, int(rng.integers(1, 5)), small(rng, "")
    corrections = optimizers.adam_corrections(step, rate, betas)
    output = optimizers.adam_step(tensor(weights), tensor(m), tensor(v), corrections, float(eps))
    values = {"α": rate, "β₁": betas[0], "β₂": betas[1], "t": step, "ε": eps}
    bound = {symbol: Bound(np.asarray(float(value))) for symbol, value in values.items()}
    return Situation(
        bound | {"θ": Bound(weights, "P"), "m": Bound(m, "P"), "v": Bound(v, "P")}, {0: Bound(numbers(output), "P")}
    )


def rmsprop(function):
    inputs = {"θ": ("weights", normal, "P"), "g": ("gradient", normal, "P"), "v": ("square_avg", positive, "P")}
    rest = {"α": ("negative_learning_rate", small, "", lambda rate: -rate), "ε": ("eps", small, "")}
    return case(function, inputs | rest, "P")


def drawn_loss(rng):
    """PPO's, with a clip and the squared error; the means are over the minibatch."""
    values, returns, log_probs, old, advantage = (normal(rng, "N") for _ in range(5))
    entropy, ent_coef, vf_coef = positive(rng, "N"), small(rng, ""), positive(rng, "")
    minibatch = SimpleNamespace(
        old_log_prob=tensor(old), advantages=tensor(advantage), returns=tensor(returns), old_values=tensor(values)
    )
    evaluation = loss.Evaluation(tensor(values), tensor(log_probs), tensor(entropy), None)
    terms = loss.minibatch_loss(
        evaluation, minibatch, UpdateRule(), loss.LossCoefficients(ent_coef=float(ent_coef), vf_coef=float(vf_coef))
    )
    ratio = objectives.probability_ratio(tensor(log_probs), tensor(old))
    parts = {
        "objective": objectives.clipped_surrogate(ratio, tensor(advantage), 0.2),
        "error": objectives.squared_value_error(tensor(values), tensor(returns)),
        "H": entropy,
    }
    bound = {symbol: Bound(numbers(part), "N") for symbol, part in parts.items()}
    bound |= {"ent_coef": Bound(ent_coef), "vf_coef": Bound(vf_coef)}
    return Situation(bound, {0: Bound(numbers(terms.loss))})


RATIO = {"ρ": ("ratio", positive, "i"), "Â": ("advantages", normal, "i")}
VALUES = {"V(s)": ("values", normal, "N"), "Ĝ": ("returns", normal, "N")}
PLAIN_VALUES = {"V": ("values", normal, "N"), "Ĝ": ("returns", normal, "N")}
OLD_VALUES = {"V_old": ("old_values", normal, "N"), "ε": ("clip_range_vf", small, "")}
GAUSSIAN = {"μ": ("mean", normal, "Ni"), "σ": ("std", positive, "Ni")}
SQUASHED = GAUSSIAN | {"a": ("actions", inside, "Ni")}
BETA = {"α": ("alpha", above_one, "Ni"), "β": ("beta", above_one, "Ni")}
P = {"log p": ("log_probs", simplex, "Ni", np.log)}
MOMENTS = {"n₁": "moments", "μ₁": "moments", "M₁": "moments", "n₂": "samples", "μ₂": "samples", "M₂": "samples"}
near = between(0.2, 2.5)

CASES = [
    case(
        activity.dormant_share, {"h": ("activations", normal, "Ni"), "τ": ("threshold", between(0.5, 1.5), "")}, "", k=3
    ),
    case(activity.saturated_share, {"h": ("activations", inside, "Ni"), "τ": ("threshold", unit, "")}, ""),
    case(activity.relative_change, {"θ": ("before", normal, "P"), "θ'": ("after", normal, "P")}, ""),
    case(
        adaptation.adapted_learning_rate,
        {
            "α": ("learning_rate", near, ""),
            "KL": ("kl", near, ""),
            "threshold": ("threshold", near, ""),
            "k": ("kl_factor", between(1.1, 1.5), ""),
            "f": ("lr_factor", between(1.5, 3), ""),
            "α_min": ("bounds.0", between(0.2, 0.6), ""),
            "α_max": ("bounds.1", between(1, 3), ""),
        },
        "",
    ),
    case(
        adaptation.adapted_penalty,
        {
            "β": ("coefficient", near, ""),
            "KL": ("kl", near, ""),
            "target": ("target", near, ""),
            "low": ("band.0", between(0.6, 0.9), ""),
            "high": ("band.1", between(1.1, 1.5), ""),
            "f": ("factor", between(1.5, 3), ""),
            "β_min": ("bounds.0", between(0.2, 0.6), ""),
            "β_max": ("bounds.1", between(1, 3), ""),
        },
        "",
    ),
    special(advantages.next_nonterminal, {"start": "episode_starts", "done": "dones"}, drawn_next_nonterminal),
    case(
        advantages.bootstrap_time_limits,
        {"r": ("rewards", normal, "tB"), "V(s_terminal)": ("terminal_values", normal, "tB"), "γ": ("gamma", unit, "")},
        "tB",
    ),
    special(
        advantages.td_residuals,
        {"rₜ": "rewards", "V(sₜ)": "values", "V(sₜ₊₁)": "following_values", "nₜ": "nonterminal", "γ": "gamma"},
        drawn_td_residuals,
    ),
    special(advantages.gae, {"δₜ": "deltas", "nₜ": "nonterminal", "γ": "gamma", "λ": "gae_lambda"}, drawn_gae),
    case(advantages.lambda_returns, {"Â": ("advantages", normal, "tB"), "V(s)": ("values", normal, "tB")}, "tB"),
    special(
        advantages.monte_carlo_returns,
        {"rₜ": "rewards", "V(s_T)": "last_values", "nₜ": "nonterminal", "γ": "gamma"},
        drawn_monte_carlo,
    ),
    special(
        advantages.n_step_returns,
        {"rₜ": "rewards", "V(sₜ₊₁)": "following_values", "nₜ": "nonterminal", "γ": "gamma", "n": "n"},
        drawn_n_step,
    ),
    case(diagnostics.clip_fraction, {"ρ": ("ratio", positive, "i"), "ε": ("clip_range", small, "")}, "i"),
    case(diagnostics.effective_sample_size, {"ρ": ("ratio", positive, "i")}, "", N=3),
    case(diagnostics.explained_variance, PLAIN_VALUES, ""),
    case(diagnostics.excess_kurtosis, {"x": ("values", normal, "i")}, ""),
    case(bernoulli.bernoulli_log_prob, {"z": ("logits", normal, "Ni"), "a": ("actions", bit, "Ni")}, "N"),
    case(bernoulli.bernoulli_entropy, {"z": ("logits", normal, "Ni")}, "N"),
    case(
        bernoulli.bernoulli_kl,
        {"p_old": ("old_logits", unit, "Ni", logit), "p_new": ("new_logits", unit, "Ni", logit)},
        "N",
    ),
    case(
        beta.beta_parameters,
        {"z": ("outputs", lambda rng, axes: rng.normal(size=(SIZES["N"], 2 * SIZES["i"])), "Ni")},
        "Ni",
        "Ni",
        d=3,
    ),
    case(beta.log_beta_function, BETA, "Ni"),
    case(beta.beta_log_prob, BETA | {"a": ("actions", inside, "Ni")}, "N"),
    case(beta.beta_entropy, BETA, "N"),
    case(
        beta.beta_kl,
        {
            "α": ("old_alpha", above_one, "Ni"),
            "β": ("old_beta", above_one, "Ni"),
            "α'": ("new_alpha", above_one, "Ni"),
            "β'": ("new_beta", above_one, "Ni"),
        },
        "N",
    ),
    special(beta.beta_sample, {"α": "alpha", "β": "beta"}, drawn_beta_sample),
    case(beta.beta_mean, BETA, "Ni"),
    case(categorical.log_probabilities, {"z": ("logits", normal, "Ni")}, "Ni"),
    case(categorical.masked_logits, {"z": ("logits", normal, "Ni"), "m": ("masks", bit, "Ni", lambda m: m > 0)}, "Ni"),
    case(categorical.probabilities, {"log p": ("log_probs", positive, "Ni", np.log)}, "Ni"),
    case(categorical.categorical_log_prob, P | {"a": ("actions", choice, "N")}, "N"),
    case(categorical.categorical_entropy, P, "N"),
    case(
        categorical.categorical_kl,
        {"log p_old": ("old_log_probs", simplex, "Ni", np.log), "log p_new": ("new_log_probs", simplex, "Ni", np.log)},
        "N",
    ),
    special(categorical.categorical_sample, {"log p": "log_probs"}, drawn_race),
    case(categorical.categorical_mode, P, "N"),
    special(
        categorical.multi_categorical_log_prob,
        {"log-probabilities": "components", "a": "actions"},
        drawn_multi_log_prob,
    ),
    special(categorical.multi_categorical_entropy, {"log-probabilities": "components"}, drawn_multi_entropy),
    special(categorical.multi_categorical_kl, {"old": "old", "new": "new"}, drawn_multi_kl),
    special(dimensions.dimensions_of, {}, drawn_dimensions),
    case(dimensions.relative_entropy, {"H": ("entropies", positive, "n"), "H_max": ("largest", positive, "n")}, ""),
    case(gaussian.broadcast_std, {"log σ": ("log_std", positive, "i", np.log), "mean": ("mean", normal, "Ni")}, "Ni"),
    case(
        gaussian.clamped_std,
        {
            "log σ": ("log_std", positive, "Ni", np.log),
            "low": ("bounds.0", between(-0.5, -0.2), ""),
            "high": ("bounds.1", between(0.2, 0.5), ""),
        },
        "Ni",
    ),
    case(gaussian.gaussian_log_prob, GAUSSIAN | {"a": ("actions", normal, "Ni")}, "N"),
    case(gaussian.gaussian_entropy, {"σ": ("std", positive, "Ni")}, "N"),
    case(
        gaussian.gaussian_kl,
        {
            "μ_old": ("old_mean", normal, "Ni"),
            "σ_old": ("old_std", positive, "Ni"),
            "μ": ("new_mean", normal, "Ni"),
            "σ": ("new_std", positive, "Ni"),
        },
        "N",
    ),
    special(gaussian.gaussian_sample, {"μ": "mean", "σ": "std"}, drawn_gaussian_sample),
    case(
        gaussian.state_dependent_std,
        {"h(s)": ("latent", normal, "Nk"), "w": ("weight_std", positive, "ki"), "ε": ("epsilon", small, "")},
        "Ni",
    ),
    special(gaussian.exploration_weight_std, {"log w": "log_std", "ε": "epsilon"}, drawn_expln(False)),
    special(
        gaussian.exploration_weight_std,
        {"log w": "log_std", "ε": "epsilon"},
        drawn_expln(True),
        name="exploration_weight_std, use_expln",
    ),
    special(gaussian.state_dependent_noise, {"h(s)": "latent", "W": "weights"}, drawn_noise),
    case(squashed.inverse_tanh, {"a": ("actions", inside, "Ni")}, "Ni"),
    case(squashed.tanh_gaussian_log_prob, SQUASHED | {"ε": ("epsilon", small, "")}, "N"),
    case(squashed.log_tanh_slope, {"x": ("unsquashed", normal, "Ni")}, "Ni"),
    case(squashed.squashed_gaussian_log_prob, SQUASHED, "N"),
    special(squashed.squashed_gaussian_entropy, {"μ": "mean", "σ": "std"}, drawn_squashed_entropy),
    log_ratio(divergences.kl_k1),
    log_ratio(divergences.kl_k2),
    log_ratio(divergences.kl_k3),
    case(
        divergences.kl_cutoff,
        {"KL": ("kl", near, "N"), "KL_max": ("threshold", near, ""), "c": ("coefficient", positive, "")},
        "N",
    ),
    special(divergences.kl_penalized, {"ρ·Â": "surrogate", "KL(π_old ‖ π)": "kl", "β": "coefficient"}, drawn_penalized),
    special(memory.lstm_gates, {"z": "sums"}, drawn_gates),
    special(memory.lstm_step, {"c'": "cell"}, drawn_lstm_step),
    special(
        memory.lstm_step_gradient,
        {"c'": "before", "c": "cell", "∂h": "d_hidden", "∂c_later": "d_cell"},
        drawn_lstm_gradient,
    ),
    special(normalization.merged_moments, MOMENTS, drawn_moments),
    special(
        normalization.pooled_moments,
        MOMENTS | {"n₂": "others", "μ₂": "others", "M₂": "others"},
        partial(drawn_moments, is_pooled=True),
    ),
    special(
        normalization.moments_since,
        {"n": "moments", "μ": "moments", "M": "moments", "n₁": "before", "μ₁": "before", "M₁": "before"},
        drawn_moments_since,
    ),
    special(normalization.streaming_std, {"n": "moments", "M": "moments"}, drawn_streaming_std),
    special(normalization.trajectory_z_scores, {"r": "rewards", "eps": "eps"}, drawn_z_scores),
    case(
        objectives.policy_gradient,
        {"log π(aᵢ|sᵢ)": ("log_probs", unit, "i", np.log), "Â": ("advantages", normal, "i")},
        "i",
    ),
    special(objectives.probability_ratio, {"log π(a|s)": "log_probs", "log π_old(a|s)": "old_log_probs"}, drawn_ratio),
    case(objectives.surrogate, RATIO, "i"),
    case(objectives.clipped_surrogate, RATIO | {"ε": ("clip_range", small, "")}, "i"),
    case(objectives.squared_value_error, VALUES, "N"),
    case(objectives.mean_squared_error, VALUES, ""),
    case(objectives.clipped_values, {"V": ("values", normal, "N")} | OLD_VALUES, "N"),
    special(
        objectives.pessimistic_value_error,
        {"V": "values", "Ĝ": "returns", "V_old": "old_values", "ε": "clip_range_vf"},
        drawn_pessimistic,
    ),
    case(objectives.huber_value_error, PLAIN_VALUES | {"β": ("beta", positive, "")}, "N"),
    special(objectives.normalize_advantages, {"Â": "advantages", "eps": "eps", "ddof": "ddof"}, drawn_normalized),
    case(
        optimizers.adam_moments,
        {
            "g": ("gradient", normal, "P"),
            "m": ("exp_avg", normal, "P"),
            "v": ("exp_avg_sq", positive, "P"),
            "β₁": ("betas.0", unit, ""),
            "β₂": ("betas.1", unit, ""),
        },
        "P",
        "P",
    ),
    case(
        optimizers.adam_corrections,
        {
            "t": ("step", exactly(3), ""),
            "α": ("learning_rate", small, ""),
            "β₁": ("betas.0", unit, ""),
            "β₂": ("betas.1", unit, ""),
        },
        "",
        "",
    ),
    special(optimizers.adam_step, {"θ": "weights", "m": "exp_avg", "v": "exp_avg_sq", "ε": "eps"}, drawn_adam_step),
    case(
        optimizers.rmsprop_square,
        {"g": ("gradient", normal, "P"), "v": ("square_avg", positive, "P"), "α": ("alpha", unit, "")},
        "P",
    ),
    rmsprop(optimizers.rmsprop_step),
    rmsprop(optimizers.rmsprop_tf_step),
    special(loss.minibatch_loss, {"ent_coef": "coefficients", "vf_coef": "coefficients"}, drawn_loss),
]
