"""What NotesPPO and NotesA2C have in common: everything but their arguments and the names they log under."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.algorithms.arguments import check_arguments, check_learn_arguments, plain_arguments
from sb3_ppo_notes.algorithms.building import BuiltFromArguments
from sb3_ppo_notes.algorithms.readiness import check_that_it_can_learn
from sb3_ppo_notes.algorithms.report import UpdateReport, dump_last_update
from sb3_ppo_notes.algorithms.rule_arguments import check_unchanged
from sb3_ppo_notes.algorithms.sinks import guard_sinks
from sb3_ppo_notes.algorithms.update import Update
from sb3_ppo_notes.algorithms.watching import Watchers
from sb3_ppo_notes.engine import Engine, Phase
from sb3_ppo_notes.envs.restarts import restarts_of
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.policies.modes import set_training_mode
from sb3_ppo_notes.policies.parameters import split_parameters
from sb3_ppo_notes.rollouts import collect_rollouts
from sb3_ppo_notes.rollouts.collector import Actor
from sb3_ppo_notes.rollouts.pausing import UnfinishedStep
from sb3_ppo_notes.rollouts.shapes import shape_error
from sb3_ppo_notes.rules import KLPenalty, UpdateRule
from sb3_ppo_notes.rules.loss import LossCoefficients
from sb3_ppo_notes.rules.schedules import value_at

#: Updates in a row of which nothing was left, after which going on would only waste time.
MOST_BARREN_UPDATES = 10

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="NotesOnPolicyAlgorithm")


class NotesOnPolicyAlgorithm(BuiltFromArguments):
    """Gather a rollout, learn from it, report: the loop around an :class:`~sb3_ppo_notes.rules.UpdateRule`.

    Subclasses give the arguments, build the default rule from them and name what is logged. All the learning is in
    ``algorithms.update``, all the gathering in ``rollouts.collector``.
    """

    #: What to do with the callbacks when learning goes on from a checkpoint; ``None`` without one.
    on_resume: Callable[[BaseCallback], None] | None = None
    #: What of a resumed run is exact and what is not; ``None`` without a checkpoint.
    resume_report: Any = None
    #: The step between whose neighbours a rollout was left; ``None`` if none was.
    _paused_at: int | None = None
    #: The step at which a callback ended the last ``learn``; ``None`` if none did.
    _unfinished_step: UnfinishedStep | None = None
    #: Whether ``learn`` is going on, or was cut short by an exception.
    _is_learning: bool = False
    #: What tells the checkpoints of this run from those of another; given with the first.
    _run_id: str | None = None
    #: Rollouts since learning began.
    _iteration: int = 0

    def _n_epochs(self) -> int:
        """Passes over each rollout."""
        raise NotImplementedError

    def _log(self, report: UpdateReport, rule: UpdateRule) -> None:
        """Record what SB3 records, under SB3's names."""
        raise NotImplementedError

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout overshoots total_timesteps, and SB3's progress then ends below 0: a linear schedule becomes
        # negative, and with it the learning rate.
        self._current_progress_remaining = min(max(1.0 - float(num_timesteps) / float(total_timesteps), 0.0), 1.0)

    def _update_learning_rate(self, optimizers: Any) -> None:
        """Set the learning rates of this update, and log the (actor's) rate."""
        progress = self._current_progress_remaining
        # SB3 asks twice, first for the log: a schedule that counts its calls counts the same here.
        self.logger.record("train/learning_rate", value_at("learning_rate", self.lr_schedule, progress))
        update_learning_rate(optimizers, value_at("learning_rate", self.lr_schedule, progress))
        rule = self.rule
        if rule.optimization.separate is not None:
            actor, critic = rule.optimization.separate.actor, rule.optimization.separate.critic
            update_learning_rate(self.policy.optimizer, value_at("learning_rate", actor.learning_rate, progress))
            update_learning_rate(self.critic_optimizer, value_at("learning_rate", critic.learning_rate, progress))
            self.logger.record("notes/critic_learning_rate", self.critic_optimizer.param_groups[0]["lr"])
        if rule.adaptive_learning_rate is not None and self.rule_state.learning_rate is not None:
            update_learning_rate(self.policy.optimizer, self.rule_state.learning_rate)
        if self._given_rule is not None:
            self._log_learning_rate()

    def _log_learning_rate(self) -> None:
        self.logger.record("train/learning_rate", self.policy.optimizer.param_groups[0]["lr"])

    def predict(
        self,
        observation: Any,
        state: tuple[Any, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Any, tuple[Any, ...] | None]:
        """Actions for observations, see the policy's ``predict``.

        :param observation: one, or a batch.
        :param state: of a recurrent policy, ``None`` at the beginning.
        :param episode_start: ``[N]``, where an episode has just begun, for a recurrent policy.
        :param deterministic: the mode and not a sample.
        :param action_masks: ``[n]`` or ``[N, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :return: actions, and the next state.
        """
        if action_masks is None:
            return super().predict(observation, state, episode_start, deterministic)
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)  # type: ignore[call-arg]

    @classmethod
    def load(cls: type[SelfAlgorithm], path: Any, *args: Any, **kwargs: Any) -> SelfAlgorithm:
        """Load a model from a zip file, see SB3's ``BaseAlgorithm.load``.

        :param path: the file.
        :param args: as in SB3.
        :param kwargs: as in SB3; a new ``learning_rate`` is also where an adaptive one starts again.
        :return: the model. Whether it can learn is asked when it learns: to predict, only its networks count.
        :raises ValueError: if an argument among ``kwargs`` is out of range, naming it.
        """
        kwargs = plain_arguments(kwargs)
        check_arguments(kwargs)
        model = super().load(path, *args, **kwargs)
        if "learning_rate" in kwargs:
            model.rule_state = dataclasses.replace(model.rule_state, learning_rate=None)
        return model

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        before = self._last_obs
        try:
            result = super()._setup_learn(total_timesteps, *args, **kwargs)
        except ValueError as error:
            clear = shape_error(error, self.observation_space)
            if clear is not None:
                raise clear from error
            raise
        if self._last_obs is not before:
            # The environments were reset: nothing is left to remember, and no rollout to take up.
            self._last_states = None
            self._paused_at = None
        self.watchers = Watchers(result[1])
        return result

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer with experience of the current policy.

        :param env: the training environments.
        :param callback: called at every step.
        :param rollout_buffer: filled.
        :param n_rollout_steps: steps of each environment.
        :return: ``False`` if the callback asked to stop.
        """
        return collect_rollouts(
            self,
            env,
            callback,
            rollout_buffer,
            n_rollout_steps,
            acting=self._begin_acting,
            prepare=lambda: self._prepare_buffer(rollout_buffer, self.rule),
            bootstrap_truncated=self.rule.truncation == "bootstrap",
        )

    def train(self) -> None:
        """Learn from the rollout in ``rollout_buffer``."""
        # Training mode: dropout and batch normalisation are active here and only here.
        set_training_mode(self.policy, True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        if self._given_rule is not None:
            check_unchanged(self._given_rule, self)
        rule = self.rule.at(progress)
        coefficients = LossCoefficients(
            value_at("ent_coef", self.ent_coef, progress, minimum=-float("inf")),
            value_at("vf_coef", self.vf_coef, progress),
            self._kl_coef(rule),
        )
        self._prepare_buffer(self.rollout_buffer, rule)
        self.watchers.begin_update()
        self.last_report = Update(self, rule, coefficients, self._batch_size()).run(self._phases(rule))
        self._count_skipped()
        self._say_execution()
        if rule.adaptive_learning_rate is not None:
            self._log_learning_rate()
        if isinstance(rule.policy_objective, KLPenalty):
            self.logger.record("notes/kl_coef", coefficients.kl_coef)
        restarts = restarts_of(self.env)
        if restarts is not None:
            self.logger.record("notes/env_restarts", restarts)
        self._log(self.last_report, rule)
        self.watchers.tell("on_update", self.last_report)

    @property
    def engine(self) -> Engine:
        """How this model acts and learns on this machine: ``engine.report()`` says what ran, and why nothing faster."""
        choices: dict[str, Any] = {
            "compile": self.compile,
            "precision": self.precision,
            "on_nonfinite": self.on_nonfinite,
        }
        if self._engine is None or not self._engine.is_for(self.policy, **choices):
            scalers = None if self._engine is None else self._engine.scalers
            self._engine = Engine(self.policy, **choices, scalers=scalers)
            self._engine.begin_learning()
        return self._engine

    def tell(self, hook: str, report: UpdateReport, phase: Phase) -> Phase:
        """Hand a report to the callbacks in the middle of an update. They may change anything.

        :param hook: ``"on_minibatch"`` or ``"on_epoch"``.
        :param report: what they are told.
        :param phase: of the update.
        :return: the same phase, with the optimiser and the weights that there are now.
        """

        def present() -> Phase:
            return next(each for each in self._phases(self.rule) if each.trains == phase.trains)

        with self.engine.interrupted(present):
            self.watchers.tell(hook, report)
            set_training_mode(self.policy, True)
        return present()

    def _count_skipped(self) -> None:
        skipped = self.engine.end_update()
        self.skipped_updates += skipped.n_steps
        self.barren_updates = self.barren_updates + 1 if skipped.is_all else 0
        if self.barren_updates >= MOST_BARREN_UPDATES:
            updates = f"the last {MOST_BARREN_UPDATES} updates"
            raise NonFiniteError(f"on_nonfinite='skip_update' has left nothing of {updates}: {skipped.reason}")
        if self.skipped_updates or self.on_nonfinite == "skip_update":
            self.logger.record("notes/skipped_updates", self.skipped_updates)

    def _say_execution(self) -> None:
        """Say once what keeps training from being faster."""
        if self.verbose < 1:
            return
        report = self.engine.report()
        slow = tuple(each.reason for each in report.steps.values() if each.name == "eager" and each.is_lasting)
        if any(slow) and slow != self._said_execution:
            print(f"{self.algorithm_name} runs {report}")
            self._said_execution = slow

    def _begin_acting(self) -> Actor:
        """How the policy acts, as it is made now."""
        actor = self.engine.actor()
        actor.begin()
        return actor

    def _kl_coef(self, rule: UpdateRule) -> float:
        if not isinstance(rule.policy_objective, KLPenalty):
            return 0.0
        return rule.policy_objective.coefficient if self.rule_state.kl_coef is None else self.rule_state.kl_coef

    def _phases(self, rule: UpdateRule) -> list[Phase]:
        """The phases of this update: everything together, or the actor and then the critic."""
        separate = rule.optimization.separate
        if separate is None:
            weights = list(self.policy.parameters())
            return [Phase(self.policy.optimizer, weights, self.max_grad_norm, self._n_epochs(), "both")]
        actor, critic = split_parameters(self.policy)
        return [
            Phase(self.policy.optimizer, actor, separate.actor.max_grad_norm, separate.actor.n_epochs, "policy"),
            Phase(self.critic_optimizer, critic, separate.critic.max_grad_norm, separate.critic.n_epochs, "critic"),
        ]

    def learn(
        self: SelfAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "OnPolicyAlgorithm",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAlgorithm:
        """Train.

        :param total_timesteps: environment steps to take, over all environments; a lower bound, whole rollouts are
            gathered. 0 only sets everything up; infinity goes on until a callback stops it.
        :param callback: called at every step.
        :param log_interval: updates between two dumps of the log, ``None`` for none.
        :param tb_log_name: name of the run for TensorBoard.
        :param reset_num_timesteps: whether to count from 0 (or to add to what was learned before).
        :param progress_bar: show one.
        :return: this model.
        """
        total_timesteps = check_learn_arguments(
            total_timesteps, callback, log_interval, reset_num_timesteps, progress_bar
        )
        check_that_it_can_learn(self)
        before = self.last_report
        try:
            self._run(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        except NonFiniteError as error:
            _name_checkpoint(error, self.last_checkpoint_path)
            raise
        if log_interval is not None and self.last_report is not before:
            dump_last_update(self.logger, self.num_timesteps)
        return self

    def _run(
        self,
        total_timesteps: int,
        callback: MaybeCallback,
        log_interval: int | None,
        tb_log_name: str,
        reset_num_timesteps: bool,
        progress_bar: bool,
    ) -> None:
        """SB3's loop, and what lets it be left and taken up between two steps. Callbacks get its local variables."""
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        guard_sinks(self.logger)
        self.engine.begin_learning()
        self.between_steps = []
        self._unfinished_step = None
        self._is_learning = True
        # Of a run that is resumed, rollouts are counted on: every log_interval-th of the whole run is logged.
        iteration = self._iteration if self.on_resume is not None else 0
        callback.on_training_start(locals(), globals())
        if self.on_resume is not None:
            self.on_resume(callback)
            self.on_resume = None
        while self.num_timesteps < total_timesteps or self._paused_at is not None:
            if not self.collect_rollouts(self.env, callback, self.rollout_buffer, n_rollout_steps=self.n_steps):
                break
            iteration += 1
            self._iteration = iteration
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            if log_interval is not None and iteration % log_interval == 0:
                self.dump_logs(iteration)
            self.train()
        self._is_learning = False
        callback.on_training_end()


def _name_checkpoint(error: NonFiniteError, path: Any) -> None:
    """Say in an error where to go on from; it is changed in place, so that it keeps its traceback."""
    if path is not None and str(path) not in str(error):
        error.args = (f"{error}; the last good checkpoint is {path}",)
