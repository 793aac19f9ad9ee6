"""The hook that SB3 lacks: callbacks that see every update, epoch or minibatch.

A callback asks by having a method ``on_update``, ``on_epoch`` or ``on_minibatch`` that takes an
:class:`~sb3_ppo_notes.algorithms.report.UpdateReport`. It looks; it cannot change what the update does.
"""

from collections.abc import Iterator
from typing import Any

from sb3_ppo_notes.algorithms.report import UpdateReport

HOOKS = ("on_minibatch", "on_epoch", "on_update")


class Watchers:
    """The callbacks of a run that ask for reports.

    :param callback: what ``learn`` was given, as SB3 has wrapped it; ``None`` for nothing.
    """

    def __init__(self, callback: Any = None):
        self.all = [each for each in family_of(callback) if any(callable(getattr(each, hook, None)) for hook in HOOKS)]
        self._asking: list[Any] = []
        self._wanted: set[str] = set()

    def begin_update(self) -> None:
        """Ask the callbacks that have a method ``asks`` whether they want to see the update; all others always do."""
        self._asking = [each for each in self.all if not hasattr(each, "asks") or each.asks()]
        self._wanted = {hook for hook in HOOKS for each in self._asking if callable(getattr(each, hook, None))}

    def want(self, hook: str) -> bool:
        """``True`` if a callback asks for a kind of report in this update.

        :param hook: name of the method.
        :return: ``False`` if it need not be made.
        """
        return hook in self._wanted

    @property
    def need_exact_kl(self) -> bool:
        """``True`` if a callback wants the exact KL after each epoch."""
        return any(getattr(each, "needs_exact_kl", False) for each in self._asking)

    def tell(self, hook: str, report: UpdateReport) -> None:
        """Hand a report over.

        :param hook: name of the method.
        :param report: for all who ask.
        """
        for each in self._asking:
            method = getattr(each, hook, None)
            if callable(method):
                method(report)


def family_of(callback: Any) -> Iterator[Any]:
    """A callback, and all that are inside it: lists and those that are called on an event.

    :param callback: ``None`` for nothing.
    :return: from the outside in.
    """
    if callback is None:
        return
    yield callback
    for child in getattr(callback, "callbacks", None) or ():
        yield from family_of(child)
    # EventCallback's own, and those of SB3's EvalCallback beside it.
    for name in ("callback", "callback_on_new_best"):
        child = getattr(callback, name, None)
        if hasattr(child, "on_step"):
            yield from family_of(child)
