"""The budget of a study: environment steps, shared by all its workers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

#: Trials that never ran: the budget did not suffice, they were queued twice, or for a configuration that was changed.
NEVER_RAN = ("budget", "duplicate", "changed")
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def steps_used(trials: Iterable[FrozenTrial]) -> int:
    """Environment steps that trials took, whatever became of them."""
    return sum(trial.user_attrs.get("env_steps", 0) for trial in trials)


def whole_rollouts(total_timesteps: int, rollout: int) -> int:
    """Environment steps of a run: like SB3 it gathers whole rollouts.

    >>> whole_rollouts(5000, 2048)
    6144
    """
    return math.ceil(total_timesteps / rollout) * rollout


def steps_left_of(trial: FrozenTrial, least: int) -> int:
    """Environment steps that a running or waiting trial may still take; ``least`` is the shortest trial's."""
    planned = trial.user_attrs.get("planned")
    if planned is None:
        return 2 * least  # rollouts are at most half a trial, so this is the most it can be
    done = trial.user_attrs.get("resumed_at", 0) + trial.user_attrs.get("env_steps", 0)
    return max(0, int(planned) - int(done))


@dataclass(frozen=True)
class Limits:
    """The end of a search; at least one of the first three is given.

    ``env_steps`` covers search and finalists, ``max_trials`` complete and pruned trials, ``timeout`` seconds of search.
    Steps for ``n_reruns`` runs of the finalists are kept back; ``least`` is what a trial takes at least.
    """

    env_steps: int | None
    max_trials: int | None
    timeout: float | None
    n_reruns: int
    least: int
    _start: float = field(default_factory=lambda: time.monotonic(), compare=False)

    def __post_init__(self) -> None:
        if self.env_steps is None and self.max_trials is None and self.timeout is None:
            raise ValueError(
                "budget must be given, or max_trials, or timeout: otherwise the study never ends, got none"
            )
        if self.max_trials is not None and self.max_trials < 1:
            raise ValueError(f"max_trials must be >= 1, got {self.max_trials}")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be > 0 seconds, got {self.timeout}")
        if self.env_steps is None:
            return
        if self.env_steps < 1:
            raise ValueError(f"budget must be >= 1, got {self.env_steps}")
        needed = (self.n_reruns + 1) * self.least
        if self.env_steps < needed:
            raise ValueError(
                f"budget must be >= {needed} environment steps, one trial of {self.least} and {self.n_reruns} runs of "
                f"the finalists, got {self.env_steps} (make n_timesteps, finalists or finalist_seeds smaller)"
            )

    def is_time_over(self) -> bool:
        """True if the timeout has passed, by a clock that nobody can set."""
        return self.timeout is not None and time.monotonic() - self._start >= self.timeout

    def kept_for_finalists(self, trials: Iterable[FrozenTrial]) -> int:
        """Environment steps that the finalists need, were they the longest trials so far."""
        longest = max((trial.user_attrs.get("planned", 0) for trial in trials), default=0)
        return self.n_reruns * max(self.least, longest)

    def allow(self, trials: Sequence[FrozenTrial], number: int, planned: int, used_by_finalists: int = 0) -> bool:
        """True if a trial may run for ``planned`` more steps.

        Of trials that ask at the same time the one with the lower number goes first.
        """
        others = [trial for trial in trials if trial.number != number]
        running = [trial for trial in others if trial.state is TrialState.RUNNING and _comes_before(trial, number)]
        retries = [trial for trial in others if trial.state is TrialState.WAITING and "retry_of" in trial.user_attrs]
        done = sum(trial.state in DONE for trial in others)
        if self.max_trials is not None and done + len(running) + len(retries) >= self.max_trials:
            return False
        if self.env_steps is None:
            return True
        promised = sum(steps_left_of(trial, self.least) for trial in [*running, *retries])
        runs = [trial for trial in others if trial.user_attrs.get("admitted") or trial in retries]
        own = [trial for trial in trials if trial.number == number]
        reserve = max(0, self.kept_for_finalists([*runs, *own]) - used_by_finalists)
        return steps_used(others) + used_by_finalists + promised + planned + reserve <= self.env_steps

    def has_room(self, trials: Sequence[FrozenTrial], used_by_finalists: int = 0) -> bool:
        """True if the shortest trial would still fit, so that it makes sense to ask for one."""
        return self.allow(trials, len(trials), self.least, used_by_finalists)


def _comes_before(trial: FrozenTrial, number: int) -> bool:
    return trial.number < number or bool(trial.user_attrs.get("admitted"))
