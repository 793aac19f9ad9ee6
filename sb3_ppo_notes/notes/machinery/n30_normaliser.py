"""May the normaliser move?

Between two rollouts yes, within one no. A wrapper such as `VecNormalize` learns mean and deviation of the observations
while it runs, so the same state looks different to the network at the end of a rollout than it did at its beginning.
That does no harm as long as nobody *mixes* the two: the log-probability that was stored belongs to the observation *as
it was seen*.

On Pendulum, in the first rollout of a training (with `ortho_init=False`: SB3's own initialisation makes a first policy
that hardly looks at what it sees): under the observations as they were stored every ratio is 1 before anything has been
learned (the largest error is {stored_error:.1g}). Take the same states, normalise them anew with the statistics of the
rollout's end, and the ratios are off by up to {newer_error:.3f}, although not a weight has moved. Nobody can tell the
normaliser's change from the policy's then: PPO would clip it, and early stopping would stop on it. It fades as the
statistics come near those of the end: over the first {n_first} steps it is {early_error:.3f} on average, over the last
{late_error:.4f}.

So: normalise when acting, store what was seen, and do not normalise again when learning. That is what the wrappers here
and in SB3 do. skrl keeps raw states and normalises them in its update; there the ratio of the first minibatch is not 1
but for a scaler that happens to stand still. To evaluate, or after loading, the statistics have to be those of the
training, and frozen.

How are statistics kept that can be updated by any number of rows? By count, mean and the sum of squared deviations,
which can be merged: the numbers 0 … {largest:g} have the mean {mean:g} and the variance {variance:.4f} whether they
come at once, in two parts, or one by one. The first single row is where implementations fall: its variance divides by n
− 1 = 0, and one NaN in running statistics stays for ever. Ours is {of_one:g} then.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.normalization import Moments, merged_moments, streaming_std
from sb3_ppo_notes.formulas.objectives import probability_ratio
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.policies.actor_critic import evaluate

NOTE = Note(
    name="normaliser",
    number=30,
    titles=dict(
        en="May the normaliser move?",
        ja="正規化の統計は途中で動いてよいか",
        fr="La normalisation peut-elle bouger ?",
        ko="정규화 통계가 중간에 변해도 되는가?",
    ),
    answers=("1.12", "2.12"),
    formulas=(merged_moments, streaming_std, probability_ratio),
    tests=(
        "tests/recipes/test_rules.py::test_streaming_moments_in_any_chunks",
        "tests/recipes/test_rules.py::test_one_row_gives_no_nan",
        "tests/recipes/test_rules.py::test_streaming_normalise_learns_each_observation_once",
    ),
)
N_ENVS, N_STEPS, N_FIRST = 4, 64, 8
NUMBERS = np.arange(10.0)


class Result(NamedTuple):
    stored: np.ndarray  # [T, B], |ρ − 1| under the observations as they were seen
    newer: np.ndarray  # [T, B], as they look at the rollout's end
    stored_error: float
    newer_error: float
    n_first: int
    early_error: float
    late_error: float
    largest: float
    moments: np.ndarray  # [3, 3]: at once, in two parts, one by one; n, mean, variance
    mean: float
    variance: float
    of_one: float
    environment_steps: int


class Seen(BaseCallback):
    """The rollout's states as the environments gave them, and its ratios under two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.raw: list[np.ndarray] = []
        self.errors: list[np.ndarray] = []

    def _on_rollout_start(self) -> None:
        self._note()

    def _on_step(self) -> bool:
        self._note()
        return True

    def _note(self) -> None:
        env: Any = self.training_env
        self.raw.append(env.get_original_obs().copy())

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        env: Any = self.training_env
        # The last one belongs to the next rollout.
        for observations in (model.rollout_buffer.observations, env.normalize_obs(np.stack(self.raw[:-1]))):
            self.errors.append(_ratio_errors(model, observations))


def experiment(seed: int = 0) -> Result:
    """One rollout under two normalisations; and moments, merged in three ways."""
    env = VecNormalize(LeanVecEnv([lambda: gym.make("Pendulum-v1")] * N_ENVS), norm_reward=False)
    seen = Seen()
    model = NotesPPO("MlpPolicy", env, n_steps=N_STEPS, seed=seed, device="cpu", policy_kwargs=dict(ortho_init=False))
    model.learn(N_ENVS * N_STEPS, callback=seen)
    stored, newer = seen.errors
    moments = np.stack([_merged(parts) for parts in ([NUMBERS], [NUMBERS[:4], NUMBERS[4:]], NUMBERS[:, None])])
    empty = Moments(0, np.zeros(()), np.zeros(()))
    return Result(
        stored=stored,
        newer=newer,
        stored_error=stored.max(),
        newer_error=newer.max(),
        n_first=N_FIRST,
        early_error=newer[:N_FIRST].mean(),
        late_error=newer[-N_FIRST:].mean(),
        largest=NUMBERS[-1],
        moments=moments,
        mean=moments[0, 1],
        variance=moments[0, 2],
        of_one=float(streaming_std(merged_moments(empty, NUMBERS[7:8]))),
        environment_steps=N_ENVS * N_STEPS,
    )


def _ratio_errors(model: Any, observations: np.ndarray) -> np.ndarray:
    """``[T, B]``, |ρ − 1| of the rollout's actions in these observations."""
    buffer = model.rollout_buffer
    rows = N_STEPS * N_ENVS
    seen = th.as_tensor(observations, dtype=th.float32).reshape(rows, -1)
    actions = th.as_tensor(buffer.actions, dtype=th.float32).reshape(rows, -1)
    with th.no_grad():
        log_probs = evaluate(model.policy, seen, actions).log_probs
    ratio = probability_ratio(log_probs, th.as_tensor(buffer.log_probs).reshape(rows))
    return np.asarray((ratio - 1).abs().numpy().reshape(N_STEPS, N_ENVS))


def _merged(parts: Any) -> np.ndarray:
    moments = Moments(0, np.zeros(()), np.zeros(()))
    for part in parts:
        moments = merged_moments(moments, part)
    return np.array([moments.n, moments.mean, moments.deviations / (moments.n - 1)])


def picture(result: Result, figure: Figure) -> None:
    """How far off the ratios are, step by step."""
    axes = figure.subplots()
    axes.plot(100 * result.newer, ".", color=PALETTE[1], markersize=3, alpha=0.7)
    axes.plot(100 * result.newer.mean(1), color=PALETTE[1], label="normalised with the statistics of the end")
    axes.plot(100 * result.stored.mean(1), color=PALETTE[0], label="as they were seen")
    axes.set(xlabel="step of the rollout", ylabel="|ρ − 1|, percent", xlim=(0, len(result.newer) - 1))
    axes.set_ylim(top=1.25 * 100 * result.newer.max())
    axes.legend(loc="upper right")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Under the observations as they were seen every ratio is 1, but for rounding.",
        result.stored_error,
        0.0,
        1e-4,
        mutant="note 25: log-probabilities doubled while acting",
    )
    yield Claim(
        "Normalised anew they are not, though no weight has moved.",
        result.newer_error,
        0.02,
        relation=">",
        mutant="note 30: the normaliser stands still",
    )
    yield Claim(
        "It fades as the statistics come near those of the end.",
        result.early_error / result.late_error,
        2.0,
        relation=">",
        mutant="note 30: the normaliser stands still",
    )
    yield Claim(
        "Moments are the same at once, in parts and one by one.",
        result.moments,
        [[10, 4.5, 55 / 6]] * 3,
        1e-12,
        mutant="note 30: moments merged without the shift",
    )
    yield Claim(
        "A single row has a deviation of 1 and no NaN.",
        result.of_one,
        1.0,
        mutant="note 30: the deviation of a single row",
    )
