"""The measuring, round by round in turn, and the numbers that follow."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Any, Protocol

from sb3_ppo_notes.formulas.checks import InvalidValueError

#: Steps of the environment-only loop in each round, at most: it is fast, and steady long before.
FLOOR_STEPS = 16_384


class Asked(Protocol):
    """Something that trains when asked to: a ``Worker``, or a test's stand-in."""

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Answer a request."""


@dataclass(frozen=True)
class Round:
    """One arm in one round.

    :param number: 0 is the warm-up, in which whatever compiles does so.
    :param started: seconds since the benchmark began, as :attr:`ended`; no other arm ran in between.
    :param seconds: of the training, on the worker's clock.
    :param cpu_seconds: processor time of all the worker's threads.
    :param floor_steps_per_second: of the environments alone.
    :param ran_as: executor of the gradient steps of the round's last update; ``None`` for a peer's.
    :param report: ``model.engine.report()`` in words, likewise.
    :param exchange_seconds: of the training, in which the first of several processes exchanged numbers with the others,
        or waited for them; ``None`` for one process.
    """

    number: int
    arm: str
    started: float
    ended: float
    steps: int
    seconds: float
    cpu_seconds: float
    floor_steps_per_second: float
    ran_as: str | None = None
    report: str | None = None
    exchange_seconds: float | None = None

    @property
    def steps_per_second(self) -> float:
        """Speed of the training."""
        return self.steps / self.seconds


@dataclass(frozen=True)
class Summary:
    """The rounds of one arm together.

    :param steps_per_second: median over the rounds, without the warm-up.
    :param ratio: that median over the first peer's.
    :param lowest_ratio: of any round, to the first peer in the same round.
    :param highest_ratio: likewise.
    :param floor_steps_per_second: median of the environments alone.
    :param share_of_floor: how near it comes to them; 1 would be training for nothing.
    :param compile_seconds: what the warm-up took beyond the same steps at the median speed.
    :param total_steps: N, all steps of an arm.
    :param seconds_to_total: for the N steps in a fresh process: the warm-up, and the rest at the median speed.
    :param cores: processors kept busy, median.
    :param cold_compile_seconds: as ``compile_seconds``, of a warm-up with an empty cache; ``None`` if there was none.
    :param cold_seconds_to_total: as ``seconds_to_total``, likewise.
    :param ran_as: what carried out the gradient steps from the end of the warm-up on, ``None`` for a peer's; more than
        one name where it changed in between.
    :param share_of_exchange: of the time, median; ``None`` for one process.
    """

    steps_per_second: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    floor_steps_per_second: float
    share_of_floor: float
    compile_seconds: float
    total_steps: int
    seconds_to_total: float
    cores: float
    cold_compile_seconds: float | None = None
    cold_seconds_to_total: float | None = None
    ran_as: str | None = None
    share_of_exchange: float | None = None


def measure(
    workers: Mapping[str, Asked],
    rounds: int,
    steps: int,
    tell: Callable[[str, int], None],
    promises: Mapping[str, str] = MappingProxyType({}),
) -> list[Round]:
    """Train each in turn while the others wait, ``rounds`` times after one round of warm-up.

    The first to begin moves on by one from round to round: a machine that warms up or slows down favours nobody.
    ``promises`` are the executors that the arms' names promise; another one is a ``ValueError`` at once.
    """
    began = time.perf_counter()
    names = list(workers)
    results = []
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            tell(name, number)
            started = time.perf_counter() - began
            floor = workers[name].ask("floor", steps=min(steps, FLOOR_STEPS))
            learned = workers[name].ask("learn", steps=steps)
            check_promise(name, promises.get(name), learned.get("ran_as"), learned.get("report"))
            results.append(
                Round(
                    number=number,
                    arm=name,
                    started=started,
                    ended=time.perf_counter() - began,
                    steps=learned["steps"],
                    seconds=learned["seconds"],
                    cpu_seconds=learned["cpu_seconds"],
                    floor_steps_per_second=floor["steps"] / floor["seconds"],
                    ran_as=learned.get("ran_as"),
                    report=learned.get("report"),
                    exchange_seconds=learned.get("exchange_seconds"),
                )
            )
    return results


def check_promise(arm: str, promised: str | None, ran_as: str | None, report: str | None) -> None:
    """Refuse to show a row under the name of what it did not do."""
    if promised is not None and ran_as != promised:
        raise InvalidValueError(f"ours must run as it is called, got {arm!r}, which is not {promised} here: {report}")


def summarize(rounds: Sequence[Round], arm: str, reference: str, cold_seconds: float | None = None) -> Summary:
    """The numbers of one arm; ``cold_seconds`` of another warm-up of as many steps, with an empty cache."""
    warm_up, *steady = sorted((turn for turn in rounds if turn.arm == arm), key=lambda turn: turn.number)
    others = {turn.number: turn.steps_per_second for turn in rounds if turn.arm == reference}
    speed = median(turn.steps_per_second for turn in steady)
    floor = median(turn.floor_steps_per_second for turn in steady)
    ratios = [turn.steps_per_second / others[turn.number] for turn in steady]
    steps_after_warm_up = sum(turn.steps for turn in steady)
    seconds_after_warm_up = steps_after_warm_up / speed
    return Summary(
        steps_per_second=speed,
        ratio=speed / median(others[turn.number] for turn in steady),
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
        floor_steps_per_second=floor,
        share_of_floor=speed / floor,
        compile_seconds=compile_seconds(warm_up.seconds, warm_up.steps, speed),
        total_steps=warm_up.steps + steps_after_warm_up,
        seconds_to_total=warm_up.seconds + seconds_after_warm_up,
        cores=median(turn.cpu_seconds / turn.seconds for turn in steady),
        cold_compile_seconds=None if cold_seconds is None else compile_seconds(cold_seconds, warm_up.steps, speed),
        cold_seconds_to_total=None if cold_seconds is None else cold_seconds + seconds_after_warm_up,
        # Where the warm-up ended the first round began.
        share_of_exchange=_median([turn.exchange_seconds and turn.exchange_seconds / turn.seconds for turn in steady]),
        ran_as=", ".join(dict.fromkeys(turn.ran_as for turn in [warm_up, *steady] if turn.ran_as)) or None,
    )


def _median(shares: Sequence[float | None]) -> float | None:
    return None if any(share is None for share in shares) else median(share for share in shares if share is not None)


def compile_seconds(seconds: float, steps: int, steps_per_second: float) -> float:
    """Seconds that a first training took beyond its steps at the speed of those after it.

    Slightly below 0 where nothing was compiled and the clock was lucky.

    >>> compile_seconds(seconds=9.0, steps=1000, steps_per_second=500.0)
    7.0
    """
    return seconds - steps / steps_per_second
