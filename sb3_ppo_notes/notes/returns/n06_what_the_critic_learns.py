"""What should the critic learn?

The mean of its targets, and the targets may be built in several ways: TD(0) takes one reward and its own word for the
rest, the λ-return blends, a Monte-Carlo return takes all rewards. In a table they have one and the same fixed point,
the value of the policy. λ decides how fast it is reached, not where.

A walk along {n_states} states, {n_walkers:,} walkers of {n_steps} steps. In each sweep the table becomes the mean
λ-return of every state, computed with the table as it was:

| λ | sweeps until the error is below {near:g} | error after {n_sweeps} sweeps |
|---|---|---|
| {lambdas[0]:g} | {sweeps[0]} | {ends[0]:.3f} |
| {lambdas[1]:g} | {sweeps[1]} | {ends[1]:.3f} |
| {lambdas[2]:g} | {sweeps[2]} | {ends[2]:.3f} |
| {lambdas[3]:g} | {sweeps[3]} | {ends[3]:.3f} |

So a critic that is trained on λ-returns does **not** become a "value with λ in it": V stands on both sides of the
target, and V = Vπ solves the equation for every λ. What is left at the end is the luck of these samples, more of it the
larger λ. (With a network in place of the table it cannot be right everywhere, and then λ does have a say in where it is
wrong.)

**Targets are constants.** The loss (V − Ĝ)² is differentiated in V alone, although Ĝ = Â + V(s) was made with the same
network. Whoever lets the gradient through Ĝ as well gets V − Â − V: the critic's gradient is then {foil_gradient:g},
and it never learns. Stored targets, as NumPy arrays in the rollout, are constants by themselves.

**Before the normalisation.** The target is advantage plus value in reward units. A normalised advantage is in standard
deviations, and the sum of the two would be the value of nothing.

**Once, or again in every epoch?** Both are done. SB3 computes advantages and targets once a rollout; minimalRL before
each epoch, with the critic as it is then. With one epoch there is no difference, to the bit ({one_epoch:g}); with
{n_epochs} the weights differ by up to {more_epochs:.5f}. Once is cheaper and keeps the targets still; again uses a
critic that has become better meanwhile. In the rule it is `computed="once"` or `"every_epoch"`.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.algorithms import NotesPPO
from sb3_ppo_notes.charts import INK, PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.advantages import gae, lambda_returns, monte_carlo_returns, td_residuals
from sb3_ppo_notes.formulas.objectives import squared_value_error
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.random_walk import Walks, means_and_variances, true_values, walks
from sb3_ppo_notes.rules import GAE, LambdaReturn, RolloutArrays, UpdateRule

NOTE = Note(
    name="what-the-critic-learns",
    number=6,
    titles=dict(
        en="What should the critic learn?",
        ja="クリティックは何を目標に学ぶのか",
        fr="Que doit apprendre le critique ?",
        ko="크리틱은 무엇을 목표로 학습하는가?",
    ),
    answers=("1.2", "5.7", "A13", "A14"),
    formulas=(lambda_returns, gae, td_residuals, monte_carlo_returns),
    tests=(
        "tests/recipes/test_rules.py::test_advantages_computed_every_epoch_follow_the_critic",
        "tests/recipes/test_rules.py::test_recomputing_with_an_unchanged_critic_changes_nothing",
    ),
)
N_STATES, N_STEPS, N_WALKERS, N_SWEEPS = 9, 60, 3000, 30
LAMBDAS = (0.0, 0.5, 0.9, 1.0)
NEAR = 0.05
N_ENVS, N_ROWS, N_EPOCHS = 4, 32, 3


class Result(NamedTuple):
    n_states: int
    n_steps: int
    n_walkers: int
    n_sweeps: int
    near: float
    lambdas: tuple[float, ...]
    errors: np.ndarray  # [4, sweeps + 1], root mean square over the states
    sweeps: list[int]  # [4], until the error is small
    ends: np.ndarray  # [4]
    foil_gradient: float
    gradient: float
    n_epochs: int
    one_epoch: float  # largest difference of a weight, once against every epoch
    more_epochs: float
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """Four tables, one gradient, and advantages that are computed once or again."""
    walked = walks(np.random.default_rng(seed), N_STATES, N_STEPS, N_WALKERS)
    errors = np.array([_errors(walked, gae_lambda) for gae_lambda in LAMBDAS])

    advantages, values = th.tensor([0.5, -1.0]), th.tensor([2.0, 3.0], requires_grad=True)
    (gradient,) = th.autograd.grad(squared_value_error(values, advantages + values.detach()).sum(), values)
    # The foil: the target is part of the graph.
    (foil,) = th.autograd.grad(squared_value_error(values, advantages + values).sum(), values)

    differences = []
    for n_epochs in (1, N_EPOCHS):
        once, again = _weights("once", n_epochs, seed), _weights("every_epoch", n_epochs, seed)
        differences.append(float((once - again).abs().max()))
    return Result(
        n_states=N_STATES,
        n_steps=N_STEPS,
        n_walkers=N_WALKERS,
        n_sweeps=N_SWEEPS,
        near=NEAR,
        lambdas=LAMBDAS,
        errors=errors,
        sweeps=np.argmax(errors < NEAR, axis=1).tolist(),
        ends=errors[:, -1],
        foil_gradient=float(foil.abs().max()),
        gradient=float(gradient.abs().max()),
        n_epochs=N_EPOCHS,
        one_epoch=differences[0],
        more_epochs=differences[1],
        environment_steps=4 * N_ENVS * N_ROWS,
    )


def _errors(walked: Walks, gae_lambda: float) -> list[float]:
    """The error of a table before each sweep, and after the last."""
    states, rewards, nonterminal = walked
    table, truth, errors = np.zeros(N_STATES), true_values(N_STATES), []
    for _ in range(N_SWEEPS + 1):
        errors.append(float(np.sqrt(((table - truth) ** 2).mean())))
        values = table[states]
        rollout = RolloutArrays(rewards, values[:-1], values[1:], nonterminal)
        rule = UpdateRule(advantage_estimator=GAE(gae_lambda), value_target=LambdaReturn())
        _, returns = rule.estimate(rollout, gamma=1.0)
        table, _ = means_and_variances(states[:-1], returns, N_STATES)
    return errors


def _weights(computed: Literal["once", "every_epoch"], n_epochs: int, seed: int) -> th.Tensor:
    """Of a model after one update."""
    env = LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS)
    rule = UpdateRule(computed=computed)
    model = NotesPPO(
        "MlpPolicy", env, learning_rate=3e-3, n_steps=N_ROWS, n_epochs=n_epochs, rule=rule, seed=seed, device="cpu"
    )
    model.learn(N_ENVS * N_ROWS)
    return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()


def picture(result: Result, figure: Figure) -> None:
    """Four ways, one end."""
    axes = figure.subplots()
    for gae_lambda, errors, color in zip(result.lambdas, result.errors, PALETTE, strict=False):
        axes.plot(errors, color=color, marker=".", label=f"λ = {gae_lambda:g}")
    axes.axhline(result.near, color=INK, linestyle=":", linewidth=1)
    axes.set(xlabel="sweeps", ylabel="error of the table", yscale="log", xlim=(0, result.n_sweeps))
    axes.legend()


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Every λ ends at the value of the policy.",
        result.ends,
        0.04,
        relation="<",
        mutant="residual without the value it is compared with",
    )
    yield Claim(
        "The larger λ, the fewer sweeps.",
        np.diff(result.sweeps),
        0,
        relation="<",
        mutant="lambda forgotten",
    )
    yield Claim(
        "With λ = 1 a single one.",
        result.sweeps[3],
        1,
        mutant="target of the critic is the normalised advantage",
    )
    yield Claim(
        "A target that is part of the graph gives the critic the gradient 0.",
        result.foil_gradient,
        0.0,
        mutant="note 6: the foil's target is a constant",
    )
    yield Claim(
        "A constant target gives it twice its error.",
        result.gradient,
        2.0,
        1e-6,
        mutant="the critic's error is linear",
    )
    yield Claim(
        "With one epoch, advantages computed again before every epoch change nothing.",
        result.one_epoch,
        0.0,
        mutant="note 6: two epochs are one",
    )
    yield Claim(
        "With several they do.",
        result.more_epochs,
        1e-5,
        relation=">",
        mutant="advantages never computed again",
    )
