"""Early stop: a policy that has moved too far ends the update, the epoch, or only its own part of it."""

from typing import Any

from sb3_ppo_notes.engine import Trains
from sb3_ppo_notes.rules import UpdateRule


class KLControl:
    """Decides during one update, from KL(old ‖ new), whether learning goes on.

    :param rule: the choices; its early stop has an estimator, a limit and a scope.
    :param verbose: from 1 on, a stop is printed as SB3 prints it.
    """

    def __init__(self, rule: UpdateRule, verbose: int):
        self.early_stop = rule.early_stop
        self.verbose = verbose
        self.stopped_in_epoch: int | None = None
        self.reason: str | None = None
        self._policy_is_over = False
        self.update_is_over = False

    def part_to_train(self, trained: Trains) -> Trains:
        """The part that the next step trains.

        :param trained: the part that the phase is for.
        :return: the critic alone, once the policy has gone too far in a phase for both.
        """
        return "critic" if trained == "both" and self._policy_is_over else trained

    def phase_is_over(self, trained: Trains) -> bool:
        """``True`` if no further epoch follows.

        :param trained: the part that the phase is for.
        :return: ``True`` if the update is over, or the policy is and nobody else is trained.
        """
        return self.update_is_over or (trained == "policy" and self._policy_is_over)

    def note_stop(self, kl: Any, epoch: int) -> None:
        """Note that the KL is above the limit.

        :param kl: mean estimate of KL(old ‖ new); nats.
        :param epoch: number of the epoch in which this was seen.
        """
        stop: Any = self.early_stop
        self.stopped_in_epoch = epoch
        limit = stop.factor * stop.target
        self.reason = f"KL {kl:.3g} > {limit:.3g} nats ({stop.estimator}) in epoch {epoch}"
        self._policy_is_over = stop.scope == "policy"
        self.update_is_over = stop.scope == "update"
        if self.verbose >= 1:
            print(f"Early stopping at step {epoch} due to reaching max kl: {kl:.2f}")
