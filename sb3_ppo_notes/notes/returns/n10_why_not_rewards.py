"""Why not normalise the rewards of an episode?

Because it erases how good the episode was. Rewards that are brought to mean 0 and deviation 1 *within an episode* say
which of its steps were better than its others; whether the episode was better than another one they no longer say.

CartPole pays 1 a step, so an episode is as good as it is long. Discounted, its first step is worth

| length of the episode | as it is | rewards normalised within the episode |
|---|---|---|
| {lengths[0]} | {raw[0]:.2f} | {scored[0]:g} |
| {lengths[5]} | {raw[5]:.2f} | {scored[5]:g} |

A constant minus its mean is 0, whether the pole stood for {lengths[0]} steps or for {lengths[5]}. And the rewards of a
poor episode, ({poor[0]:g}, {poor[1]:g}, {poor[2]:g}), and those of a splendid one, ({splendid[0]:g}, {splendid[1]:g},
{splendid[2]:g}), become the same three numbers ({score[0]:.3f}, {score[1]:.3f}, {score[2]:.3f}).

With the update rule of the French note's code, moral_rl, and a critic that says 0, the policy's gradient on a rollout
of CartPole is exactly {ruled_gradient:g}; with the rewards as they are it is {plain_gradient:.3f} long. Whatever such a
run learns it does not learn from rewards.

What is meant to be normalised are the *advantages*, over all samples of a minibatch or a rollout: that compares good
episodes with bad ones.

**And why does some code divide the reward by a hundred?** That is a fixed scale, the same for all episodes, and it
erases nothing. It is there for the critic, whose error and gradient are in reward units. With normalised advantages the
policy does not notice: with rewards divided by {scale:g} its first gradient is {policy_ratio:.4f} times what it was,
the critic's {critic_ratio:.4f} times. The same scale also makes everything that is measured in reward units, such as
the range of a clipped value or the corner of a Huber error, mean something else.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.algorithms import NotesPPO
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.envs.wrappers import VecRewardScale
from sb3_ppo_notes.formulas.advantages import monte_carlo_returns
from sb3_ppo_notes.formulas.normalization import trajectory_z_scores
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.reports import Reports
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rules import UpdateRule

NOTE = Note(
    name="why-not-rewards",
    number=10,
    titles=dict(
        en="Why not normalise the rewards of an episode?",
        ja="エピソードごとに報酬を正規化してはいけないのはなぜか",
        fr="Pourquoi ne pas normaliser les récompenses d'un épisode ?",
        ko="에피소드별로 보상을 정규화하면 왜 안 되는가?",
    ),
    answers=("A20",),
    formulas=(trajectory_z_scores, monte_carlo_returns),
    tests=(
        "tests/recipes/test_rules.py::test_reward_z_scores_erase_the_signal",
        "tests/recipes/test_rules.py::test_reward_scale",
    ),
)
GAMMA, SCALE = 0.99, 100.0
LENGTHS = (5, 20, 50, 100, 150, 200)
N_ENVS, N_STEPS = 4, 64


class Result(NamedTuple):
    lengths: tuple[int, ...]
    raw: np.ndarray  # [6], return of an episode's first step
    scored: np.ndarray  # [6], the same of normalised rewards
    poor: np.ndarray  # [3], rewards of an episode
    splendid: np.ndarray  # [3]
    score: np.ndarray  # [3], the first of them normalised
    difference: float  # between both normalised
    difference_in_a_rollout: float  # the same with one after the other
    ruled_gradient: float  # length of the actor's gradient under moral_rl's rule
    plain_gradient: float  # and with rewards as they are
    scale: float
    policy_ratio: float  # scaled against plain rewards
    critic_ratio: float
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """Returns of short and of long episodes, and first gradients on CartPole."""
    raw, scored = np.array([_returns(length) for length in LENGTHS]).T
    poor, splendid = np.array([1.0, 2.0, 3.0]), np.array([101.0, 102.0, 103.0])
    scores = [trajectory_z_scores(rewards[:, np.newaxis], np.ones((3, 1))) for rewards in (poor, splendid)]
    ends = np.array([[1.0], [1.0], [0.0], [1.0], [1.0], [1.0]])
    two = trajectory_z_scores(np.concatenate([poor, splendid])[:, np.newaxis], ends)

    rule = RECIPES["moral_rl"].rule
    ruled, plain = _first_step(rule, 1.0, seed), _first_step(replace(rule, reward_scaling="none"), 1.0, seed)
    stock, scaled = _first_step(UpdateRule(), 1.0, seed), _first_step(UpdateRule(), 1 / SCALE, seed)
    return Result(
        lengths=LENGTHS,
        raw=raw,
        scored=scored,
        poor=poor,
        splendid=splendid,
        score=scores[0][:, 0],
        difference=float(np.abs(scores[0] - scores[1]).max()),
        difference_in_a_rollout=float(np.abs(two[:3] - two[3:]).max()),
        ruled_gradient=ruled.actor_gradient_norm,
        plain_gradient=plain.actor_gradient_norm,
        scale=SCALE,
        policy_ratio=scaled.actor_gradient_norm / stock.actor_gradient_norm,
        critic_ratio=scaled.critic_gradient_norm / stock.critic_gradient_norm,
        environment_steps=4 * N_ENVS * N_STEPS,
    )


def _returns(length: int) -> tuple[float, float]:
    """Of the first step of an episode that pays 1 a step: as it is, and normalised."""
    rewards = np.ones((length, 1))
    first = [
        monte_carlo_returns(each, np.zeros(1), np.ones((length, 1)), GAMMA)[0, 0]
        for each in (rewards, trajectory_z_scores(rewards, np.ones((length, 1))))
    ]
    return first[0], first[1]


def _first_step(rule: UpdateRule, scale: float, seed: int) -> UpdateReport:
    """The one gradient of an update on CartPole, by a critic that says 0."""
    env = VecRewardScale(LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS), scale)
    size = N_ENVS * N_STEPS
    model = NotesPPO("MlpPolicy", env, n_steps=N_STEPS, batch_size=size, n_epochs=1, rule=rule, seed=seed, device="cpu")
    th.nn.init.zeros_(model.policy.value_net.weight)
    watcher = Reports("update")
    model.learn(size, callback=watcher)
    return watcher.reports[0]


def picture(result: Result, figure: Figure) -> None:
    """The return over the length of an episode, and what is left of it."""
    axes = figure.subplots()
    axes.plot(result.lengths, result.raw, color=PALETTE[0], marker="o", label="rewards as they are")
    axes.plot(result.lengths, result.scored, color=PALETTE[1], marker="o", label="normalised within the episode")
    axes.set(xlabel="length of the episode", ylabel="discounted return of the first step")
    axes.legend(loc="upper left")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "The longer the episode, the larger its return.",
        (result.raw[0], result.raw[-1]),
        (4.90099, 86.6020),
        1e-3,
        mutant="Monte-Carlo sums are not discounted",
    )
    yield Claim(
        "Normalised within the episode all returns are 0.",
        result.scored,
        np.zeros(len(result.lengths)),
        mutant="rewards of a trajectory keep their mean",
    )
    yield Claim(
        "A poor episode and a splendid one become the same.",
        result.difference,
        0.0,
        1e-6,
        mutant="rewards of a trajectory keep their mean",
    )
    yield Claim(
        "They become the same, too, where one follows the other in a rollout.",
        result.difference_in_a_rollout,
        0.0,
        1e-6,
        mutant="reward z-score over all trajectories",
    )
    yield Claim(
        "Under the rule of moral_rl the gradient of the policy is 0, exactly.",
        result.ruled_gradient,
        0.0,
        mutant="a rule's reward scaling is not asked",
    )
    yield Claim(
        "With the rewards as they are it is not.",
        result.plain_gradient,
        1e-3,
        relation=">",
        mutant="every rule normalises rewards",
    )
    yield Claim(
        "A fixed scale leaves the first gradient of a policy with normalised advantages as it was.",
        result.policy_ratio,
        1.0,
        1e-3,
        mutant="deviation not divided by",
    )
    yield Claim(
        "A fixed scale scales the gradient of the critic.",
        result.critic_ratio,
        1 / result.scale,
        1e-4,
        mutant="rewards are not scaled",
    )
