"""Why break on KL?

Each epoch over the same rollout moves the policy further from the one that gathered it, and what the rollout says is
about *that* one. The clip only takes away the reward for going on; the stop makes an end of it. In the first epoch of
an update on CartPole KL(old ‖ new) is {kl[0]:.4f} nats, in the third {kl[2]:.4f}; then the clip leaves little to gain,
and in the last it is {kl[9]:.4f}.

It is no promise that no update goes further than the limit. The KL is estimated on each minibatch *before* its step;
where it is above {factor:g} · `target_kl` that step is not taken, and nothing that was taken before is undone. What it
is above the limit by has already happened: here the minibatch that was refused was at {refused:.4f}, the limit was
{limit:.4f}. The comparison is strict, and the factor is SB3's and Spinning Up's.

What the stop ends differs. Of {minibatches} minibatches, {epochs} epochs of {per_epoch}:

| scope | whose | steps of the policy | steps of the critic |
|---|---|---|---|
| none | | {policy_steps[0]} | {critic_steps[0]} |
| `"update"` | SB3 | {policy_steps[1]} | {critic_steps[1]} |
| `"epoch"` | skrl (factor 1) | {policy_steps[2]} | {critic_steps[2]} |
| `"policy"` | Spinning Up | {policy_steps[3]} | {critic_steps[3]} |

Scope `"update"` ends the whole update. `"epoch"` ends an epoch, and the next one begins with another look: all {epochs}
epochs begin, though most of them take few steps. `"policy"` ends the policy's part only. Why does the critic go on
there? Because its targets stay valid: they are returns that were really seen, in states that were really visited,
whatever the policy does in the meantime. It is the policy's objective that expires with the distance.

So `n_epochs` and `target_kl` are two answers to one question: the number of epochs is a guess for all rollouts, the
stop looks at this one.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.charts import INK, PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.divergences import kl_k3
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.rules import EarlyStop, UpdateRule

NOTE = Note(
    name="why-break",
    number=18,
    titles=dict(
        en="Why break on KL?",
        ja="なぜKLが大きいと打ち切るのか",
        fr="Pourquoi s'arrêter quand la KL est trop grande ?",
        ko="KL이 커지면 왜 멈추는가?",
    ),
    answers=("1.7", "A12"),
    formulas=(kl_k3, EarlyStop.is_exceeded_by),
    tests=(
        "tests/recipes/test_rules.py::test_scopes_of_the_early_stop",
        "tests/recipes/test_rules.py::test_scope_policy_leaves_the_actor_alone_and_goes_on_with_the_critic",
    ),
)
N_ENVS, N_STEPS, BATCH_SIZE, N_EPOCHS = 8, 256, 64, 10
N_MINIBATCHES = N_EPOCHS * N_ENVS * N_STEPS // BATCH_SIZE
STOP = EarlyStop(0.005)
SCOPES: tuple[EarlyStop | None, ...] = (
    None,
    STOP,
    EarlyStop(0.005, factor=1.0, scope="epoch"),
    EarlyStop(0.005, scope="policy"),
)
#: What became of a minibatch.
LEFT_OUT, CRITIC_ONLY, TAKEN = 0, 1, 2


class Watched(NamedTuple):
    epochs: list[int]  # of each minibatch that was looked at
    taken: list[int]
    kl: list[float]
    actors: list[th.Tensor]  # the actor's last layer after each minibatch


class Result(NamedTuple):
    kl: np.ndarray  # [10], mean k3 of each epoch without a stop
    kl_of_minibatches: np.ndarray  # [320]
    factor: float
    limit: float
    refused: float
    kl_before_the_stop: float
    taken: np.ndarray  # [4, 320], what became of each minibatch
    looks_after_the_stop: int
    begun: np.ndarray  # [10], the epochs that scope "epoch" began
    actor_moved: float
    policy_steps: np.ndarray  # [4]
    critic_steps: np.ndarray  # [4]
    minibatches: int
    epochs: int
    per_epoch: int
    exceeded: tuple[bool, ...]
    environment_steps: int


class Watch(BaseCallback):
    """Writes down what becomes of each minibatch."""

    def __init__(self) -> None:
        super().__init__()
        self.watched = Watched([], [], [], [])

    def _on_step(self) -> bool:
        return True

    def on_minibatch(self, report: UpdateReport) -> None:
        """Note a minibatch.

        :param report: of it.
        """
        is_critics = report.n_gradient_steps == 1 and report.actor_gradient_norm == 0
        self.watched.epochs.append(report.epoch or 0)
        self.watched.taken.append(CRITIC_ONLY if is_critics else TAKEN if report.n_gradient_steps else LEFT_OUT)
        self.watched.kl.append(report.kl[0].k3 if report.kl else float("nan"))
        policy: Any = self.model.policy
        self.watched.actors.append(policy.action_net.weight.detach().clone())


def experiment(seed: int = 0) -> Result:
    """One update of the same rollout under four stops."""
    none, update, epoch, policy = (_watch(stop, seed) for stop in SCOPES)
    stopped = update.taken.index(LEFT_OUT) if LEFT_OUT in update.taken else -1
    first = policy.taken.index(CRITIC_ONLY) if CRITIC_ONLY in policy.taken else 0
    taken = np.stack([_in_place(each) for each in (none, update, epoch, policy)])
    return Result(
        kl=np.array(none.kl).reshape(N_EPOCHS, -1).mean(1),
        kl_of_minibatches=np.array(none.kl),
        factor=STOP.factor,
        limit=STOP.factor * STOP.target,
        refused=update.kl[stopped],
        kl_before_the_stop=max(update.kl[:stopped]),
        taken=taken,
        looks_after_the_stop=len(update.taken) - 1 - stopped,
        begun=np.unique(epoch.epochs),
        actor_moved=float((policy.actors[-1] - policy.actors[first]).abs().max()),
        policy_steps=(taken == TAKEN).sum(1),
        critic_steps=(taken != LEFT_OUT).sum(1),
        minibatches=N_MINIBATCHES,
        epochs=N_EPOCHS,
        per_epoch=N_MINIBATCHES // N_EPOCHS,
        exceeded=tuple(EarlyStop(1.0).is_exceeded_by(kl) for kl in (1.25, 1.5, 1.75)),
        environment_steps=len(SCOPES) * N_ENVS * N_STEPS,
    )


def _watch(stop: EarlyStop | None, seed: int) -> Watched:
    env = LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS)
    rule = UpdateRule(kl_controls=() if stop is None else (stop,))
    sizes: dict[str, Any] = dict(n_steps=N_STEPS, batch_size=BATCH_SIZE, n_epochs=N_EPOCHS, learning_rate=3e-4)
    watch = Watch()
    NotesPPO("MlpPolicy", env, rule=rule, seed=seed, device="cpu", **sizes).learn(N_ENVS * N_STEPS, callback=watch)
    return watch.watched


def _in_place(watched: Watched) -> np.ndarray:
    """What became of each minibatch of the update, those that nobody looked at among them."""
    taken = np.full((N_EPOCHS, N_MINIBATCHES // N_EPOCHS), LEFT_OUT)
    for epoch in set(watched.epochs):
        row = [each for each, number in zip(watched.taken, watched.epochs, strict=True) if number == epoch]
        taken[epoch, : len(row)] = row
    return taken.ravel()


def picture(result: Result, figure: Figure) -> None:
    """The KL of each minibatch, and what four stops make of the update."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    upper.plot(result.kl_of_minibatches, color="gray", linewidth=0.8)
    middles = (np.arange(result.epochs) + 0.5) * result.per_epoch
    upper.plot(middles, result.kl, color=PALETTE[5], marker="o", markersize=4, label="mean of an epoch, no stop")
    upper.axhline(result.limit, color=INK, linestyle="--", linewidth=1, label="limit")
    upper.set_ylabel("KL(old ‖ new), nats")
    upper.legend(loc="lower right")
    colors = ("#d9d9d9", PALETTE[1], PALETTE[0])
    lower.imshow(
        result.taken, aspect="auto", interpolation="nearest", cmap=ListedColormap(colors), vmin=0, vmax=2,
        extent=(0, result.minibatches, 3.5, -0.5),
    )  # fmt: skip
    lower.set_yticks(range(4), ("no stop", "update", "epoch", "policy"))
    lower.grid(False)
    lower.set_xlabel("minibatch of the update")
    names = ("left out", "critic only", "step taken")
    patches = [Patch(color=color, label=name) for color, name in zip(colors, names, strict=True)]
    figure.legend(handles=patches[::-1], loc="outside lower center", ncols=3)


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Without a stop every minibatch of every epoch is stepped on.",
        result.policy_steps[0],
        result.minibatches,
        mutant="note 18: the first epoch is left out",
    )
    yield Claim(
        "The policy goes further from epoch to epoch: the third's KL is at least twice the first's.",
        result.kl[2] / result.kl[0],
        2.0,
        relation=">",
        mutant="note 18: nothing is learned",
    )
    yield Claim(
        "Steps are taken up to the limit, and the one beyond it is refused.",
        [result.kl_before_the_stop <= result.limit, result.refused > result.limit],
        [True, True],
        mutant="factor 1.5 forgotten",
    )
    yield Claim(
        "SB3's stop ends the update: after it no minibatch is looked at.",
        [result.looks_after_the_stop, int(result.policy_steps[1] < result.minibatches // 2)],
        [0, 1],
        mutant="early stop ends the epoch only",
    )
    yield Claim(
        "skrl's stop ends an epoch: all epochs begin, and most steps are left out.",
        [len(result.begun), int(result.policy_steps[2] < result.minibatches // 2)],
        [result.epochs, 1],
        mutant="note 18: every stop ends the update",
    )
    yield Claim(
        "Spinning Up's stop is the policy's alone: the critic learns from every minibatch.",
        [result.critic_steps[3], int(result.policy_steps[3] < result.minibatches // 2)],
        [result.minibatches, 1],
        mutant="critic stops with the policy",
    )
    yield Claim(
        "After it the actor's weights stay as they are, to the bit.",
        result.actor_moved,
        0.0,
        mutant="critic stops with the policy",
    )
    yield Claim(
        "The factor is one and a half, and the comparison strict.",
        result.exceeded,
        (False, False, True),
        mutant="note 18: the limit itself exceeds it",
    )
