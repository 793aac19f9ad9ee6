"""A trial that ended without a result is queued again, by whoever learns of it: a worker, or the storage itself."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

#: A trial whose worker dies again and again takes too much memory, or breaks the machine.
MOST_DEATHS = 2
#: What of a trial holds for its retry too; the rest is about the attempt.
INHERITED = ("origin", "planned", "arm", "seed")


def requeue(study: optuna.Study, trial: FrozenTrial, reason: str) -> bool:
    """Queue a trial again with the same parameters, unless its workers died too often.

    The reason is ``"stale"`` for a dead worker's, ``"preempted"`` for one that was asked to stop.
    """
    deaths = trial.user_attrs.get("deaths", 0) + (reason == "stale")
    if deaths > MOST_DEATHS:
        return False
    history = [*trial.user_attrs.get("retry_history", []), trial.number]
    attributes = {name: trial.user_attrs[name] for name in INHERITED if name in trial.user_attrs}
    attributes |= {"retry_of": trial.number, "retry_history": history, "deaths": deaths}
    system = {name: trial.system_attrs[name] for name in ("fixed_params",) if name in trial.system_attrs}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes,
            # Under these names Optuna's own tools find the history.
            system_attrs={**system, "failed_trial": history[0], "retry_history": history},
        )
    )
    return True


def requeue_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a dead trial again."""
    requeue(study, trial, "stale")
