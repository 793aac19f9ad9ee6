"""In which order does it all happen?

Act, step, remember, T times; then advantages; then some epochs of minibatches; then the rollout is forgotten and it
begins again. A callback that writes down what it is called for, in {n_envs} environments with `n_steps={n_steps}`,
`batch_size={batch_size}` and `n_epochs={n_epochs}`, over {timesteps} environment steps, has this list: the training
starts; then {n_updates} times a rollout starts, {n_steps} steps are made, the rollout ends, and for each of {n_epochs}
epochs {per_epoch} minibatches are stepped on and the epoch is over, and the update with them; and the training ends.

Four things in it are asked for again and again:

* **Counters never go back.** `num_timesteps` counts the steps of all environments together, {counter[0]}, {counter[1]},
  {counter[2]} … {counter[5]}, whatever ends meanwhile: schedules and logs are of the *training*, not of an episode. An
  episode's duration is another number again, that of its own steps. (In batch-ppo's test environment it is even drawn
  beforehand; the episode is done when as many steps are made.)
* **Only what has ended is reset.** Where one environment of a batch is done, the batch of observations holds the
  *first* observation of its next episode in that row, and the other rows go on; the last observation of the old one is
  in `infos`. That is what `scatter_update` does in a TensorFlow graph.
* **A phase has a length and a report.** batch-ppo trains and evaluates in turn; the length is the steps of one turn,
  and a report is due every so many steps of *that* phase, counted on over its turns. Phases of {phase_lengths[0]},
  {phase_lengths[1]} and {phase_lengths[2]} steps that report each step come as {phases_in_words}. A report is the mean
  over episodes that *ended* since the last one: {batch_mean:g} in batch-ppo's own example of two environments.
* **Nothing changes behind one's back.** What one update needs is in frozen dataclasses, as batch-ppo's `AttrDict`
  cannot be written to: what was logged at the beginning is what was run. (An attribute that is missing there is `None`;
  here it is an error.)

In a graph of TensorFlow a branch is a function handed to `tf.cond`, because a Python `if` would be decided once, when
the graph is built. PyTorch runs the `if` each time, and so the loop here is a loop.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.callbacks import Phase
from sb3_ppo_notes.callbacks.phases import PhaseLoop
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.notes.environments import Countdown
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.rollouts import collect_rollouts

NOTE = Note(
    name="order",
    number=27,
    titles=dict(
        en="In which order does it all happen?",
        ja="全体はどの順で進むのか",
        fr="Dans quel ordre tout cela se passe-t-il ?",
        ko="전체는 어떤 순서로 일어나는가?",
    ),
    answers=("2.2", "2.3", "2.6", "2.7", "2.8", "2.9", "2.11", "2.12"),
    formulas=(NotesPPO.learn, collect_rollouts, PhaseLoop.advance),
    tests=(
        "tests/algorithms/test_watching.py::test_every_minibatch_epoch_and_update_is_told_in_order",
        "tests/callbacks/test_phases.py::test_phases_take_turns",
        "tests/callbacks/test_phases.py::test_a_batch_makes_as_many_steps_and_counts_every_finished_one",
    ),
)
LENGTHS, N_STEPS, BATCH_SIZE, N_EPOCHS, TIMESTEPS = (2, 3), 3, 3, 2, 12
PHASES = (Phase("1", 1, report_every=1), Phase("2", 3, report_every=1), Phase("3", 2, report_every=1))
LANES = ("training", "rollout", "step", "minibatch", "epoch", "update")


class Result(NamedTuple):
    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    timesteps: int
    n_updates: int
    per_epoch: int
    events: tuple[str, ...]
    expected: tuple[str, ...]
    counter: tuple[int, ...]
    dones: np.ndarray  # [6, 2]
    observations: np.ndarray  # [6, 2], how far each episode is
    last_observations: tuple[float, ...]  # of the episodes that ended, as infos have them
    phase_lengths: tuple[int, ...]
    phases: tuple[float, ...]
    phases_in_words: str
    batch_mean: float
    environment_steps: int


class Trace(BaseCallback):
    """Writes down what it is called for."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.counter: list[int] = []
        self.dones: list[np.ndarray] = []
        self.observations: list[np.ndarray] = []
        self.last_observations: list[float] = []

    def _on_training_start(self) -> None:
        self.events.append("training starts")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout starts")

    def _on_step(self) -> bool:
        self.events.append("step")
        self.counter.append(self.num_timesteps)
        self.dones.append(self.locals["dones"].copy())
        self.observations.append(self.locals["new_obs"][:, 0].copy())
        infos = (info for info in self.locals["infos"] if "terminal_observation" in info)
        self.last_observations += [float(info["terminal_observation"][0]) for info in infos]
        return True

    def _on_rollout_end(self) -> None:
        self.events.append("rollout ends")

    def on_minibatch(self, report: Any) -> None:
        """Note a minibatch.

        :param report: of it.
        """
        self.events.append("minibatch")

    def on_epoch(self, report: Any) -> None:
        """Note an epoch's end.

        :param report: of it.
        """
        self.events.append("epoch")

    def on_update(self, report: Any) -> None:
        """Note an update's end.

        :param report: of it.
        """
        self.events.append("update")

    def _on_training_end(self) -> None:
        self.events.append("training ends")


def experiment(seed: int = 0) -> Result:
    """A training that is written down, and phases that take turns."""
    trace = Trace()
    env = LeanVecEnv([partial(Countdown, length) for length in LENGTHS])
    sizes: dict[str, Any] = dict(n_steps=N_STEPS, batch_size=BATCH_SIZE, n_epochs=N_EPOCHS)
    NotesPPO("MlpPolicy", env, **sizes, seed=seed, device="cpu").learn(TIMESTEPS, callback=trace)
    n_updates, per_epoch = TIMESTEPS // N_STEPS // len(LENGTHS), N_STEPS * len(LENGTHS) // BATCH_SIZE
    one = ["rollout starts", *["step"] * N_STEPS, "rollout ends"]
    one += [*[*["minibatch"] * per_epoch, "epoch"] * N_EPOCHS, "update"]
    phases = _reports(PHASES, 15, lambda loop: [(float(loop.position.phase.name), True)])
    batch = [Phase("a", 1, report_every=8)]
    (mean,) = _reports(batch, 8, lambda loop: [(loop.step, loop.step % 3 == 0), (loop.step**2, loop.step % 4 == 0)])
    return Result(
        n_envs=len(LENGTHS),
        n_steps=N_STEPS,
        batch_size=BATCH_SIZE,
        n_epochs=N_EPOCHS,
        timesteps=TIMESTEPS,
        n_updates=n_updates,
        per_epoch=per_epoch,
        events=tuple(trace.events),
        expected=("training starts", *one * n_updates, "training ends"),
        counter=tuple(trace.counter),
        dones=np.array(trace.dones),
        observations=np.array(trace.observations),
        last_observations=tuple(trace.last_observations),
        phase_lengths=tuple(phase.steps for phase in PHASES),
        phases=tuple(phases),
        phases_in_words=", ".join(f"{each:g}" for each in phases),
        batch_mean=mean,
        environment_steps=TIMESTEPS,
    )


def _reports(
    phases: Sequence[Phase], most: int, environments: Callable[[PhaseLoop], list[tuple[float, bool]]]
) -> list[float]:
    """The means that a loop reports; each environment has a score, and whether it is of an episode's end."""
    loop, means = PhaseLoop(phases), []
    while loop.step < most:
        scores, dones = zip(*environments(loop), strict=True)
        report = loop.advance(len(scores), np.array(scores, float), np.array(dones))
        if report is not None and report.mean is not None:
            means.append(report.mean)
    return means


def picture(result: Result, figure: Figure) -> None:
    """The list on a line of time, a lane for each kind of event."""
    axes = figure.subplots()
    for i, event in enumerate(result.events):
        lane = next(lane for lane, word in enumerate(LANES) if event.startswith(word))
        marker = ">" if event.endswith("starts") else "<" if event.endswith("ends") else "o"
        axes.plot(i, lane, marker, color=PALETTE[lane % 6], markersize=7)
    for begin, end, lane in _spans(result.events):
        axes.plot([begin, end], [lane, lane], color=PALETTE[lane], linewidth=3, alpha=0.4)
    axes.set_yticks(range(len(LANES)), LANES)
    axes.invert_yaxis()
    axes.set(xlabel="in the order of time", xticks=[])


def _spans(events: tuple[str, ...]) -> Iterator[tuple[int, int, int]]:
    """From where to where training and rollouts last."""
    for lane in (0, 1):
        begins, ends = (
            [i for i, each in enumerate(events) if each == f"{LANES[lane]} {w}"] for w in ("starts", "ends")
        )
        for begin, end in zip(begins, ends, strict=False):
            yield begin, end, lane


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Everything is called in this order, and nothing else.",
        result.events == result.expected,
        mutant="note 27: nobody is told of the end",
    )
    yield Claim(
        "The counter counts the steps of all environments and never goes back.",
        result.counter,
        (2, 4, 6, 8, 10, 12),
        mutant="note 27: a step of all environments counts once",
    )
    yield Claim(
        "After an end only that row is a first observation.",
        result.observations == 0,
        result.dones,
        mutant="note 27: all are reset with one",
    )
    yield Claim(
        "The last observation of an episode that ended is in infos.",
        sorted(set(result.last_observations)),
        [2, 3],
        mutant="note 27: the last observation is lost",
    )
    yield Claim(
        "Phases take turns, each for its length.",
        result.phases,
        (1, 2, 2, 2, 3, 3, 1, 2, 2, 2, 3, 3, 1, 2, 2),
        mutant="note 27: a phase goes on for a step",
    )
    yield Claim(
        "A report is the mean over the episodes that ended.",
        result.batch_mean,
        (0 + 0 + 16 + 6) / 4,
        mutant="note 27: a report counts all scores",
    )
