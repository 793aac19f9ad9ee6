"""When is the old policy replaced?

Once a rollout. "Old" is the policy that gathered the samples. It stays the same through all epochs and minibatches of
the update, and the next rollout brings the next one.

That is why log_prob is *stored* when an action is taken, and computed again in every minibatch. The stored one belongs
to the policy as it was then and has no gradient; the new one belongs to the policy as it is now, and the gradient goes
through it. Their difference is the logarithm of the ratio. (Code that stores the probability itself, as minimalRL's
`prob_a`, takes its logarithm later.) In the first minibatch of an update nothing has moved yet, and every ratio is 1
but for rounding; in the second the largest error is {second_error:.4f}. A first ratio that is not 1
(`first_ratio_error` in the report of an update) says that acting and learning do not compute the same thing.

If the old policy moved along, there would be no trust region: each epoch would be allowed to go as far as the clip lets
it, from wherever the last one had arrived. {n_arms} arms, {n_samples} noisy samples, {n_epochs} epochs on them, means
over {n_runs} repetitions:

| the old policy is | KL to the policy that gathered | largest clip_fraction | true return |
|---|---|---|---|
| the one that gathered | {kl[0]:.3f} | {clipped[0]:.2f} | {returns[0]:.3f} |
| replaced before each epoch | {kl[1]:.1f} | {clipped[1]:.2f} | {returns[1]:.3f} |
| replaced every {every} epochs | {kl[2]:.1f} | {clipped[2]:.2f} | {returns[2]:.3f} |
| the one that gathered, with a stop at KL {stop:g} | {kl[3]:.3f} | {clipped[3]:.2f} | {returns[3]:.3f} |

Replaced before each epoch the clip never acts: the ratio is 1 whenever it is looked at, and what is left is the plain
policy gradient, taken {n_epochs} times on the same samples.

Does that hurt? Not here: the return in this bandit, which began at {start:.3f}, is *better* for going further, because
there is little to lose in it. What is lost is the promise. The policy has gone to where its samples no longer say
anything about it, and what happens then is luck.
"""

from collections.abc import Iterator
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.algorithms import NotesPPO
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.diagnostics import clip_fraction
from sb3_ppo_notes.formulas.distributions.categorical import (
    categorical_kl,
    categorical_log_prob,
    categorical_sample,
    log_probabilities,
    probabilities,
)
from sb3_ppo_notes.formulas.objectives import clipped_surrogate, probability_ratio
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.reports import Reports

NOTE = Note(
    name="when-is-old-old",
    number=15,
    titles=dict(
        en="When is the old policy replaced?",
        ja="「古い方策」はいつ更新されるのか",
        fr="Quand l'ancienne politique est-elle remplacée ?",
        ko="이전 정책은 언제 바뀌는가?",
    ),
    answers=("A5", "A6"),
    formulas=(probability_ratio, clipped_surrogate, categorical_kl),
    tests=("tests/policies/test_recurrent.py::test_the_first_ratio_is_one_however_short_the_episodes",),
)
N_ARMS, N_SAMPLES, N_RUNS, N_EPOCHS, EVERY = 10, 32, 400, 300, 10
MEANS = th.linspace(0, 1, N_ARMS, dtype=th.float64)
CLIP_RANGE, STOP = 0.2, 0.015
N_ENVS, N_STEPS = 8, 64


class Result(NamedTuple):
    first_error: float  # largest |ρ − 1| of the first minibatch
    second_error: float  # and of the second
    n_arms: int
    n_samples: int
    n_epochs: int
    n_runs: int
    every: int
    stop: float
    start: float  # return of the policy that gathered
    curves: np.ndarray  # [4, epochs + 1], KL to the policy that gathered
    kl: np.ndarray  # [4], at the end
    clipped: np.ndarray  # [4], largest clip fraction of an epoch
    returns: np.ndarray  # [4], at the end
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """The first two minibatches of an update, and a bandit whose old policy is replaced or not."""
    env = LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS)
    model = NotesPPO("MlpPolicy", env, learning_rate=3e-4, n_steps=N_STEPS, n_epochs=1, seed=seed, device="cpu")
    watcher = Reports("minibatch")
    model.learn(N_ENVS * N_STEPS, callback=watcher)
    errors = [max(report.ratio_max - 1, 1 - report.ratio_min) for report in watcher.reports]

    never = N_EPOCHS + 1
    runs = [_climb(every, stop, seed) for every, stop in ((never, np.inf), (1, np.inf), (EVERY, np.inf), (never, STOP))]
    curves, clipped, returns = zip(*runs, strict=True)
    return Result(
        first_error=errors[0],
        second_error=errors[1],
        n_arms=N_ARMS,
        n_samples=N_SAMPLES,
        n_epochs=N_EPOCHS,
        n_runs=N_RUNS,
        every=EVERY,
        stop=STOP,
        start=float(probabilities(3 * MEANS) @ MEANS),
        curves=np.array(curves),
        kl=np.array(curves)[:, -1],
        clipped=np.array(clipped),
        returns=np.array(returns),
        environment_steps=model.num_timesteps,
    )


def _climb(every: int, stop: float, seed: int) -> tuple[list[float], float, float]:
    """KL to the policy that gathered before each epoch, largest clip fraction and last return; means over all runs."""
    th.manual_seed(seed)
    gathering = log_probabilities((3 * MEANS).expand(N_RUNS, N_ARMS))
    actions = categorical_sample(gathering.repeat_interleave(N_SAMPLES, 0))
    rewards = (MEANS[actions] + th.randn(len(actions), dtype=th.float64)).view(N_RUNS, N_SAMPLES)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten()
    logits = (3 * MEANS).repeat(N_RUNS, 1).requires_grad_()
    optimizer = th.optim.Adam([logits], lr=0.05)
    old, curve, clipped = th.empty(0), [], 0.0
    for epoch in range(N_EPOCHS + 1):
        log_probs = log_probabilities(logits)
        taken = categorical_log_prob(log_probs.repeat_interleave(N_SAMPLES, 0), actions)
        if epoch % every == 0:
            old = taken.detach()
        kl, ratio = categorical_kl(gathering, log_probs).detach(), probability_ratio(taken, old)
        curve.append(kl.mean().item())
        clipped = max(clipped, clip_fraction(ratio.detach(), CLIP_RANGE).mean().item())
        objectives = clipped_surrogate(ratio, advantages, CLIP_RANGE).view(N_RUNS, N_SAMPLES).mean(1)
        (logits.grad,) = th.autograd.grad(-objectives.sum(), logits)
        before = logits.detach().clone()
        if epoch < N_EPOCHS:
            optimizer.step()
        # Each repetition is a training of its own: one that has gone too far takes no step.
        logits.data[kl > stop] = before[kl > stop]
    return curve, clipped, (probabilities(log_probs) @ MEANS).mean().item()


def picture(result: Result, figure: Figure) -> None:
    """How far the policy goes from the one that gathered."""
    axes = figure.subplots()
    labels = (
        "old = the one that gathered",
        "replaced before each epoch",
        f"replaced every {result.every} epochs",
        f"the one that gathered, stop at {result.stop:g}",
    )
    for curve, label, color, style in zip(result.curves, labels, PALETTE, ("-", "-", "-", "--"), strict=False):
        axes.plot(np.arange(1, len(curve)), curve[1:], color=color, linestyle=style, label=label)
    axes.set(xlabel="epochs", ylabel="KL to the policy that gathered", yscale="log", xscale="log")
    axes.legend(loc="upper left")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "In the first minibatch of an update every ratio is 1.",
        result.first_error,
        0.0,
        1e-5,
        mutant="old log-probabilities are not those that were stored",
    )
    yield Claim(
        "In the second minibatch they are not.",
        result.second_error,
        1e-4,
        relation=">",
        mutant="note 15: a learning rate of 0",
    )
    yield Claim(
        "With the policy that gathered the KL stays small.",
        result.kl[0],
        0.1,
        relation="<",
        mutant="clip deleted",
    )
    yield Claim(
        "Replaced before each epoch it grows a hundredfold, and replaced now and then too.",
        result.kl[1:3],
        20 * result.kl[0],
        relation=">",
        mutant="note 15: the old policy is never replaced",
    )
    yield Claim(
        "A stop on KL keeps it where it was asked to.",
        result.kl[3],
        1.5 * result.stop,
        relation="<",
        mutant="note 15: nothing stops",
    )
    yield Claim(
        "Replaced before each epoch the clip never acts; with the policy that gathered it does.",
        (result.clipped[1] == 0, result.clipped[0] > 0.05),
        (True, True),
        mutant="note 15: the old policy is never replaced",
    )
