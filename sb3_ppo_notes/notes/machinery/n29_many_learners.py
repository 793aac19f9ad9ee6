"""How do many learners share one gradient?

By the mean. Each learner takes a part of the samples, computes the gradient of its part's mean loss, and the gradients
are averaged before anybody clips or steps; so every learner takes the same step and all stay alike. The loss is a mean
over samples, so the mean of the parts' gradients is the gradient of the whole, *if* two conditions hold. One rollout of
{n_samples} samples, shared between two learners; so far is the actor's gradient from that of the whole:

| | relative error |
|---|---|
| equal halves, advantages as they are | {halves_raw:.0e} |
| equal halves, normalised together beforehand | {halves_together:.0e} |
| equal halves, each normalised by itself | **{halves_apart:.1e}** |
| {parts[0]} and {parts[1]} samples, normalised together, plain mean | **{unequal_plain:.2f}** |
| the same, weighted by their number | {unequal_weighted:.0e} |
| equal halves, the *sum* in place of the mean | {halves_sum:.2f} |

First, the parts must be equally large, or be weighted. Second, what is computed *over* samples must be computed over
all of them. A sum instead of the mean is a gradient as many times as long as there are learners. With Adam hardly
anybody would notice; with the norm clip and with plain descent it is another learning rate.

So much for the arithmetic. What is the block for that runs "if distributed"? {two} Line by line:

* *Differentiate.* Each process has environments of its own, and takes the gradient of its own rows. Nobody waits yet.
* *Weight.* What it sends is multiplied by its share of the rows. One that has run out of rows sends zeros, but it does
  send them: the others wait for it.
* *Exchange*, once a step, one vector of {n_numbers:,} numbers: the gradient of {n_weights:,} weights; the losses; which
  weights have a gradient at all; the log-ratio of each row, from which the KL follows. A number that is not finite
  needs no message of its own: the sum is not finite either, for all.
* *Sum*, in every process, in the order of the parts. (a + b) + c is not a + (b + c) in floating point: three such
  gradients added forwards and backwards differ in {order:.0%} of their numbers. In one order all processes have the
  same bits, and their weights, which nobody sends, stay equal for ever.
* *Decide*: is the KL above its limit, is everything finite? All decide on the sum, so all decide alike.
* *Clip*, only now: the limit is for the norm of the whole, {norm:.1f} in the first step, where the parts have
  {norms[0]:.1f} and {norms[1]:.1f}. Clipped before it was shared the gradient would be {clipped_apart:.1%} off.
* *Step.* Each its own optimiser, all the same step.

A few things travel less often: the advantages once an epoch, because a shuffle has decided which of them meet in a
minibatch; now and then during a rollout, whether somebody wants to stop; after it the statistics of normalisers and
the episodes that have ended. How torchrun starts all this is in `docs/scale.md`.

What if each decided by itself? Here an update ends above a KL of {limit:g}. After {before} steps of update {update} one
process has a KL of {above:.4f} in its own rows and the other {below:.4f}. The first would stop; the other would go on
to the next exchange, and wait there for a vector that nobody sends. The rows of both have {together:.4f}, whoever asks;
so both stop, or both go on.

And if each normalised its advantages by itself? One that is a deviation above the mean of all counts as 1; alone the
first process would take it for {alone[0]:.2f} and the other for {alone[1]:.2f}. Nobody hangs and nobody complains; the
gradient is a little wrong, always.

The *scaler* of mixed precision has nothing to do with this, though it stands in the same lines. float16 knows no
positive number below {smallest:.1e}: a gradient of {small:g} is {unscaled:g} there. Multiplied by {scale:,.0f} before
the backward pass and divided by it in float32 afterwards it is {rescaled:.3e}. If a scaled gradient overflows, that
step is left out and the scale is halved.

Would it run on another kind of device? On any on which PyTorch can make a tensor and read it. The one that is asked for
here and that there is not is refused by name: `{refusal}`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.engine.descent import clip_coefficient
from sb3_ppo_notes.engine.reduced import ReducedStepper
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.divergences import kl_k3
from sb3_ppo_notes.formulas.objectives import normalize_advantages
from sb3_ppo_notes.notes import two_processes as training
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.rollout import gather
from sb3_ppo_notes.policies.actor_critic import evaluate_minibatch
from sb3_ppo_notes.policies.parameters import split_parameters
from sb3_ppo_notes.processes import Alone
from sb3_ppo_notes.processes.shards import sum_in_order
from sb3_ppo_notes.rollouts.minibatches import Minibatch
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.loss import LossCoefficients, minibatch_loss

NOTE = Note(
    name="many-learners",
    number=29,
    titles=dict(
        en="How do many learners share one gradient?",
        ja="分散学習では勾配をどう合わせるのか",
        fr="Comment plusieurs apprenants partagent-ils un gradient ?",
        ko="분산 학습에서 그래디언트는 어떻게 합치는가?",
    ),
    answers=("1.10", "1.13", "A22"),
    formulas=(minibatch_loss, normalize_advantages, ReducedStepper.step, sum_in_order),
    tests=(
        "tests/processes/test_equality.py::test_two_processes_learn_what_one_learns_from_both_their_rollouts",
        "tests/processes/test_equality.py::test_four_shards_end_with_the_same_bits_on_any_number_of_processes",
        "tests/algorithms/test_bad_input.py::test_a_device_that_pytorch_was_not_built_for_is_refused_and_those_at_hand_are_named",
    ),
)
N_ENVS, N_STEPS = 4, 64
PARTS, SMALL = (160, 96), 1e-8
COEFFICIENTS = LossCoefficients(ent_coef=0.01, vf_coef=0.5)


class Result(NamedTuple):
    n_samples: int
    parts: tuple[int, int]
    halves_raw: float
    halves_together: float
    halves_apart: float
    halves_sum: float
    unequal_plain: float
    unequal_weighted: float
    small: float
    smallest: float
    unscaled: float
    scale: float
    rescaled: float
    refusal: str
    two: str
    differences: list[float]  # largest, of the weights of each of the two processes from those of one
    lengths_of_two: list[list[int]]  # of the updates of each of the two, in steps
    n_numbers: int
    n_weights: int
    order: float
    norm: float
    norms: list[float]
    clipped_apart: float
    limit: float
    update: int
    before: int
    above: float
    below: float
    together: float
    lengths: list[int]  # the same of one process with both parts
    due: list[int]  # by the KL of all rows
    kls: np.ndarray  # [2, n], of an update
    alone: list[float]
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """The gradient of one rollout, whole and put together from parts; a small gradient in float16; a device. One
    training by one process, and by two.
    """
    one = training.train(Alone(), seed)
    two, why_none = training.train_in_two_processes(seed)
    small, scale = th.tensor(SMALL), th.amp.GradScaler("cpu").get_scale()
    return Result(
        n_samples=N_ENVS * N_STEPS,
        parts=PARTS,
        **_errors(seed),
        small=SMALL,
        smallest=2.0**-24,
        unscaled=small.half().item(),
        scale=scale,
        rescaled=((small * scale).half().float() / scale).item(),
        refusal=_refusal(),
        two=_sentence_about(two, why_none),
        differences=[float(np.abs(each.weights - one.weights).max()) for each in two],
        lengths_of_two=[[len(steps) for steps in each.updates] for each in two],
        n_weights=len(one.weights),
        **_exchanged(one),
        **_decisions(one),
        alone=_normalized_alone(one.advantages),
        environment_steps=N_ENVS * N_STEPS + training.N_UPDATES * training.N_SAMPLES * (2 if two else 1),
    )


def _errors(seed: int) -> dict[str, Any]:
    """Of the gradient of one rollout, put together from parts in several ways."""
    env = LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS)
    model = NotesPPO("MlpPolicy", env, n_steps=N_STEPS, normalize_advantage=False, seed=seed, device="cpu")
    samples = gather(model)
    normalized = samples._replace(advantages=normalize_advantages(samples.advantages))
    raw, together = _Learners(model, samples, _as_it_is), _Learners(model, normalized, _as_it_is)
    apart = _Learners(model, samples, normalize_advantages)
    half, half_of = (N_ENVS * N_STEPS // 2,) * 2, (0.5, 0.5)
    return dict(
        halves_raw=raw.error(half, half_of),
        halves_together=together.error(half, half_of),
        halves_apart=apart.error(half, half_of),
        halves_sum=together.error(half, (1.0, 1.0)),
        unequal_plain=together.error(PARTS, half_of),
        unequal_weighted=together.error(PARTS, tuple(part / sum(PARTS) for part in PARTS)),
    )


class _Learners:
    """The gradient of a rollout in the actor's weights, and what comes out when learners share it."""

    def __init__(self, model: Any, samples: Minibatch, normalize: Callable[[th.Tensor], th.Tensor]) -> None:
        self.policy, self.samples, self.normalize = model.policy, samples, normalize
        self.actor, _ = split_parameters(model.policy)
        self.whole = self.gradient(0, len(samples.advantages))

    def gradient(self, begin: int, end: int) -> th.Tensor:
        """Of the mean loss of some samples, in one vector."""
        columns: dict[str, Any] = {name: c[begin:end] for name, c in self.samples._asdict().items() if c is not None}
        part = Minibatch(**columns)._replace(advantages=self.normalize(columns["advantages"]))
        loss = minibatch_loss(evaluate_minibatch(self.policy, part), part, UpdateRule(), COEFFICIENTS).loss
        return th.cat([each.flatten() for each in th.autograd.grad(loss, self.actor)])

    def error(self, sizes: tuple[int, ...], weights: tuple[float, ...]) -> float:
        """How far the weighted sum of two learners' gradients is from the whole, as a share of its length."""
        gradients = [self.gradient(0, sizes[0]), self.gradient(sizes[0], sum(sizes))]
        shared = weights[0] * gradients[0] + weights[1] * gradients[1]
        return float((shared - self.whole).norm() / self.whole.norm())


def _as_it_is(advantages: th.Tensor) -> th.Tensor:
    return advantages


def _sentence_about(two: list[training.Trained], why_none: str) -> str:
    if not two:
        return f"(Here no two processes could be started, so one does the work of both: {why_none}.)"
    return (
        f"Two processes have just trained one model on this machine, with {sum(map(len, two[0].updates))} exchanges of "
        "a gradient, and both have the weights, to the last bit, of one process that does the work of both."
    )


def _exchanged(one: training.Trained) -> dict[str, Any]:
    """Of the first steps' vectors: their length, what their order in a sum matters, and what clipping each would."""
    steps = th.from_numpy(one.updates[0])
    gradients = steps[:, :, : one.n_gradient]
    three = gradients[:2].flatten(0, 1)[:3]
    differ = sum_in_order(three) != sum_in_order(three.flip(0))
    whole, each = sum_in_order(gradients[0]), training.N_PARTS * gradients[0]
    apart = sum_in_order(th.stack([_clipped(gradient) / training.N_PARTS for gradient in each]))
    return dict(
        n_numbers=steps.shape[-1],
        order=float(differ.sum() / (three != 0).any(0).sum()),
        norm=float(whole.norm()),
        norms=each.norm(dim=1).tolist(),
        clipped_apart=float((apart - _clipped(whole)).norm() / _clipped(whole).norm()),
    )


def _clipped(gradient: th.Tensor) -> th.Tensor:
    return gradient * clip_coefficient(gradient.norm(), training.MAX_GRAD_NORM)


def _decisions(one: training.Trained) -> dict[str, Any]:
    """The KL of each part's own rows and of both parts', where the parts first disagree on the limit."""
    limit, n_rows = 1.5 * training.TARGET_KL, training.BATCH_SIZE // training.N_PARTS
    kls = [kl_k3(th.from_numpy(steps[:, :, -n_rows:])).mean(-1).numpy() for steps in one.updates]  # [n, 2] each
    places = [(u, s) for u, kl in enumerate(kls) for s in np.flatnonzero((kl > limit).sum(1) == 1)]
    update, step = places[0] if places else (0, 0)
    joint = [kl.mean(1) for kl in kls]
    return dict(
        limit=limit,
        update=update + 1,
        before=int(step),
        above=float(kls[update][step].max()),
        below=float(kls[update][step].min()),
        together=float(joint[update][step]),
        lengths=[len(kl) for kl in joint],
        due=[next((step for step, each in enumerate(kl, 1) if each > limit), training.MOST_STEPS) for kl in joint],
        kls=kls[update].T,
    )


def _normalized_alone(advantages: np.ndarray) -> list[float]:
    """What each part would make of an advantage one deviation above the mean of all."""
    example = advantages.mean() + advantages.std(ddof=1)
    return [float((example - own.mean()) / own.std(ddof=1)) for own in advantages]


def _refusal() -> str:
    try:
        NotesPPO("MlpPolicy", "CartPole-v1", device="fpga")
    except ValueError as error:
        return str(error).partition(" (")[0]
    return ""


def picture(result: Result, figure: Figure) -> None:
    """How far off each way is, and on what two processes would not agree."""
    figure.set_size_inches(5.6, 5.0)
    axes, lower = figure.subplots(2, 1, height_ratios=(4, 3))
    bars = {
        "equal halves, raw advantages": (result.halves_raw, PALETTE[2]),
        "equal halves, normalised together": (result.halves_together, PALETTE[2]),
        "equal halves, normalised apart": (result.halves_apart, PALETTE[1]),
        "equal halves, clipped apart": (result.clipped_apart, PALETTE[1]),
        "unequal parts, weighted": (result.unequal_weighted, PALETTE[2]),
        "unequal parts, plain mean": (result.unequal_plain, PALETTE[5]),
        "equal halves, the sum": (result.halves_sum, PALETTE[5]),
    }
    axes.barh(list(bars), [error for error, _ in bars.values()], color=[color for _, color in bars.values()])
    axes.set(xscale="log", xlabel="relative error of the gradient", xlim=(1e-8, 3))
    axes.invert_yaxis()
    for rank, kl in enumerate(1e3 * result.kls):
        lower.plot(kl, color=PALETTE[rank], marker=".", label=f"rows of process {rank}")
    lower.plot(1e3 * result.kls.mean(0), color=PALETTE[2], linestyle="--", label="all rows")
    lower.axhline(1e3 * result.limit, color=PALETTE[5], linestyle=":", label="limit")
    lower.set(xlabel=f"step of update {result.update}", ylabel="KL, thousandths", ylim=(0, None))
    lower.legend()


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "The mean of two halves' gradients is the whole's.",
        [result.halves_raw, result.halves_together],
        0.0,
        1e-5,
        mutant="note 29: the loss is a sum",
    )
    yield Claim(
        "It is not, where each normalises its own advantages.",
        result.halves_apart,
        1e-4,
        relation=">",
        mutant="note 29: advantages are not normalised",
    )
    yield Claim(
        "Of unequal parts the plain mean is wrong.",
        result.unequal_plain,
        0.01,
        relation=">",
        mutant="note 29: the parts are equal",
    )
    yield Claim(
        "Weighted by their numbers of samples they give the whole.",
        result.unequal_weighted,
        0.0,
        1e-5,
        mutant="note 29: the loss is a sum",
    )
    yield Claim(
        "The sum of two is twice as long.",
        result.halves_sum,
        1.0,
        1e-4,
        mutant="note 29: the loss is a sum",
    )
    if result.differences:
        yield Claim(
            "Two processes end with the weights of one that does the work of both, to the bit.",
            result.differences,
            [0.0, 0.0],
            mutant="note 29: all parts draw the same numbers",
        )
        yield Claim(
            "One process and two end each update after the same step.",
            result.lengths_of_two,
            [result.lengths] * training.N_PARTS,
            mutant="note 29: each process stops by its own KL",
        )
    yield Claim(
        "An update ends where the KL of all rows is above the limit, neither before nor after.",
        result.lengths,
        result.due,
        mutant="note 29: the first process decides",
    )
    yield Claim(
        "By their own rows one process would stop and the other would not.",
        [result.above - result.limit, result.limit - result.below],
        0.0,
        relation=">",
        mutant="note 29: nobody is near the limit",
    )
    yield Claim(
        "Gradients that are clipped before they are shared are another step.",
        result.clipped_apart,
        1e-4,
        relation=">",
        mutant="note 29: nothing is clipped",
    )
    yield Claim(
        "A sum in another order has other bits.",
        result.order,
        0.0,
        relation=">",
        mutant="note 29: sums are exact",
    )
    yield Claim(
        "One advantage is two numbers where each process knows only its own.",
        abs(result.alone[0] - result.alone[1]),
        1e-3,
        relation=">",
        mutant="note 29: each process knows the mean and deviation of all",
    )
    yield Claim(
        "A small gradient is 0 in float16, and survives if it is scaled.",
        [result.unscaled, result.rescaled / result.small],
        [0, 1],
        1e-3,
        mutant="note 29: a gradient that is not so small",
    )
    yield Claim(
        "A device that there is not is refused by name.",
        result.refusal.startswith("device must be") and "fpga" in result.refusal,
        mutant="note 29: nobody looks at the device",
    )
