"""The base of all callbacks that look at updates: a hook of our algorithms, the log of SB3's own."""

import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.algorithms.probe import Probe
from sb3_ppo_notes.algorithms.report import KLEstimates, Scale, UpdateReport
from sb3_ppo_notes.callbacks.layout import add_layout
from sb3_ppo_notes.formulas.checks import InvalidTypeError, check_flag, check_integer

logger = logging.getLogger("sb3_ppo_notes")

#: Environment steps that one look at an update should stand for. A2C updates every 40 of them: to look at each would
#: cost more than a tenth of its time.
STEPS_PER_LOOK = 2048

#: Arrays of a rollout whose scale is reported.
SCALES = ("advantages", "values", "returns")


class TrainingWarning(UserWarning):
    """Something about the training deserves a look."""


class UpdateCallback(BaseCallback):
    """Looks at updates: all of NotesPPO's and NotesA2C's numbers, and of a stock SB3 model what it logs.

    Stock SB3 is looked at when the next rollout begins, which is right after its update. It does not say what happened
    in an epoch or a minibatch; :attr:`cannot_see` names what that leaves out.

    :param every: look at every so many updates; ``None`` for as many as make up 2,048 environment steps.
    :param verbose: 1 tells once what cannot be seen of a stock model.
    :raises TypeError: when training starts, if the model is not an on-policy one.
    """

    #: Hidden from this callback by stock SB3.
    cannot_see: tuple[str, ...] = ()
    #: Measure the exact KL.
    needs_exact_kl: bool = False
    #: Keep some states of a stock model's rollout until it has learned from them.
    needs_probe: bool = False

    def __init__(self, every: int | None = None, verbose: int = 0):
        super().__init__(verbose)
        if every is not None:
            check_integer("every", every, minimum=1)
        self.every = every
        #: Text of every warning so far, by the name of its rule: each is given once.
        self.warned: dict[str, str] = {}
        #: Set to end the training at its next step.
        self.wants_to_stop = False
        self._n_asked = 0
        self._probe: Probe | None = None
        self._scales: dict[str, Scale] = {}
        self._n_updates = 0

    def _watch(self, report: UpdateReport) -> None:
        """Look at an update; log, warn, stop."""
        raise NotImplementedError

    # -- our algorithms: the hook ------------------------------------------------------------------------------

    def asks(self) -> bool:
        """Ask for a report of the update that begins.

        :return: ``True`` for every ``every``-th.
        """
        self._n_asked += 1
        return (self._n_asked - 1) % self._period() == 0

    def on_update(self, report: UpdateReport) -> None:
        """Look at an update.

        :param report: of NotesPPO or NotesA2C.
        """
        self._watch(report)

    def _period(self) -> int:
        model: Any = self.model
        return self.every or max(1, STEPS_PER_LOOK // (model.n_steps * model.n_envs))

    # -- SB3's events --------------------------------------------------------------------------------------------

    def _init_callback(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise InvalidTypeError(
                f"{type(self).__name__} needs NotesPPO, NotesA2C, PPO or A2C (or another on-policy algorithm), got "
                f"{type(self.model).__name__}"
            )
        self.is_stock = not isinstance(self.model, NotesOnPolicyAlgorithm)

    def _on_training_start(self) -> None:
        self.wants_to_stop = False
        self._probe = None
        self._n_updates = self.model._n_updates
        add_layout(self.logger)
        if self.is_stock and self.cannot_see and self.verbose >= 1:
            logger.warning(
                "%s watches a stock %s, which does not show %s; NotesPPO and NotesA2C do",
                type(self).__name__,
                type(self.model).__name__,
                ", ".join(self.cannot_see),
            )

    def _on_rollout_start(self) -> None:
        self._look_at_stock()

    def _on_rollout_end(self) -> None:
        # A stock buffer is emptied before the next event, and shuffled before that.
        if self.is_stock and self._n_asked % self._period() == 0:
            model: Any = self.model
            self._scales = {name: Scale.of(getattr(model.rollout_buffer, name)) for name in SCALES}
            self._probe = Probe.of(model.policy, model.rollout_buffer) if self.needs_probe else None

    def _on_training_end(self) -> None:
        self._look_at_stock()

    def _on_step(self) -> bool:
        return not self.wants_to_stop

    def _look_at_stock(self) -> None:
        n_updates = self.model._n_updates
        if not self.is_stock or n_updates == self._n_updates:
            return
        self._n_updates = n_updates
        if self.asks():
            self._watch(stock_report(self.model, self._scales, self._probe))
        self._probe = None

    # -- what they say -------------------------------------------------------------------------------------------

    def _warn(self, rule: str, text: str) -> None:
        """Give a warning, once for each rule."""
        if rule not in self.warned:
            self.warned[rule] = text
            warnings.warn(f"{text} ({self.num_timesteps:,} steps)", TrainingWarning, stacklevel=3)


class BandCallback(UpdateCallback):
    """Warns, calls back and stops when a measure has been outside its band for ``patience`` updates in a row."""

    def __init__(
        self,
        sides: tuple[str, ...],
        patience: int,
        stop: bool,
        on_leave: Callable[[UpdateReport], Any] | None,
        every: int | None,
        verbose: int,
    ):
        super().__init__(every, verbose)
        check_integer("patience", patience, minimum=1)
        check_flag("stop", stop)
        # It would end a training in its midst when the time comes to call it.
        if on_leave is not None and not callable(on_leave):
            raise InvalidTypeError(f"on_leave must be a function of an UpdateReport or None, got {on_leave!r}")
        self.patience, self.stop, self.on_leave = patience, stop, on_leave
        self._n_outside = dict.fromkeys(sides, 0)

    def _judge(self, side: str, is_outside: bool, text: str, report: UpdateReport) -> None:
        self._n_outside[side] = self._n_outside[side] + 1 if is_outside else 0
        if self._n_outside[side] < self.patience:
            return
        self._warn(side, text)
        if self.on_leave is not None:
            self.on_leave(report)
        if self.stop:
            self.wants_to_stop = True


def stock_report(model: Any, scales: dict[str, Scale], probe: Probe | None = None) -> UpdateReport:
    """A report of the last update from what a stock SB3 model logs, NaN for whatever it does not.

    To be made before its next rollout is over.
    """
    logged = {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")}

    def number(name: str) -> float:
        return float(logged.get(f"train/{name}", math.nan))

    approx_kl = number("approx_kl")
    return UpdateReport(
        # PPO calls it the policy gradient's loss, A2C the policy's.
        policy_loss=number("policy_gradient_loss" if "train/policy_gradient_loss" in logged else "policy_loss"),
        value_loss=number("value_loss"),
        entropy_loss=number("entropy_loss"),
        approx_kl=approx_kl,
        clip_fraction=number("clip_fraction"),
        loss=number("loss"),
        explained_variance=number("explained_variance"),
        gradient_norm=math.nan,
        n_gradient_steps=0,
        stopped_in_epoch=None,
        n_updates=model._n_updates,
        num_timesteps=model.num_timesteps,
        kl=(KLEstimates(math.nan, math.nan, approx_kl),),
        kl_after=() if probe is None else (probe.kl(),),
        learning_rate=number("learning_rate"),
        advantages=scales.get("advantages"),
        values=scales.get("values"),
        returns=scales.get("returns"),
    )
