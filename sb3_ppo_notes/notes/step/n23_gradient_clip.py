"""What is the gradient clip?

A bound on the *length* of the gradient of one step: if it is longer than `max_grad_norm`, all of it is scaled down to
that length, and its direction stays. It is used with any network and any loss. PPO's clip is something else: it bounds
the *reward* for moving a ratio, sample by sample, and shapes the objective before anything is differentiated. Neither
knows of the other.

The length is that of the whole gradient, actor and critic together. That has a consequence. CartPole, {n_samples}
samples, the first step of an update; then the same samples with every reward a thousand times as large:

| | reward × {scales[0]:g} | reward × {scales[1]:g} |
|---|---|---|
| length of the gradient | {norms[0]:.1f} | {norms[1]:,.0f} |
| of it the actor's, advantages as they are | {raw_actors[0]:.3f} | {raw_actors[1]:.0f} |
| of it the actor's, advantages normalised | {actors[0]:.3f} | {actors[1]:.3f} |
| length after the clip | {steps[0]:.3f} | {steps[1]:.3f} |
| of it the actor's | {left[0]:.1e} | {left[1]:.1e} |

With the stock `max_grad_norm={max_grad_norm:g}` the clip is at work already at the plain reward, and the critic's error
fills nearly the whole length. With the large reward it eats it up: of the actor's gradient there is so little left that
plain gradient descent would not move the policy at all. Adam, which divides by the gradient's own size, hides this
until the share changes from step to step.

PPO's clip sees nothing of it: over the update that follows {clip_fractions[0]:.1%} and {clip_fractions[1]:.1%} of the
ratios leave its range. The remedy is the scale of the reward (`VecNormalize`, `VecRewardScale`), a smaller `vf_coef`,
or an optimiser for each network. `train/loss` shows the trouble; the norms of both parts are in `UpdateReport`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.charts import INK, PALETTE
from sb3_ppo_notes.engine.descent import Descent, Phase, clip_coefficient
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.envs.wrappers import VecRewardScale
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.rollout import gather
from sb3_ppo_notes.policies.actor_critic import evaluate_minibatch
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.loss import LossCoefficients, minibatch_loss

NOTE = Note(
    name="gradient-clip",
    number=23,
    titles=dict(
        en="What is the gradient clip?",
        ja="勾配クリッピングとは何か",
        fr="Qu'est-ce que le clip du gradient ?",
        ko="그래디언트 클리핑은 무엇인가?",
    ),
    answers=("1.9",),
    formulas=(clip_coefficient, Descent.take),
    tests=("tests/formulas/test_objectives.py::test_gradient_table_of_the_clip",),
)
N_ENVS, N_STEPS, MAX_GRAD_NORM = 4, 64, 0.5
SCALES = (1.0, 1000.0)


class FirstStep(NamedTuple):
    """Lengths of a gradient, and the step that is made of it."""

    norm: float
    actor: float
    step: float
    actor_left: float
    cosine: float


class Result(NamedTuple):
    n_samples: int
    scales: tuple[float, float]
    max_grad_norm: float
    norms: np.ndarray  # [2], of each scale, advantages normalised
    raw_actors: np.ndarray  # [2], not normalised
    actors: np.ndarray  # [2]
    steps: np.ndarray  # [2]
    left: np.ndarray  # [2]
    cosines: np.ndarray  # [2]
    coefficients: np.ndarray  # [2]
    clip_fractions: np.ndarray  # [2]
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """The first step at two scales of the reward, with advantages normalised and not; then a whole update."""
    normalized = [_first_step(scale, True, seed) for scale in SCALES]
    raw = [_first_step(scale, False, seed) for scale in SCALES]
    reports: list[Any] = [_model(scale, seed).learn(N_ENVS * N_STEPS).last_report for scale in SCALES]
    return Result(
        n_samples=N_ENVS * N_STEPS,
        scales=SCALES,
        max_grad_norm=MAX_GRAD_NORM,
        norms=np.array([each.norm for each in normalized]),
        raw_actors=np.array([each.actor for each in raw]),
        actors=np.array([each.actor for each in normalized]),
        steps=np.array([each.step for each in normalized]),
        left=np.array([each.actor_left for each in normalized]),
        cosines=np.array([each.cosine for each in normalized]),
        coefficients=np.array([clip_coefficient(th.tensor(each.norm), MAX_GRAD_NORM).item() for each in normalized]),
        clip_fractions=np.array([report.clip_fraction for report in reports]),
        environment_steps=6 * N_ENVS * N_STEPS,
    )


def _model(scale: float, seed: int, normalize_advantage: bool = True) -> NotesPPO:
    env = VecRewardScale(LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS), scale)
    settings: dict[str, Any] = dict(max_grad_norm=MAX_GRAD_NORM, normalize_advantage=normalize_advantage)
    return NotesPPO("MlpPolicy", env, n_steps=N_STEPS, **settings, seed=seed, device="cpu")


def _first_step(scale: float, is_normalized: bool, seed: int) -> FirstStep:
    """One step of plain gradient descent at rate 1: what the weights lose is the clipped gradient."""
    model = _model(scale, seed, is_normalized)
    minibatch = gather(model)
    weights = list(model.policy.parameters())
    coefficients = LossCoefficients(ent_coef=0.0, vf_coef=0.5)
    loss = minibatch_loss(evaluate_minibatch(model.policy, minibatch), minibatch, UpdateRule(), coefficients).loss
    gradient = _flat(th.autograd.grad(loss, weights, retain_graph=True))
    phase = Phase(th.optim.SGD(weights, lr=1.0), weights, MAX_GRAD_NORM, n_epochs=1, trains="both")
    descent, before = Descent(phase, policy=model.policy), _flat(weights)
    norm, actor, _ = descent.take(loss, "in the first step").tolist()
    descent.finish()
    step = before - _flat(weights)
    return FirstStep(
        norm,
        actor,
        step.norm().item(),
        actor * (step.norm() / gradient.norm()).item(),
        th.cosine_similarity(step, gradient, dim=0).item(),
    )


def _flat(tensors: Any) -> th.Tensor:
    return th.cat([tensor.detach().double().flatten() for tensor in tensors])


def picture(result: Result, figure: Figure) -> None:
    """The whole gradient and the actor's part, before the clip and after it."""
    for axes, i in zip(figure.subplots(1, 2, sharey=True), range(2), strict=True):
        for row, (whole, actor) in enumerate(((result.norms[i], result.actors[i]), (result.steps[i], result.left[i]))):
            axes.barh(row - 0.19, whole, 0.36, color=PALETTE[1], label="whole gradient" if row == 0 else None)
            axes.barh(row + 0.19, actor, 0.36, color=PALETTE[0], label="actor's part" if row == 0 else None)
        axes.axvline(result.max_grad_norm, color=INK, linestyle="--", linewidth=1, label="max_grad_norm")
        axes.set(xscale="log", xlim=(1e-6, 1e5), title=f"reward × {result.scales[i]:g}", xlabel="length")
        axes.set_yticks([0, 1], ["before\nthe clip", "after\nthe clip"])
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "The step is as long as allowed, at either scale.",
        result.steps,
        result.max_grad_norm,
        1e-4,
        mutant="note 23: the optimiser gets the whole gradient",
    )
    yield Claim(
        "The clip keeps the gradient's direction.",
        result.cosines,
        1.0,
        1e-5,
        mutant="note 23: each tensor clipped by itself",
    )
    yield Claim(
        "It scales by what clip_coefficient says.",
        result.steps / result.norms / result.coefficients,
        1.0,
        1e-3,
        mutant="note 23: the clip coefficient has a square",
    )
    yield Claim(
        "A thousandfold reward makes the gradient about a thousand times as long.",
        result.norms[1] / result.norms[0] / 1000,
        1.0,
        0.1,
        mutant="note 23: the reward is not scaled",
    )
    yield Claim(
        "And the actor's part, unless advantages are normalised.",
        result.raw_actors[1] / result.raw_actors[0] / 1000,
        1.0,
        0.1,
        mutant="note 23: the reward is not scaled",
    )
    yield Claim(
        "With normalised advantages the actor's part stays what it was.",
        result.actors[1] / result.actors[0],
        1.0,
        0.15,
        mutant="note 23: advantages divided by nothing",
    )
    yield Claim(
        "After the clip next to nothing is left of it.",
        [result.left[0] / result.left[1], -result.left[1]],
        [300, -1e-4],
        relation=">",
        mutant="note 23: the optimiser gets the whole gradient",
    )
    yield Claim(
        "PPO's clip sees nothing of that: hardly a ratio leaves its range.",
        result.clip_fractions,
        0.05,
        relation="<",
        mutant="note 23: every ratio is counted",
    )
