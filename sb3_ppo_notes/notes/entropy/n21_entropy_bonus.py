"""What does the entropy bonus do?

It changes what is *optimal*. With a bonus c·H in the objective the best policy is no longer the one that always takes
the best action: in a bandit with the rewards R it is softmax(R/c), each action with a chance that grows with its
reward. The coefficient c, `ent_coef`, is a temperature in units of reward.

Three arms that pay {rewards[0]:g}, {rewards[1]:g} and {rewards[2]:g}. So often the best of them is pulled where A2C
ends, and by the closed form:

| c | A2C | softmax(R/c) | entropy, nats |
|---|---|---|---|
| {coefficients[0]:g} | {learned[0][2]:.3f} | {optimal[0][2]:.3f} | {entropies[0]:.4f} |
| {coefficients[1]:g} | {learned[1][2]:.3f} | {optimal[1][2]:.3f} | {entropies[1]:.4f} |
| {coefficients[2]:g} | {learned[2][2]:.3f} | {optimal[2][2]:.3f} | {entropies[2]:.4f} |

A large c comes near the uniform policy, whose entropy is {largest:.4f} nats; far below the gaps between the rewards,
which are 1 here, the bonus changes hardly anything. That is why the usual small coefficients look harmless, and why
they stop being harmless when rewards are scaled down: only R/c counts.

Does it help out of a bad certainty, as is said? Yes, in *time*. Two arms that pay {escape_rewards[0]:g} and
{escape_rewards[1]:g}, and a policy that takes the worse one in all but {rare:.4f} of its pulls. It needs so many steps
of exact gradient ascent until it takes the better one more often than not:

| c | {bonuses[0]:g} | {bonuses[1]:g} | {bonuses[2]:g} | {bonuses[3]:g} |
|---|---|---|---|---|
| steps | {escapes[0]} | {escapes[1]} | {escapes[2]} | {escapes[3]} |

Without a bonus it gets out as well here, because the exact gradient knows both arms. A learner that has only samples
must first *pull* the better arm; the bonus keeps that chance from vanishing. It leads out of no local optimum that more
of the same exploration would not leave.

`train/entropy_loss` is −H without the coefficient: it rises towards 0 as the policy becomes certain. In an action space
of several dimensions H is the *sum* over them, so the same c weighs more there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import NotesA2C
from sb3_ppo_notes.charts import INK, PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.distributions.categorical import categorical_entropy, log_probabilities, probabilities
from sb3_ppo_notes.notes.environments import NOTHING, Bandit
from sb3_ppo_notes.notes.note import Claim, Frame, Note
from sb3_ppo_notes.policies.actor_critic import parameters_of
from sb3_ppo_notes.rules.loss import minibatch_loss

NOTE = Note(
    name="entropy-bonus",
    number=21,
    titles=dict(
        en="What does the entropy bonus do?",
        ja="エントロピー項は何をするのか",
        fr="À quoi sert le bonus d'entropie ?",
        ko="엔트로피 보너스는 무엇을 하는가?",
    ),
    answers=("1.5", "A21"),
    formulas=(categorical_entropy, minibatch_loss),
    tests=("tests/formulas/test_distributions.py::test_entropy_is_largest_for_the_uniform_policy",),
    slider="c, the coefficient of the bonus",
)
REWARDS, COEFFICIENTS = (1.0, 0.0, 2.0), (0.1, 1.0, 10.0)
FRAMES = (0.1, 0.3, 1.0, 3.0, 10.0)
ESCAPE_REWARDS, ESCAPE_LOGITS, ESCAPE_COEFFICIENTS = (1.0, 2.0), (7.0, 0.0), (0.0, 0.1, 0.3, 1.0)
N_ENVS, N_STEPS = 32, 12_800


class Result(NamedTuple):
    rewards: tuple[float, ...]
    coefficients: tuple[float, ...]
    paths: np.ndarray  # [3, updates + 1, 3], A2C's policies
    learned: np.ndarray  # [3, 3], their last
    optimal: np.ndarray  # [3, 3], softmax(R/c)
    climbed: np.ndarray  # [5, 3], ends of exact ascent, of each frame
    optimal_of_frames: np.ndarray  # [5, 3]
    entropies: np.ndarray  # [3], of the closed forms
    largest: float
    escape_rewards: tuple[float, ...]
    rare: float
    bonuses: tuple[float, ...]
    escapes: tuple[int, ...]
    escape_paths: np.ndarray  # [4, steps], chance of the better arm
    environment_steps: int
    frames: Mapping[str, Frame]


class Policies(BaseCallback):
    """Writes down the policy after each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[np.ndarray] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.path.append(_policy(self.model))


def experiment(seed: int = 0) -> Result:
    """A2C on three arms with three coefficients; exact ascent on them and out of a bad certainty on two."""
    paths = np.stack([_learn(coefficient, seed) for coefficient in COEFFICIENTS])
    optimal = np.stack([_optimum(coefficient) for coefficient in COEFFICIENTS])
    climbs = [_ascend(REWARDS, (0, 0, 0), c, lambda weights: th.optim.Adam(weights, lr=0.1), 600) for c in FRAMES]
    escapes = [
        _ascend(ESCAPE_REWARDS, ESCAPE_LOGITS, c, lambda weights: th.optim.SGD(weights, lr=0.5), 1300)
        for c in ESCAPE_COEFFICIENTS
    ]
    return Result(
        rewards=REWARDS,
        coefficients=COEFFICIENTS,
        paths=paths,
        learned=paths[:, -1],
        optimal=optimal,
        climbed=np.stack([climb[-1] for climb in climbs]),
        optimal_of_frames=np.stack([_optimum(c) for c in FRAMES]),
        entropies=categorical_entropy(th.from_numpy(optimal).log()).numpy(),
        largest=float(np.log(len(REWARDS))),
        escape_rewards=ESCAPE_REWARDS,
        rare=escapes[0][0, 1],
        bonuses=ESCAPE_COEFFICIENTS,
        escapes=tuple(int((climb[:, 1] > climb[:, 0]).argmax()) for climb in escapes),
        escape_paths=np.stack([climb[:, 1] for climb in escapes]),
        environment_steps=len(COEFFICIENTS) * N_STEPS,
        frames={
            f"{c:g}": Frame(c, {"climb": climb, "optimum": _optimum(c)})
            for c, climb in zip(FRAMES, climbs, strict=True)
        },
    )


def _learn(coefficient: float, seed: int) -> np.ndarray:
    """A2C's policy after each update."""
    settings: dict[str, Any] = dict(learning_rate="lin_1e-1", use_rms_prop=False, policy_kwargs=dict(net_arch=[]))
    env, policies = LeanVecEnv([lambda: Bandit(REWARDS)] * N_ENVS), Policies()
    model = NotesA2C("MlpPolicy", env, ent_coef=coefficient, seed=seed, device="cpu", **settings)
    model.learn(N_STEPS, callback=policies)
    return np.stack([*policies.path, _policy(model)])


def _policy(model: Any) -> np.ndarray:
    (log_probs,) = parameters_of(model.policy, th.from_numpy(NOTHING)[None])
    return probabilities(log_probs)[0].numpy().astype(np.float64)


def _ascend(
    rewards: Sequence[float], logits: Sequence[float], coefficient: float, optimizer_of: Callable[..., Any], steps: int
) -> np.ndarray:
    """The policy before each step up the exact gradient of π·R + c·H."""
    rewards_of, weights = (
        th.tensor(rewards, dtype=th.float64),
        th.tensor([logits], dtype=th.float64, requires_grad=True),
    )
    optimizer, path = optimizer_of([weights]), []
    for _ in range(steps):
        log_probs = log_probabilities(weights)
        path.append(probabilities(log_probs)[0].detach().numpy())
        objective = probabilities(log_probs) @ rewards_of + coefficient * categorical_entropy(log_probs)
        optimizer.zero_grad()
        th.autograd.backward(-objective.sum())
        optimizer.step()
    return np.array(path)


def _optimum(coefficient: float) -> np.ndarray:
    """The closed form: softmax(R/c)."""
    return th.softmax(th.tensor(REWARDS, dtype=th.float64) / coefficient, 0).numpy()


def picture(result: Result, figure: Figure) -> None:
    """What A2C arrives at beside the closed forms, and the way out of a bad certainty."""
    left, right = figure.subplots(1, 2)
    rows = np.arange(len(result.coefficients))
    ends, best = np.cumsum(result.learned, axis=1), np.cumsum(result.optimal, axis=1)
    for arm, reward in enumerate(result.rewards):
        begins = ends[:, arm] - result.learned[:, arm]
        left.barh(rows, result.learned[:, arm], left=begins, color=PALETTE[arm], height=0.6, label=f"pays {reward:g}")
    for row in rows:
        left.vlines(best[row, :2], row - 0.4, row + 0.4, color=INK, linewidth=1.5)
    left.set_yticks(rows, [f"c = {each:g}" for each in result.coefficients])
    left.set(title="A2C's policy; lines: softmax(R/c)", xlabel="probability", xlim=(0, 1))
    left.grid(False)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, handlelength=1, columnspacing=1)
    for i, (coefficient, path) in enumerate(zip(result.bonuses, result.escape_paths, strict=True)):
        right.plot(path, color=PALETTE[i], label=f"c = {coefficient:g}")
    right.set(title="out of a bad certainty", xlabel="steps of exact ascent", ylabel="chance of the better arm")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, handlelength=1, columnspacing=1)


def frame(result: Result, frame: Frame, figure: Figure) -> None:
    """The climb from the uniform policy to the optimum."""
    axes = figure.subplots()
    for i, reward in enumerate(result.rewards):
        axes.plot(frame.curves["climb"][:201, i], color=PALETTE[i], label=f"arm that pays {reward:g}")
        axes.axhline(float(frame.curves["optimum"][i]), color=PALETTE[i], linestyle=":", linewidth=1)
    axes.set(
        title=f"c = {frame.position:g}; dotted: softmax(R/c)", xlabel="steps of exact ascent",
        ylabel="probability", ylim=(-0.03, 1.03), xlim=(0, 200),
    )  # fmt: skip
    axes.legend(loc="center right")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Exact ascent ends in softmax(R/c), for each of five coefficients.",
        result.climbed,
        result.optimal_of_frames,
        2e-3,
        mutant="entropy without its minus",
    )
    yield Claim(
        "A2C on samples ends there too.",
        result.learned,
        result.optimal,
        0.03,
        mutant="entropy bonus with the wrong sign",
    )
    yield Claim(
        "The larger the coefficient, the larger the entropy of what is learned.",
        np.diff(categorical_entropy(th.from_numpy(result.learned).log()).numpy()),
        0.1,
        relation=">",
        mutant="entropy bonus with the wrong sign",
    )
    yield Claim(
        "With a large coefficient the policy is nearly uniform.",
        [result.entropies[2], *(result.learned[2] - 1 / 3)],
        [result.largest, 0, 0, 0],
        0.06,
        mutant="note 21: rewards ten times as large",
    )
    yield Claim(
        "With a small one it is nearly certain of the best arm.",
        result.learned[0][2],
        0.95,
        relation=">",
        mutant="note 21: A2C hardly learns",
    )
    yield Claim(
        "Out of a bad certainty the better arm leads the sooner, the larger the bonus.",
        result.escapes,
        (1114, 702, 408, 168),
        1,
        mutant="entropy without its minus",
    )
