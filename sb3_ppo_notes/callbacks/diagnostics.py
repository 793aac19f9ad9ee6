"""Everything that can be seen of a run, and a warning in words for what is out of the ordinary."""

import math
import time
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_notes.algorithms.probe import Probe
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.callbacks.entropy import EntropyNumbers
from sb3_ppo_notes.callbacks.measures import Measures, network_measures, rollout_measures, update_measures
from sb3_ppo_notes.callbacks.panel import draw_panel
from sb3_ppo_notes.callbacks.symptoms import SYMPTOMS
from sb3_ppo_notes.callbacks.updates import UpdateCallback
from sb3_ppo_notes.formulas.activity import relative_change
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_integer
from sb3_ppo_notes.rules import ClippedSurrogate

#: Updates over which early stops in the first epoch are counted.
STOP_WINDOW = 20


class DiagnosticsCallback(UpdateCallback):
    """Measures each update, logs it under ``notes/``, and warns of what :data:`SYMPTOMS` lists, once each.

    Nothing it does changes the run: no random number is drawn, no weight touched.

    :param off: names of symptoms that are not to be warned of.
    :param limits: other limits, by symptom.
    :param deep_every: every so many looks, look into the networks: dormant and saturated units, rank of the features.
    :param every: look at every so many updates; ``None`` for as many as make up 2,048 environment steps.
    :param verbose: 1 tells once what cannot be seen of a stock model.
    :raises ValueError: for an unknown symptom or a limit that is no number, naming it.
    """

    needs_exact_kl = needs_probe = True
    cannot_see = ("gradient norms", "ratios and what is left of the sample", "when an update stopped early")

    def __init__(
        self,
        off: Collection[str] = (),
        limits: Mapping[str, float] | None = None,
        deep_every: int = 1,
        every: int | None = None,
        verbose: int = 0,
    ):
        super().__init__(every, verbose)
        if isinstance(off, str):
            raise InvalidTypeError(f"off must be a collection of names, got the str {off!r}")
        for name, unknown in (("off", set(off) - set(SYMPTOMS)), ("limits", set(limits or {}) - set(SYMPTOMS))):
            if unknown:
                names = ", ".join(SYMPTOMS)
                raise InvalidValueError(f"{name} must hold names of symptoms ({names}), got {sorted(unknown)}")
        for name, limit in (limits or {}).items():
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not math.isfinite(limit):
                raise InvalidValueError(f"limits[{name!r}] must be a finite number, got {limit!r}")
        check_integer("deep_every", deep_every, minimum=1)
        self.deep_every = deep_every
        #: The symptoms that are watched for, with their limits.
        self.symptoms = {
            name: symptom._replace(limit=(limits or {}).get(name, symptom.limit))
            for name, symptom in SYMPTOMS.items()
            if name not in off
        }
        #: Measures: one dict a look, with ``timesteps``.
        self.history: list[Measures] = []
        self._counts = dict.fromkeys(self.symptoms, 0)
        self._stops: deque[float] = deque(maxlen=STOP_WINDOW)
        self._weights: th.Tensor | None = None
        self._first_rank = math.nan
        self._rollout: Measures = {}
        self._started = self._gathered = 0.0

    # -- when ------------------------------------------------------------------------------------------------------

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        self._started = time.perf_counter()

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        self._gathered = time.perf_counter()
        # asks() is counted up when the update begins, so this rollout is the one of the next look.
        if self._n_asked % self._period() == 0:
            self._rollout = rollout_measures(self.model)
            self._weights = _weights_of(self.model)

    def _watch(self, report: UpdateReport) -> None:
        measures: Measures = {"timesteps": float(self.num_timesteps)} | update_measures(report) | self._rollout
        measures |= self._policy_measures() | self._own_measures(report)
        ended = time.perf_counter()
        if ended > self._started > 0:
            measures["time/update_share"] = (ended - self._gathered) / (ended - self._started)
        self.history.append(measures)
        # What SB3 logs itself has its name there.
        for name, value in measures.items():
            if "/" in name and value == value:
                self.logger.record(f"notes/{name}", value)
        self._judge(measures)
        self.logger.record("notes/warnings", len(self.warned))

    # -- what ------------------------------------------------------------------------------------------------------

    def _own_measures(self, report: UpdateReport) -> Measures:
        """Measures that need a memory of earlier updates."""
        measures: Measures = {}
        self._stops.append(float(report.stopped_in_epoch == 0))
        if len(self._stops) >= STOP_WINDOW // 2:
            measures["stopped_share"] = float(np.mean(self._stops))
        if self._weights is not None:
            measures["weights/change"] = float(relative_change(self._weights, _weights_of(self.model)))
        model: Any = self.model
        if model.max_grad_norm:
            measures["gradient/excess"] = report.gradient_norm / model.max_grad_norm
        normalizer = model.get_vec_normalize_env()
        if report.returns is not None and not (normalizer is not None and normalizer.norm_reward):
            measures["unscaled_return_std"] = report.returns.std
        return measures

    def _policy_measures(self) -> Measures:
        model: Any = self.model
        probe = self._probe if self.is_stock else Probe.of(model.policy, model.rollout_buffer)
        if probe is None:
            return {}
        numbers = EntropyNumbers(probe)
        measures: Measures = {"entropy": numbers.relative}
        if numbers.std_by_dimension:
            measures |= {"std/min": min(numbers.std_by_dimension), "std/max": max(numbers.std_by_dimension)}
        if len(self.history) % self.deep_every == 0:
            measures |= network_measures(probe)
            rank = measures.get("units/rank", math.nan)
            self._first_rank = rank if math.isnan(self._first_rank) else self._first_rank
            measures["units/rank_left"] = rank / self._first_rank if self._first_rank else math.nan
        return measures

    def _judge(self, measures: Measures) -> None:
        passed = 1.0 - self.model._current_progress_remaining
        for name, symptom in self.symptoms.items():
            if symptom.measure not in measures:
                continue  # not looked at this time: neither better nor worse
            value, limit = measures[symptom.measure], self._limit(name, symptom.limit)
            is_bad = symptom.is_bad(value, limit) and passed >= symptom.not_before and self._applies(name)
            self._counts[name] = self._counts[name] + 1 if is_bad else 0
            if self._counts[name] >= symptom.patience:
                self._warn(name, symptom.text.format(value=value, limit=limit))

    def _limit(self, name: str, limit: float) -> float:
        if name != "first_ratio_is_not_one" or limit != SYMPTOMS[name].limit:
            return limit
        # Rounding: of another order of summation, on another device, in 8 bits of mantissa.
        model: Any = self.model
        if getattr(model, "precision", "float32") != "float32":
            return 0.1
        return 1e-3 if model.device.type != "cpu" or getattr(model, "compile", False) else limit

    def _applies(self, name: str) -> bool:
        """``False`` where a clip fraction of 0 says nothing: a rule without a clip has no other."""
        if name != "never_clips":
            return True
        rule = getattr(self.model, "rule", None)
        return (
            hasattr(self.model, "clip_range") if rule is None else isinstance(rule.policy_objective, ClippedSurrogate)
        )

    def plot(self, path: str | Path) -> Path:
        """Draw what was measured: one picture with a curve for each question.

        :param path: of the PNG (or PDF, SVG) file.
        :return: the path.
        :raises ValueError: before the first update.
        """
        if not self.history:
            raise InvalidValueError("history must hold an update before it is drawn, got none (learn first)")
        return draw_panel(self.history, self.warned, Path(path))


def _weights_of(model: Any) -> th.Tensor:
    return th.cat([parameter.detach().reshape(-1) for parameter in model.policy.parameters()])
