"""Which KL is it?

KL(old ‖ new): the divergence of the policy that is being trained from the one that gathered the rollout, in this order,
because the samples were drawn from the old one. The order matters: to widen a Gaussian to twice its σ costs
{widened:.3f} nats, to narrow it again {narrowed:.3f}.

Three estimators make it from the samples' log-ratios, log ρ = log π − log π_old. For two normal distributions whose
means lie {shifts[4]:g} σ apart the true value is {exact[4]:g} nats; over {n_samples:,} samples:

| | mean | standard deviation of a sample | samples below 0 |
|---|---|---|---|
| k1 | {means[0][4]:.3f} | {deviations[0][4]:.2f} | {negative_shares[4]:.0%} |
| k2 | {means[1][4]:.3f} | {deviations[1][4]:.2f} | none |
| k3 | {means[2][4]:.3f} | {deviations[2][4]:.2f} | none |

* **k1**, what Spinning Up logs, is unbiased, but {negative_shares[0]:.0%} of its samples are negative where the
  policies are close ({shifts[0]:g} σ), and their deviation is {spread_of_k1[0]:.0f} times the value itself. The mean of
  a batch can then well be negative. A *divergence* cannot; a negative "KL" in a log is k1's noise.
* **k2** is never negative and has little variance, but it is biased: {excess_of_k2[4]:.3f} too large here. The excess
  is of the fourth order in the shift μ where the value is of the second, so that small steps do not notice.
* **k3**, what SB3 logs as `approx_kl` and stops on, is unbiased *and* never negative. Where the policies are close its
  deviation is {spread_of_k3[0]:.1f} times the value. Far apart it has heavy tails: it contains ρ itself.
* The **exact** divergence needs no samples but the parameters of both distributions in every state: one more pass
  through the network before the update, to keep the old ones.

Was PPO made because a KL is expensive? No. Over an update of {n_epochs} epochs the network reads the rollout
{passes[0]:g} times with a clip, {passes[1]:g} times with a stop on the exact KL, and {passes[2]:g} times with a penalty
whose coefficient follows the KL, once more for that. What is expensive in TRPO is not the divergence but its *second
derivative*, with which every step is preconditioned. PPO does with first derivatives.

What `approx_kl` should be, and what to do when it is not, is in the table of symptoms of `DiagnosticsCallback`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.formulas.distributions.categorical import categorical_kl
from sb3_ppo_notes.formulas.distributions.gaussian import gaussian_kl, gaussian_log_prob, gaussian_sample
from sb3_ppo_notes.formulas.divergences import kl_k1, kl_k2, kl_k3
from sb3_ppo_notes.notes.note import Claim, Frame, Note
from sb3_ppo_notes.rules import EarlyStop, KLPenalty, UpdateRule

NOTE = Note(
    name="which-kl",
    number=17,
    titles=dict(
        en="Which KL is it?",
        ja="どのKLを測っているのか",
        fr="De quelle divergence KL s'agit-il ?",
        ko="어떤 KL을 재는가?",
    ),
    answers=("1.7", "4.3", "A11"),
    formulas=(kl_k1, kl_k2, kl_k3, gaussian_kl, categorical_kl),
    tests=("tests/recipes/test_rules.py::test_scopes_of_the_early_stop",),
    slider="μ, the distance of the means",
)
SHIFTS = (0.1, 0.25, 0.5, 0.75, 1.0)
ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
N_SAMPLES, N_EPOCHS, N_STEPS = 100_000, 3, 64
RULES = (
    UpdateRule(),
    UpdateRule(kl_controls=(EarlyStop(math.inf, estimator="exact"),)),
    UpdateRule(policy_objective=KLPenalty()),
)


class Result(NamedTuple):
    shifts: np.ndarray  # [5], μ
    n_samples: int
    exact: np.ndarray  # [5]
    means: np.ndarray  # [3, 5], of k1, k2, k3
    deviations: np.ndarray  # [3, 5]
    smallest: np.ndarray  # [3, 5]
    excess_of_k2: np.ndarray  # [5], μ⁴/8
    negative_shares: np.ndarray  # [5], of k1
    spread_of_k1: np.ndarray  # [5], deviation over the exact value
    spread_of_k3: np.ndarray  # [5]
    widened: float
    narrowed: float
    n_epochs: int
    passes: tuple[float, ...]
    environment_steps: int
    frames: Mapping[str, Frame]


class Passes(BaseCallback):
    """Counts how often the policy's network reads the rollout while it learns."""

    def _init_callback(self) -> None:
        policy: Any = self.model.policy
        policy.action_net.register_forward_hook(self._count)

    def _count(self, layer: Any, inputs: Any, outputs: th.Tensor) -> None:
        self.n_rows += len(outputs)

    def _on_rollout_end(self) -> None:
        self.n_rows = 0

    def _on_step(self) -> bool:
        return True

    n_rows = 0


def experiment(seed: int = 0) -> Result:
    """Three estimators at five distances, and the passes that an update makes."""
    th.manual_seed(seed)
    zero, one = th.zeros(1, 1, dtype=th.float64), th.ones(1, 1, dtype=th.float64)
    actions = gaussian_sample(zero.expand(N_SAMPLES, 1), one.expand(N_SAMPLES, 1))
    samples, exact = [], []
    for shift in SHIFTS:
        log_ratio = gaussian_log_prob(shift * one, one, actions) - gaussian_log_prob(zero, one, actions)
        samples.append(np.stack([estimator(log_ratio).numpy() for estimator in ESTIMATORS.values()]))
        exact.append(gaussian_kl(zero, one, shift * one, one).item())
    k = np.stack(samples, axis=1)
    return Result(
        shifts=np.array(SHIFTS),
        n_samples=N_SAMPLES,
        exact=np.array(exact),
        means=k.mean(-1),
        deviations=k.std(-1),
        smallest=k.min(-1),
        excess_of_k2=np.array(SHIFTS) ** 4 / 8,
        negative_shares=(k[0] < 0).mean(-1),
        spread_of_k1=k[0].std(-1) / exact,
        spread_of_k3=k[2].std(-1) / exact,
        widened=gaussian_kl(zero, one, zero, 2 * one).item(),
        narrowed=gaussian_kl(zero, 2 * one, zero, one).item(),
        n_epochs=N_EPOCHS,
        passes=tuple(_passes(rule, seed) for rule in RULES),
        environment_steps=len(RULES) * N_STEPS,
        frames={f"{shift:g}": _frame(shift, k[:, i], exact[i]) for i, shift in enumerate(SHIFTS)},
    )


def _passes(rule: UpdateRule, seed: int) -> float:
    model = NotesPPO("MlpPolicy", "CartPole-v1", n_steps=N_STEPS, n_epochs=N_EPOCHS, rule=rule, seed=seed, device="cpu")
    passes = Passes()
    model.learn(N_STEPS, callback=passes)
    return passes.n_rows / N_STEPS


def _frame(shift: float, k: np.ndarray, exact: float) -> Frame:
    edges = np.linspace(-2.5, 3.5, 61) * shift
    counts = {name: np.histogram(k[i], edges)[0] / k.shape[1] for i, name in enumerate(ESTIMATORS)}
    return Frame(shift, {"edges": edges, "exact": np.array(exact), **counts})


def picture(result: Result, figure: Figure) -> None:
    """Noise beside the value that is to be measured."""
    axes = figure.subplots()
    for i, name in enumerate(ESTIMATORS):
        axes.loglog(result.shifts, result.deviations[i] / result.exact, color=PALETTE[i], marker="o", label=name)
    axes.axhline(1, color="gray", linestyle=":", linewidth=1)
    axes.annotate("noise as large as the value", (result.shifts[0], 1), (0, 3), textcoords="offset points")
    axes.set(
        xlabel="distance μ of the two means, in σ",
        ylabel="deviation of a sample / KL",
        xticks=SHIFTS,
        yticks=(1, 2, 5, 10, 20),
    )
    axes.set_xticklabels([f"{shift:g}" for shift in SHIFTS])
    axes.set_yticklabels(["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.legend()


def frame(result: Result, frame: Frame, figure: Figure) -> None:
    """Where the samples of the three estimators lie."""
    panels = figure.subplots(3, 1, sharex=True)
    for i, (axes, name) in enumerate(zip(panels, ESTIMATORS, strict=True)):
        axes.stairs(frame.curves[name], frame.curves["edges"], fill=True, color=PALETTE[i])
        axes.axvline(float(frame.curves["exact"]), color=PALETTE[5], linestyle="--", linewidth=1.2)
        axes.set_ylabel(name)
        axes.set_yticks([])
    panels[0].set_title("share of the samples; dashed: the exact KL")
    panels[2].set_xlabel("estimate, nats")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    mu, standard_errors = result.shifts, result.deviations / math.sqrt(result.n_samples)
    yield Claim(
        "The exact divergence of shifted normal distributions is μ²/2.",
        result.exact,
        mu**2 / 2,
        1e-12,
        mutant="note 17: the shift is not divided by σ",
    )
    yield Claim(
        "k1 is unbiased: its mean is the exact value to six standard errors.",
        (result.means[0] - result.exact) / standard_errors[0],
        0.0,
        6.0,
        mutant="note 17: log-ratio upside down",
    )
    yield Claim(
        "k3 is unbiased: its mean is the exact value to six standard errors.",
        (result.means[2] - result.exact) / standard_errors[2],
        0.0,
        6.0,
        mutant="note 17: k3 without its −1",
    )
    yield Claim(
        "k2 is too large by μ⁴/8.",
        (result.means[1] - result.exact - result.excess_of_k2) / standard_errors[1],
        0.0,
        6.0,
        mutant="note 17: k2 without its half",
    )
    yield Claim(
        "k2 and k3 are never negative.",
        result.smallest[1:],
        -1e-12,
        relation="≥",
        mutant="k3 replaced by k1",
    )
    yield Claim(
        "The share of negative samples of k1 is 1 − Φ(μ/2).",
        result.negative_shares,
        [0.5 * math.erfc(each / 2 / math.sqrt(2)) for each in mu],
        0.008,
        mutant="note 17: log-ratio upside down",
    )
    yield Claim(
        "The deviations are those of the closed forms.",
        result.deviations,
        [mu, np.sqrt(mu**4 / 2 + mu**6 / 4), np.sqrt(np.exp(mu**2) - 1 - mu**2)],
        0.08,
        mutant="note 17: k2 without its half",
    )
    yield Claim(
        "Where the policies are close, k3 is far less noisy than k1.",
        result.spread_of_k1[0] / result.spread_of_k3[0],
        10.0,
        relation=">",
        mutant="k3 replaced by k1",
    )
    yield Claim(
        "The order matters: wider is cheaper than narrower.",
        [result.widened, result.narrowed],
        [math.log(2) - 0.375, 1.5 - math.log(2)],
        1e-9,
        mutant="Gaussian KL the other way round",
    )
    yield Claim(
        "The exact KL costs one pass over the rollout, a penalty that follows it one more.",
        result.passes,
        (result.n_epochs, result.n_epochs + 1, result.n_epochs + 2),
        mutant="note 17: the old distribution is asked for though nobody needs it",
    )
