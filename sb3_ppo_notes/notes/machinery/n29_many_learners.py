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
all of them: advantages that each learner normalises with its own mean and deviation are other advantages. The error is
small, and never goes away. The same holds of the KL that stops an update or moves the learning rate: it has to be
averaged too, or one learner stops and the others wait for it.

A sum instead of the mean is a gradient as many times as long as there are learners. With Adam hardly anybody would
notice; with the norm clip and with plain descent it is another learning rate.

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
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.objectives import normalize_advantages
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.rollout import gather
from sb3_ppo_notes.policies.actor_critic import evaluate_minibatch
from sb3_ppo_notes.policies.parameters import split_parameters
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
    formulas=(minibatch_loss, normalize_advantages),
    tests=(
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
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """The gradient of one rollout, whole and put together from parts; a small gradient in float16; a device."""
    env = LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS)
    model = NotesPPO("MlpPolicy", env, n_steps=N_STEPS, normalize_advantage=False, seed=seed, device="cpu")
    samples = gather(model)
    normalized = samples._replace(advantages=normalize_advantages(samples.advantages))
    raw, together = _Learners(model, samples, _as_it_is), _Learners(model, normalized, _as_it_is)
    apart = _Learners(model, samples, normalize_advantages)
    half, half_of = (N_ENVS * N_STEPS // 2,) * 2, (0.5, 0.5)
    shares = tuple(part / sum(PARTS) for part in PARTS)
    scale = th.amp.GradScaler("cpu").get_scale()
    small = th.tensor(SMALL)
    return Result(
        n_samples=N_ENVS * N_STEPS,
        parts=PARTS,
        halves_raw=raw.error(half, half_of),
        halves_together=together.error(half, half_of),
        halves_apart=apart.error(half, half_of),
        halves_sum=together.error(half, (1.0, 1.0)),
        unequal_plain=together.error(PARTS, half_of),
        unequal_weighted=together.error(PARTS, shares),
        small=SMALL,
        smallest=2.0**-24,
        unscaled=small.half().item(),
        scale=scale,
        rescaled=((small * scale).half().float() / scale).item(),
        refusal=_refusal(),
        environment_steps=N_ENVS * N_STEPS,
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


def _refusal() -> str:
    try:
        NotesPPO("MlpPolicy", "CartPole-v1", device="fpga")
    except ValueError as error:
        return str(error).partition(" (")[0]
    return ""


def picture(result: Result, figure: Figure) -> None:
    """How far off each way is."""
    axes = figure.subplots()
    bars = {
        "equal halves, raw advantages": (result.halves_raw, PALETTE[2]),
        "equal halves, normalised together": (result.halves_together, PALETTE[2]),
        "equal halves, normalised apart": (result.halves_apart, PALETTE[1]),
        "unequal parts, weighted": (result.unequal_weighted, PALETTE[2]),
        "unequal parts, plain mean": (result.unequal_plain, PALETTE[5]),
        "equal halves, the sum": (result.halves_sum, PALETTE[5]),
    }
    axes.barh(list(bars), [error for error, _ in bars.values()], color=[color for _, color in bars.values()])
    axes.set(xscale="log", xlabel="relative error of the gradient", xlim=(1e-8, 3))
    axes.invert_yaxis()


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
