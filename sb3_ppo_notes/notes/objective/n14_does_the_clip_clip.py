"""Does the clip clip the change?

No. It takes away the *reward* for going on, no more. A sample whose ratio has left the range on the side it was pushed
to adds nothing to the gradient any longer; whatever else moves the policy goes on moving it: the optimiser's momentum,
and all the other samples.

One sample, one advantage of 1, ε = {clip_range:g}. Under Adam the ratio goes {adam[0]:g}, {adam[1]:.3f}, {adam[2]:.3f},
{adam[3]:.3f}, and from there on its gradient is exactly {late_gradient:g}. It ends at {adam[60]:.3f} all the same: Adam
remembers the last gradients and walks on. Plain gradient descent has no memory and stops where the first step over the
line has put it, at {sgd[400]:.4f}.

In a real run every sample is pulled by its neighbours, because they share the network. On CartPole, three runs,
{n_epochs} epochs over one rollout, the largest ratio of an epoch reaches {peaks[0]:.2f}, {peaks[1]:.2f} and
{peaks[2]:.2f}. That is no accident to be afraid of. The policy as a whole stays near: KL(old ‖ new) never exceeds
{largest_kl:.3f} nats. Whoever wants a bound on the change needs the early stop on KL, or a penalty.

**ε is relative.** It bounds a ratio: with ε = {clip_range:g} a probability of {rare:g} may become {rare_bound:g}
without losing its gradient, one of {half:g} may become {half_bound:g}. And where the old policy was sure enough the
upper limit cannot bind at all: no probability exceeds 1, so the ratio of an action that had {sure:g} cannot exceed
{largest_ratio:.3f}. That begins at 1/(1+ε) = {sure_from:.4f}.

**clip_fraction is not the share without a gradient.** It counts every ratio outside of the range. Of the four ways to
be outside (larger or smaller, advantage positive or negative) {counted} are counted, and {without} have no gradient:
those that went where their advantage sent them. The others keep theirs, so that they can come back.
"""

from collections.abc import Iterator
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.algorithms import NotesPPO
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.diagnostics import clip_fraction
from sb3_ppo_notes.formulas.distributions.categorical import categorical_log_prob, log_probabilities
from sb3_ppo_notes.formulas.objectives import clipped_surrogate, probability_ratio
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.reports import Reports

NOTE = Note(
    name="does-the-clip-clip",
    number=14,
    titles=dict(
        en="Does the clip clip the change?",
        ja="クリップは変化を制限しているのか",
        fr="Le clip limite-t-il vraiment le changement ?",
        ko="클리핑은 정말 변화를 제한하는가?",
    ),
    answers=("3.3", "A9", "A10"),
    formulas=(clipped_surrogate, clip_fraction, probability_ratio),
    tests=("tests/formulas/test_objectives.py::test_gradient_table_of_the_clip",),
)
CLIP_RANGE = 0.2
RARE, HALF, SURE = 0.01, 0.5, 0.9
N_ENVS, N_STEPS, N_EPOCHS, N_RUNS = 8, 128, 20, 3


class Result(NamedTuple):
    clip_range: float
    adam: np.ndarray  # [61], ratio step by step
    adam_gradients: np.ndarray  # [61], largest entry
    late_gradient: float  # of all steps once the ratio has left
    sgd: np.ndarray  # [401]
    n_epochs: int
    epochs: np.ndarray  # [runs, epochs], largest ratio
    peaks: np.ndarray  # [runs]
    largest_kl: float
    rare: float
    rare_bound: float
    half: float
    half_bound: float
    sure: float
    largest_ratio: float
    sure_from: float
    counted: int
    without: int
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """One sample under two optimisers, three runs on CartPole, and four ways to be outside."""
    adam, gradients = _walk(th.optim.Adam, 60)
    sgd, _ = _walk(th.optim.SGD, 400)
    runs = [_run(N_RUNS * seed + run) for run in range(N_RUNS)]
    epochs = np.array([[report.ratio_max for report in reports] for reports in runs])

    ratios = th.tensor([0.5, 0.5, 1.5, 1.5], requires_grad=True)
    objective = clipped_surrogate(ratios, th.tensor([1.0, -1.0, 1.0, -1.0]), CLIP_RANGE)
    (slopes,) = th.autograd.grad(objective.sum(), ratios)
    return Result(
        clip_range=CLIP_RANGE,
        adam=adam,
        adam_gradients=gradients,
        late_gradient=float(gradients[3:].max()),
        sgd=sgd,
        n_epochs=N_EPOCHS,
        epochs=epochs,
        peaks=epochs.max(axis=1),
        largest_kl=max(float(report.kl[0].k3) for reports in runs for report in reports),
        rare=RARE,
        rare_bound=RARE * (1 + CLIP_RANGE),
        half=HALF,
        half_bound=HALF * (1 + CLIP_RANGE),
        sure=SURE,
        largest_ratio=probability_ratio(th.zeros(1), th.tensor([SURE]).log()).item(),
        sure_from=1 / (1 + CLIP_RANGE),
        counted=int(clip_fraction(ratios.detach(), CLIP_RANGE).sum()),
        without=int((slopes == 0).sum()),
        environment_steps=N_RUNS * N_ENVS * N_STEPS,
    )


def _walk(optimizer_class: type[th.optim.Optimizer], n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The ratio of an action with advantage 1 that had probability ½, and its gradient in the logits."""
    logits = th.zeros(1, 2, dtype=th.float64, requires_grad=True)
    optimizer = optimizer_class([logits], lr=0.1)  # type: ignore[call-arg]
    action, advantage = th.tensor([0]), th.ones(1, dtype=th.float64)
    old, ratios, gradients = categorical_log_prob(log_probabilities(logits.detach()), action), [], []
    for _ in range(n_steps + 1):
        ratio = probability_ratio(categorical_log_prob(log_probabilities(logits), action), old)
        (logits.grad,) = th.autograd.grad(-clipped_surrogate(ratio, advantage, CLIP_RANGE), logits)
        ratios.append(ratio.item())
        gradients.append(logits.grad.abs().max().item())
        optimizer.step()
    return np.array(ratios), np.array(gradients)


def _run(seed: int) -> list[UpdateReport]:
    """The epochs of one update."""
    env = LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS)
    model = NotesPPO(
        "MlpPolicy", env, n_steps=N_STEPS, n_epochs=N_EPOCHS, clip_range=CLIP_RANGE, seed=seed, device="cpu"
    )
    watcher = Reports("epoch")
    model.learn(N_ENVS * N_STEPS, callback=watcher)
    return watcher.reports


def picture(result: Result, figure: Figure) -> None:
    """The ratio of one sample under two optimisers, and the largest ratio of three runs."""
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.axhspan(1 - result.clip_range, 1 + result.clip_range, color=PALETTE[2], alpha=0.15, linewidth=0)
    is_pushed = result.adam_gradients > 0
    steps = np.arange(len(result.adam))
    left.plot(steps, result.adam, color=PALETTE[0], label="Adam")
    left.plot(steps[~is_pushed], result.adam[~is_pushed], ".", color=PALETTE[5], label="its gradient is 0")
    left.plot(result.sgd[: len(steps)], color=PALETTE[1], linestyle="--", label="no momentum")
    left.set(xlabel="steps", ylabel="ratio ρ", title="one sample, Â = 1", xlim=(0, 60), ylim=(0.95, 1.85))
    left.legend(loc="center right")
    for number, epochs in enumerate(result.epochs):
        right.plot(range(1, 1 + len(epochs)), epochs, color=PALETTE[(0, 3, 4)[number]], label=f"run {number + 1}")
    right.set(xlabel="epochs", ylabel="largest ratio ρ", title="CartPole", ylim=(0.95, 1.85))
    right.legend(loc="upper right")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Under Adam the ratio leaves the range within three steps.",
        result.adam[:3],
        [1, 1.0997, 1.1973],
        1e-3,
        mutant="ratio upside down",
    )
    yield Claim(
        "Once outside, the gradient of the sample is exactly 0.",
        result.late_gradient,
        0.0,
        mutant="clip deleted",
    )
    yield Claim(
        "Momentum carries the ratio far beyond the range.",
        result.adam[60],
        1.775,
        0.01,
        mutant="clip deleted",
    )
    yield Claim(
        "Without momentum it stops after the first step over the line.",
        result.sgd[400],
        1.2415,
        1e-3,
        mutant="clip deleted",
    )
    yield Claim(
        "In every run on CartPole the largest ratio leaves the range.",
        result.peaks,
        1 + result.clip_range,
        relation=">",
        mutant="the largest ratio is a mean",
    )
    yield Claim(
        "The policy as a whole stays near the old one.",
        result.largest_kl,
        0.02,
        relation="<",
        mutant="clip deleted",
    )
    yield Claim(
        "The ratio of an action that was sure is at most 1 over its probability, and never reaches 1+ε.",
        result.largest_ratio,
        1 / 0.9,
        1e-6,
        mutant="ratio upside down",
    )
    yield Claim(
        "clip_fraction counts all four ways to be outside.",
        result.counted,
        4,
        mutant="clip fraction counts one side",
    )
    yield Claim(
        "Two of the four have no gradient.",
        result.without,
        2,
        mutant="minimum dropped, clip alone",
    )
