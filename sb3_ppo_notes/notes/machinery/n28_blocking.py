"""What runs when it does not block?

The environments. `step_async` sends every worker its action and returns; all workers compute at the same time, whether
anybody waits or not. Only the parent's *wait* is put off, to `step_wait`. "Blocking" says who waits where, not whether
the work is done.

How can one be sure without a clock? By environments that *meet*: each step leaves a file and returns only when all have
left theirs, and the reward is the number of guests it has seen. Three such environments one after the other in one
process cannot meet: the first waits in vain, gives up, and so on; they see {in_turn[0]:g}, {in_turn[1]:g} and
{in_turn[2]:g} guests. Three in processes of their own see {at_once[0]:g}, {at_once[1]:g} and {at_once[2]:g}: all were
in the middle of a step at the same time. And after `step_async` the parent is free. It can come to a meeting of four as
the last guest itself, before it asks for anybody's answer; the three then see {with_parent[0]:g}, {with_parent[1]:g}
and {with_parent[2]:g}.

An environment in a process of its own has the same interface as a plain one, and differs in three things. It does not
share Python's one lock with the others. Every action and every observation has to be sent, so that light environments
are *slower* that way. And it can break by itself: if it raises, the parent gets an `{error}` that names environment
{broken} and brings the traceback from inside along; if it hangs, it is killed and named.

What is left of the workers when the parent goes? After a normal end, or an exception, nothing: closing is registered to
run at exit, as Go's `defer` runs at the end of a function. SIGKILL leaves no time to run anything. On Linux the kernel
then ends the workers, because they have asked it to; elsewhere each worker looks now and then whether its parent is
alive.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import EnvWorkerError, LeanVecEnv, SupervisedVecEnv
from sb3_ppo_notes.notes.environments import Meeting, arrive
from sb3_ppo_notes.notes.note import Claim, Note

NOTE = Note(
    name="blocking",
    number=28,
    titles=dict(
        en="What runs when it does not block?",
        ja="blocking=Falseのとき何が動いているのか",
        fr="Que se passe-t-il quand on n'attend pas ?",
        ko="blocking=False일 때 무엇이 실행되는가?",
    ),
    answers=("2.1", "2.4", "2.10", "A23"),
    formulas=(SupervisedVecEnv.step_async, SupervisedVecEnv.step_wait),
    tests=(
        "tests/envs/test_supervised_vec_env.py::test_a_step_is_begun_everywhere_before_any_is_awaited",
        "tests/envs/test_supervised_orphans.py::test_no_process_is_left_when_the_parent_is_killed",
    ),
)
N_ENVS = 3
#: Seconds. In one process nobody will come; in three they come as soon as the machine lets them.
SHORT, LONG = 0.1, 10.0
#: A fork needs no second import of this package, nor a main module that may be imported again.
START_METHOD = "fork" if "fork" in multiprocessing.get_all_start_methods() else None


class Result(NamedTuple):
    in_turn: np.ndarray  # [3], guests that each environment has seen
    at_once: np.ndarray  # [3]
    with_parent: np.ndarray  # [3]
    turns: np.ndarray  # [2, 3], how many had gone when each came, in one process and in three
    error: str
    broken: int
    has_traceback: bool
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """Three environments that meet: in one process, and in three; the parent as a guest; one that breaks."""
    actions = np.zeros(N_ENVS, dtype=int)
    with tempfile.TemporaryDirectory() as folder:
        one_process = LeanVecEnv(_guests(folder, SHORT))
        one_process.reset()
        _, in_turn, _, infos_in_turn = one_process.step(actions)
    with tempfile.TemporaryDirectory() as folder:
        processes = SupervisedVecEnv(_guests(folder, LONG), START_METHOD)
        processes.reset()
        _, at_once, _, infos_at_once = processes.step(actions)
        with_parent = _meet_the_parent(processes, folder, actions)
        error = _break(processes, folder, actions)
        processes.close()
    return Result(
        in_turn=np.asarray(in_turn, float),
        at_once=np.asarray(at_once, float),
        with_parent=with_parent,
        turns=np.stack([_turns(infos_in_turn), _turns(infos_at_once)]),
        error=type(error).__name__,
        broken=-1 if error.index is None else error.index,
        has_traceback="in arrive" in (error.traceback or ""),
        environment_steps=4 * N_ENVS,
    )


def _guests(folder: str, patience: float) -> list[Any]:
    return [partial(Meeting, folder, guest, N_ENVS, patience) for guest in range(N_ENVS)]


def _meet_the_parent(processes: SupervisedVecEnv, folder: str, actions: np.ndarray) -> np.ndarray:
    """A second meeting that needs one guest more: this process, between the two halves of a step."""
    processes.set_attr("guests", N_ENVS + 1)
    processes.step_async(actions)
    arrive(Path(folder), guest=N_ENVS, step=2)
    return np.asarray(processes.step_wait()[1], float)


def _break(processes: SupervisedVecEnv, folder: str, actions: np.ndarray) -> EnvWorkerError:
    """What is raised when an environment cannot write its file."""
    processes.set_attr("guests", 1)
    processes.set_attr("folder", Path(folder) / "nowhere", indices=1)
    try:
        processes.step(actions)
    except EnvWorkerError as error:
        return error
    return EnvWorkerError("nothing was raised")


def _turns(infos: Any) -> np.ndarray:
    """How many had left their step when an environment came to its own: an order, and no times."""
    came, went = (np.array([info[word] for info in infos]) for word in ("came", "went"))
    return np.asarray((went[None, :] <= came[:, None]).sum(1))


def picture(result: Result, figure: Figure) -> None:
    """In which order the environments were in their step, and whom they saw there."""
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, turns, seen, title, color in (
        (upper, result.turns[0], result.in_turn, "one process: one after the other", PALETTE[1]),
        (lower, result.turns[1], result.at_once, "three processes: all at once", PALETTE[0]),
    ):
        axes.barh(range(N_ENVS), 0.94, left=turns, color=color, height=0.7)
        for guest, (turn, guests) in enumerate(zip(turns, seen, strict=True)):
            axes.text(turn + 0.47, guest, f"has seen {guests:g}", ha="center", va="center", color="white")
        axes.set_yticks(range(N_ENVS), [f"environment {guest}" for guest in range(N_ENVS)])
        axes.invert_yaxis()
        axes.set_title(title)
        axes.grid(False)
    lower.set(xlim=(-0.03, N_ENVS), xticks=range(N_ENVS), xlabel="so many had left their step before it came")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "In one process the environments step one after the other: each sees those before it.",
        result.in_turn,
        [1, 2, 3],
        mutant="note 28: a guest believes that all have come",
    )
    yield Claim(
        "In three processes all are in their step at the same time.",
        result.at_once,
        [3, 3, 3],
        mutant="steps are awaited one by one",
    )
    yield Claim(
        "After step_async the parent is free: it is itself the last guest of a meeting.",
        result.with_parent,
        [4, 4, 4],
        mutant="steps are awaited one by one",
    )
    yield Claim(
        "By their clocks too: in one process each came after the others had gone, in three before.",
        result.turns,
        [[0, 1, 2], [0, 0, 0]],
        mutant="steps are awaited one by one",
    )
    yield Claim(
        "An environment that raises is named, with the traceback from inside its process.",
        [result.error == "EnvWorkerError", result.broken == 1, result.has_traceback],
        [True, True, True],
        mutant="note 28: the traceback stays in the process",
    )
