"""A benchmark from the first program started to the last one ended, and all that it measured."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sb3_ppo_notes.runs.bench.arms import Arm
from sb3_ppo_notes.runs.bench.process import start_workers
from sb3_ppo_notes.runs.bench.rounds import Round, Summary, measure, summarize


@dataclass(frozen=True)
class Results:
    """Everything measured; what is keyed, by arm; ratios are to the first.

    :param build_seconds: for the model, which no other time contains.
    :param cold: the warm-up with an empty cache, if there was one.
    :param evaluations: ``mean`` and ``std`` of the return, and the number of ``episodes``.
    """

    arms: list[str]
    loaded: dict[str, dict[str, Any]]
    build_seconds: dict[str, float]
    rounds: list[Round]
    cold: dict[str, dict[str, Any]]
    evaluations: dict[str, dict[str, float]]

    def summaries(self) -> dict[str, Summary]:
        """Medians, ratios and times by arm."""
        cold_seconds = {arm: run["seconds"] for arm, run in self.cold.items()}
        return {arm: summarize(self.rounds, arm, self.arms[0], cold_seconds.get(arm)) for arm in self.arms}

    def document(self) -> dict[str, Any]:
        """All of it for ``bench.json``."""
        summaries = self.summaries()
        arms = {
            arm: {
                **self.loaded[arm],
                "build_seconds": self.build_seconds[arm],
                "cold_warm_up": self.cold.get(arm),
                "summary": asdict(summaries[arm]),
                "evaluation": self.evaluations[arm],
            }
            for arm in self.arms
        }
        rounds = [asdict(turn) | {"steps_per_second": turn.steps_per_second} for turn in self.rounds]
        return {"reference": self.arms[0], "arms": arms, "rounds": rounds}


def train_all(
    arms: Sequence[Arm],
    rounds: int,
    steps: int,
    episodes: dict[str, int],
    cold_compile: bool,
    tell: Callable[[str, int], None],
) -> Results:
    """Measure the arms, each in a program of its own, all ended when this returns or raises.

    With ``cold_compile`` what compiles is trained once more before, with an empty cache that the rounds then use.
    ``tell`` is called before each turn with the arm and the round. One that fails, or did not run as called, is an
    error.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # One folder each: two variants may compile the same code, and the second would find the first one's.
        compiling = [arm for arm in arms if arm.compiles] if cold_compile else []
        caches = {arm.name: Path(folder, str(i)) for i, arm in enumerate(compiling)}
        cold = {arm.name: _train_once(arm, caches, steps) for arm in compiling}
        with start_workers(arms, caches) as workers:
            # All load at the same time, which nothing is measured of; from here on one works and the others wait.
            loaded = {name: worker.receive() for name, worker in workers.items()}
            build_seconds = {name: worker.ask("build")["seconds"] for name, worker in workers.items()}
            promises = {arm.name: "compiled" for arm in arms if arm.compiles}
            turns = measure(workers, rounds, steps, tell, promises)
            evaluations = {name: worker.ask("evaluate", **episodes) for name, worker in workers.items()}
    return Results([arm.name for arm in arms], loaded, build_seconds, turns, cold, evaluations)


def _train_once(arm: Arm, caches: dict[str, Path], steps: int) -> dict[str, Any]:
    with start_workers([arm], caches) as workers:
        workers[arm.name].receive()
        built = workers[arm.name].ask("build")
        return workers[arm.name].ask("learn", steps=steps) | {"build_seconds": built["seconds"]}
