"""What comes out of the network?

For a state: one number for each action, and one value. The numbers are *logits*, of any size and sign; a softmax makes
probabilities of them, and one action is drawn. CartPole has {n_actions} actions, so the actor ends in a layer of
{actor_shape[0]} outputs and the critic in one of {critic_shape[0]}: {n_outputs} numbers in all. No layer gives an
action.

| network of CartPole | weights |
|---|---|
| actor: {sizes[0]} → {sizes[1]} → {sizes[2]} → {n_actions} | {n_actor:,} |
| critic: {sizes[0]} → {sizes[1]} → {sizes[2]} → 1 | {n_critic:,} |
| together | {n_weights:,} |

Counting weights is good for exactly that: it tells how large a model is, and whether it is the one you meant.

**Calling the network**, `policy(observations)`, goes by way of `nn.Module.__call__`, which runs hooks and then
`forward`. Out come an action, the value of the state, and log_prob: the entry of that action in the row of
log-probabilities, picked by `gather`.

**A draw is not the largest probability.** With probabilities ({p[0]:g}, {p[1]:g}) {draws[0]:,} of {n_draws:,} draws are
the first action, and {draws[1]:,} are not: that is the exploration. The likeliest action, the mode, is what an
evaluation takes (`deterministic=True`).

**What do train and eval mode change?** Dropout and batch normalisation, and nothing else. They have nothing to do with
exploring or being greedy. The usual network has neither layer, and its probabilities are the same in both modes; one
with dropout before its last layer has others in train mode, by up to {dropout_difference:.3f} here. PPO acts in eval
mode for this reason: the probabilities that are stored should not be those of a network with holes in it.

**Only differences of logits count.** Add one number to all of them and the probabilities stay as they were: a logit
says how an action compares with the others, not how good it is.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from sb3_ppo_notes.algorithms import NotesPPO
from sb3_ppo_notes.charts import INK, PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.distributions.categorical import (
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
    log_probabilities,
    probabilities,
)
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.policies.modes import set_training_mode

NOTE = Note(
    name="what-comes-out",
    number=3,
    titles=dict(
        en="What comes out of the network?",
        ja="ネットワークの出力は何か",
        fr="Que sort-il du réseau ?",
        ko="네트워크는 무엇을 출력하는가?",
    ),
    answers=("5.5", "5.10", "5.11", "A4", "2.5"),
    formulas=(log_probabilities, probabilities, categorical_sample, categorical_mode),
    tests=("tests/formulas/test_distributions.py::test_sampling_draws_and_does_not_take_the_likeliest",),
)
N_DRAWS = 10_000
P = (0.9, 0.1)


class Result(NamedTuple):
    actor_shape: tuple[int, ...]  # weights of the last layer
    critic_shape: tuple[int, ...]
    biases: tuple[int, int]  # outputs of both
    sizes: tuple[int, ...]  # [3], of the observation and both layers below
    n_actions: int
    n_outputs: int
    n_actor: int
    n_critic: int
    n_weights: int
    gather_error: float  # of log_prob against the action's entry
    p: tuple[float, float]
    n_draws: int
    draws: np.ndarray  # [2]
    modes: np.ndarray  # [n_draws]
    mode_difference: float  # of the probabilities in both modes
    dropout_difference: float  # the same with dropout
    shift_difference: float


def experiment(seed: int = 0) -> Result:
    """A policy's layers, what it says of some states, and draws from two probabilities."""
    env = LeanVecEnv([lambda: gym.make("CartPole-v1")])
    model = NotesPPO("MlpPolicy", env, policy_kwargs=dict(ortho_init=False), seed=seed, device="cpu")
    policy: Any = model.policy
    actor = policy.mlp_extractor.policy_net
    counts = {name: weight.numel() for name, weight in policy.named_parameters()}
    n_critic = sum(count for name, count in counts.items() if "value" in name)

    observations = th.randn(64, 4)
    with th.no_grad():
        actions, _, log_probs = policy(observations)
        all_log_probs = _log_probs(model, observations)
        modes = [_in_mode(model, is_training, observations) for is_training in (True, False)]
        actor.append(th.nn.Dropout(0.5))
        with_dropout = [_in_mode(model, is_training, observations) for is_training in (True, False)]

    rows = th.tensor(P).log().expand(N_DRAWS, -1)
    logits = th.randn(64, 5)
    shifted = log_probabilities(logits + 7) - log_probabilities(logits)
    return Result(
        actor_shape=tuple(policy.action_net.weight.shape),
        critic_shape=tuple(policy.value_net.weight.shape),
        biases=(len(policy.action_net.bias), len(policy.value_net.bias)),
        sizes=(actor[0].in_features, actor[0].out_features, actor[2].out_features),
        n_actions=len(policy.action_net.bias),
        n_outputs=len(policy.action_net.bias) + len(policy.value_net.bias),
        n_actor=sum(counts.values()) - n_critic,
        n_critic=n_critic,
        n_weights=sum(counts.values()),
        gather_error=float((categorical_log_prob(all_log_probs, actions) - log_probs).abs().max()),
        p=P,
        n_draws=N_DRAWS,
        draws=th.bincount(categorical_sample(rows), minlength=2).numpy(),
        modes=categorical_mode(rows).numpy(),
        mode_difference=float((modes[0] - modes[1]).abs().max()),
        dropout_difference=float((with_dropout[0] - with_dropout[1]).abs().max()),
        shift_difference=float(shifted.abs().max()),
    )


def _log_probs(model: NotesPPO, observations: th.Tensor) -> th.Tensor:
    """Of both actions in each state."""
    pairs = [model.policy.evaluate_actions(observations, th.full((64,), action))[1] for action in range(2)]
    return th.stack(pairs, dim=1)


def _in_mode(model: NotesPPO, is_training: bool, observations: th.Tensor) -> th.Tensor:
    set_training_mode(model.policy, is_training)
    return _log_probs(model, observations).exp()


def picture(result: Result, figure: Figure) -> None:
    """The network, and what is drawn from it."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.set(xlim=(-0.1, 4.1), ylim=(-0.3, 3.3), title="one state")
    left.axis("off")
    rows = (
        (2.4, "actor", (*result.sizes, result.n_actions), "logits", PALETTE[0]),
        (0.6, "critic", (*result.sizes, result.critic_shape[0]), "V(s)", PALETTE[1]),
    )
    for height, name, sizes, output, color in rows:
        for place, size in enumerate(sizes):
            width = 0.62
            box = FancyBboxPatch(
                (place * 1.1, height - 0.3),
                width,
                0.6,
                boxstyle="round,pad=0.04",
                facecolor=color,
                alpha=0.25,
                linewidth=0,
            )
            left.add_patch(box)
            left.text(place * 1.1 + width / 2, height, str(size), ha="center", va="center")
            if place:
                left.annotate(
                    "",
                    xy=(place * 1.1 - 0.06, height),
                    xytext=(place * 1.1 - 0.42, height),
                    arrowprops=dict(arrowstyle="->", color=color),
                )
        left.text(0, height + 0.5, name, color=color, fontweight="bold")
        left.text(3 * 1.1 + 0.31, height + 0.5, output, color=color, ha="center")
    right.bar((0, 1), result.draws / result.n_draws, color=PALETTE[0], alpha=0.5, label="draws")
    right.hlines(result.p, (-0.4, 0.6), (0.4, 1.4), color=INK, label="probability")
    right.plot(0, 1, "v", color=PALETTE[5], label="the mode, always")
    right.set(xticks=(0, 1), xlabel="action", ylabel="share", ylim=(0, 1.7))
    right.legend(loc="upper right")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "One logit an action and one value.",
        (*result.actor_shape, *result.critic_shape, *result.biases),
        (2, 64, 1, 64, 2, 1),
        mutant="note 3: another environment",
    )
    yield Claim(
        "The weights can be counted by hand.",
        (result.n_actor, result.n_critic, result.n_weights),
        (4 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2, 4 * 64 + 64 + 64 * 64 + 64 + 64 + 1, 9155),
        mutant="note 3: another environment",
    )
    yield Claim(
        "log_prob is the action's entry of the log-probabilities.",
        result.gather_error,
        0.0,
        1e-5,
        mutant="log-probability of another action",
    )
    yield Claim(
        "Draws come in proportion to the probabilities.",
        result.draws / result.n_draws,
        result.p,
        0.015,
        mutant="a sample is the likeliest action",
    )
    yield Claim(
        "The mode is always the likeliest action.",
        result.modes,
        np.zeros(result.n_draws),
        mutant="the mode is a draw",
    )
    yield Claim(
        "Without dropout both modes give the same probabilities.",
        result.mode_difference,
        0.0,
        1e-6,
        mutant="note 3: dropout from the start",
    )
    yield Claim(
        "With dropout they do not.",
        result.dropout_difference,
        0.01,
        relation=">",
        mutant="a policy's mode is not switched",
    )
    yield Claim(
        "One number added to all logits changes nothing.",
        result.shift_difference,
        0.0,
        1e-5,
        mutant="logits taken for log-probabilities",
    )
