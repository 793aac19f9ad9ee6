"""Phases of training and of evaluation in turn, and the mean score that each reports: batch-ppo's loop."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.callbacks.evaluation import (
    Environment,
    FinishedEpisodes,
    own_environment,
    predictor,
    preserve_generators,
    synchronize_normalizers,
)
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_flag, check_integer
from sb3_ppo_notes.rollouts.pausing import is_stopping


@dataclass(frozen=True)
class Phase:
    """A stretch of environment steps that comes round again and again.

    :param name: for the log.
    :param steps: its length; environment steps, those of all environments together.
    :param report_every: steps *of this phase* between two reports, counted on from one turn to the next; ``None`` for
        its length, one report a turn.
    :param is_training: whether these are the steps of the training, or of an evaluation with the deterministic policy.
    """

    name: str
    steps: int
    report_every: int | None = None
    is_training: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidTypeError(f"name must be a word, got {self.name!r}")
        check_integer("steps", self.steps, minimum=1)
        if self.report_every is not None:
            check_integer("report_every", self.report_every, minimum=1, because=" or None")
        check_flag("is_training", self.is_training)


@dataclass(frozen=True)
class Report:
    """The score of a phase since its last report.

    :param phase: its name.
    :param step: steps of all phases so far, these included.
    :param mean: mean return of the episodes that ended in it, ``None`` if none did; reward units.
    :param n_episodes: how many did.
    """

    phase: str
    step: int
    mean: float | None
    n_episodes: int


@dataclass(frozen=True)
class Position:
    """The loop's place: the phase, the rounds of all phases so far, and the steps of this turn so far."""

    phase: Phase
    cycle: int
    steps_in: int

    @property
    def phase_step(self) -> int:
        """Steps of the phase so far, those of earlier turns included."""
        return self.cycle * self.phase.steps + self.steps_in


class PhaseLoop:
    """The bookkeeping: which phase it is, when a report is due, what the mean is. It runs nothing.

    Everything follows from one number, the steps of all phases so far, so that a loop that is given that number goes on
    where another stopped.

    Source: batch-ppo, ``tools/loop.py``.
    Deviation: a report without a finished episode has no mean (0 / 0 there).
    """

    def __init__(self, phases: Sequence[Phase], step: int = 0):
        if not phases or not all(isinstance(phase, Phase) for phase in phases):
            raise InvalidTypeError(f"phases must be a sequence of at least one Phase, got {phases!r}")
        names = [phase.name for phase in phases]
        if len(set(names)) < len(names):
            raise InvalidValueError(f"phases must have different names, got {names}")
        check_integer("step", step, minimum=0)
        self.phases = tuple(phases)
        self.cycle_steps = sum(phase.steps for phase in phases)
        self.step = step
        self._scores: dict[str, list[float]] = {name: [] for name in names}

    @property
    def position(self) -> Position:
        """The phase that the next step belongs to."""
        cycle, steps_in = divmod(self.step, self.cycle_steps)
        for phase in self.phases:
            if steps_in < phase.steps:
                break
            steps_in -= phase.steps
        return Position(phase, cycle, steps_in)

    def advance(self, batch: int, scores: np.ndarray, dones: np.ndarray) -> Report | None:
        """Make some steps at once, ``batch`` of them; a report if one is due with these.

        ``scores`` ``[B]`` are returns so far, an episode's where ``dones`` ``[B]`` says so; reward units.
        """
        position = self.position
        every = position.phase.report_every or position.phase.steps
        finished = self._scores[position.phase.name]
        finished.extend(float(score) for score in np.asarray(scores)[np.asarray(dones, dtype=bool)])
        self.step += batch
        if (position.phase_step + batch) // every == position.phase_step // every:
            return None
        self._scores[position.phase.name] = []
        mean = float(np.mean(finished)) if finished else None
        return Report(position.phase.name, self.step, mean, len(finished))

    def get_state(self) -> dict[str, Any]:
        """The steps made, and the scores since each phase's last report: what a checkpoint keeps."""
        return {"step": self.step, "scores": self._scores}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where another loop was; scores of phases that are no more are left out."""
        self.step = state["step"]
        self._scores = {phase.name: list(state["scores"].get(phase.name, [])) for phase in self.phases}

    def step_after_training(self, training_steps: int) -> int:
        """The loop's step after so many of training (a model's ``num_timesteps``) and every evaluation that follows."""
        length = sum(phase.steps for phase in self.phases if phase.is_training)
        cycle, rest = divmod(training_steps, length)
        step = cycle * self.cycle_steps
        for phase in self.phases:
            if phase.is_training and rest < phase.steps:
                break
            step += phase.steps
            rest -= phase.steps if phase.is_training else 0
        return step + rest


class PhasesCallback(BaseCallback):
    """Trains and evaluates in turns, and reports the mean return of each phase, as batch-ppo does.

    An evaluation plays the deterministic policy in an environment of its own, from a reset on, with the training's
    normalisation as it stands; an episode that the end of the phase cuts does not count. Nothing of the training
    changes by it. A report is logged as ``notes/phases/NAME/mean_return`` and ``…/n_episodes``.

    Of a loaded model the phase follows from its ``num_timesteps``; a checkpoint holds the scores too. An evaluation
    runs within the very step that ends the training before it; a model saved at that step counts as evaluated. A signal
    within a ``GracefulStop`` ends an evaluation, and the training; a resumed run begins with that evaluation.

    Source: batch-ppo, ``tools/loop.py`` and ``scripts/train.py``.
    Deviation: environments for evaluation are separate, so that the training's episodes go on over an evaluation (there
    the same environments are reset); an evaluation that overshoots its phase takes nothing from the next.

    :param phases: in their order; at least one is of training.
    :param env: to evaluate in: an id, a function that makes an environment, or a VecEnv; ``None`` if none evaluates.
    :param seed: of that environment.
    :param on_report: called with every report, ``None`` for nobody.
    :param verbose: 1 prints the reports.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        env: Environment | None = None,
        *,
        seed: int = 0,
        on_report: Callable[[Report], object] | None = None,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        self.loop = PhaseLoop(phases)
        if not any(phase.is_training for phase in phases):
            raise InvalidValueError("phases must hold one with is_training=True, got none")
        if env is None and not all(phase.is_training for phase in phases):
            raise InvalidValueError("env must be given when a phase evaluates, got None")
        check_integer("seed", seed, minimum=0)
        self._reported: list[tuple[str, int, float | None, int]] = []
        self._env, self._seed, self._on_report = env, seed, on_report
        self._own_env: VecEnv | None = None
        self._training_steps = -1
        #: Steps that the training before an evaluation has made beyond its phase.
        self._overshoot = 0

    @property
    def reports(self) -> list[Report]:
        """Every report so far, the oldest first."""
        return [Report(*fields) for fields in self._reported]

    def _on_training_start(self) -> None:
        training_env = self.training_env
        for phase in self.loop.phases:
            if phase.is_training and phase.steps < training_env.num_envs:
                raise InvalidValueError(
                    f"steps of phase {phase.name!r} must be at least {training_env.num_envs}, one of each environment, "
                    f"got {phase.steps}"
                )
        if self._own_env is None and self._env is not None:
            self._own_env = own_environment(self._env, training_env, self._seed)
        self._finished = FinishedEpisodes(training_env)
        if hasattr(self.model, "between_steps"):
            self.model.between_steps.append(self._evaluate_until_training)
        if self._training_steps == self.num_timesteps:
            return  # learn() was called again, and goes on where it stopped
        self._training_steps = self.num_timesteps
        is_new = self.num_timesteps == 0
        self.loop = PhaseLoop(self.loop.phases, 0 if is_new else self.loop.step_after_training(self.num_timesteps))
        self._evaluate_until_training()

    def _on_step(self) -> bool:
        scores, dones = self._finished.step(self.locals["rewards"], self.locals["dones"], self.locals["infos"])
        position, batch = self.loop.position, self.num_timesteps - self._training_steps
        self._training_steps = self.num_timesteps
        self._record(self.loop.advance(batch, scores, dones))
        overshoot = position.steps_in + batch - position.phase.steps
        if overshoot >= 0:
            # Back to the phase's end, so that an evaluation has its whole length, and what was trained more than the
            # phase asked for counts as the beginning of the next training.
            self.loop.step -= overshoot
            self._overshoot = overshoot
            return self._evaluate_until_training()
        return True

    def _evaluate_until_training(self) -> bool:
        """``False`` if a signal came, and the evaluation is still to be made."""
        while not self.loop.position.phase.is_training:
            if not self._evaluate(self.loop.position.phase):
                return False
        self.loop.step += self._overshoot
        self._overshoot = 0
        return True

    def _evaluate(self, phase: Phase) -> bool:
        """One turn of an evaluation phase, from its beginning to its end or not at all."""
        env = self._own_env
        assert env is not None  # the constructor saw to it
        before, n_reported = deepcopy(self.loop.get_state()), len(self._reported)
        end = self.loop.step + phase.steps
        model = predictor(self.model, env)
        with preserve_generators():
            synchronize_normalizers(self.training_env, env)
            # Anew each time: one that is made again after a signal shall be of the same episodes.
            env.seed((self._seed + self.loop.step) % 2**32)
            observations, states = env.reset(), None
            finished = FinishedEpisodes(env)
            starts = np.ones(env.num_envs, dtype=bool)
            while self.loop.step < end:
                if is_stopping():
                    self.loop.set_state(before)
                    del self._reported[n_reported:]
                    return False
                actions, states = model.predict(observations, states, starts, deterministic=True)
                observations, rewards, starts, infos = env.step(actions)
                self._record(self.loop.advance(env.num_envs, *finished.step(rewards, starts, infos)))
        self.loop.step = end
        return True

    def _record(self, report: Report | None) -> None:
        if report is None:
            return
        self._reported.append((report.phase, report.step, report.mean, report.n_episodes))
        name = f"notes/phases/{report.phase}"
        self.logger.record(f"{name}/n_episodes", report.n_episodes)
        if report.mean is not None:
            self.logger.record(f"{name}/mean_return", report.mean)
        if self.verbose >= 1:
            mean = "no episode ended" if report.mean is None else f"mean return {report.mean:.1f}"
            print(f"phase {report.phase}, step {report.step:,}: {mean} ({report.n_episodes} episodes)")
        if self._on_report is not None:
            self._on_report(report)
