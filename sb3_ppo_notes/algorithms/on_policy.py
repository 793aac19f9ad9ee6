"""What NotesPPO and NotesA2C have in common: everything but their arguments and the names they log under."""

import inspect
import warnings
from typing import Any, ClassVar, TypeVar

from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.algorithms.arguments import check_arguments, check_learn_arguments, check_rollout_size
from sb3_ppo_notes.algorithms.construction import check_keywords, check_policy, made_environment
from sb3_ppo_notes.algorithms.loss import LossCoefficients
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.algorithms.update import update
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.rollouts import NotesDictRolloutBuffer, NotesRolloutBuffer, collect_rollouts, guard_normalizer
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.schedules import value_at

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="NotesOnPolicyAlgorithm")


class NotesOnPolicyAlgorithm(OnPolicyAlgorithm):
    """Gather a rollout, learn from it, report: the loop around an :class:`~sb3_ppo_notes.rules.UpdateRule`.

    Subclasses give the arguments, build the default rule from them and name what is logged. All the learning is in
    ``algorithms.update``, all the gathering in ``rollouts.collector``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    ent_coef: Any
    vf_coef: Any
    max_grad_norm: Any
    gae_lambda: float
    clip_range: Any
    clip_range_vf: Any
    normalize_advantage: bool
    target_kl: float | None
    n_epochs: int
    batch_size: int
    #: The algorithm's name in the field, for messages.
    algorithm_name: ClassVar[str]
    #: What the last update did; ``None`` before the first.
    last_report: UpdateReport | None = None
    _given_rule: UpdateRule | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # __new__ takes anything, in order to refuse it with a suggestion; tools shall still see the constructor's own
        # signature.
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __new__(cls, *args: Any, **kwargs: Any) -> "NotesOnPolicyAlgorithm":
        check_keywords(cls.__init__, kwargs)
        return super().__new__(cls)

    def _construct(self, arguments: dict[str, Any], rule: UpdateRule | None) -> None:
        """The constructor's common half.

        :param arguments: of the subclass's constructor, by name, without ``self`` and the extras.
        :param rule: replaces the rule that the arguments would build.
        """
        is_new = arguments.pop("_init_setup_model")
        check_arguments(arguments)
        check_policy(arguments["policy"], self.policy_aliases, arguments["policy_kwargs"])
        env = arguments["env"]
        if is_new or env is not None:
            env = made_environment(env, arguments["verbose"])
        theirs = inspect.signature(OnPolicyAlgorithm.__init__).parameters
        passed_on = {name: value for name, value in arguments.items() if name in theirs}
        supported = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
        super().__init__(**passed_on | {"env": env}, supported_action_spaces=supported, _init_setup_model=False)
        for name, value in arguments.items():
            if name not in theirs:
                setattr(self, name, value)
        self._given_rule = rule
        if rule is not None:
            self._take_arguments_from(rule)
        if env is not None:
            self._check_rollout_size()

    def _check_rollout_size(self) -> None:
        rule = self.rule
        normalizes = rule.advantage_normalization.scope != "none"
        warns = not rule.optimization.drop_last
        check_rollout_size(self.n_steps, self.n_envs, self._batch_size(), normalizes, warns_of_rest=warns)

    # -- the rule ---------------------------------------------------------------------------------------------

    @property
    def rule(self) -> UpdateRule:
        """The choices of every update: the rule that was given, else the one that SB3's arguments describe."""
        return self._default_rule() if self._given_rule is None else self._given_rule

    def _default_rule(self) -> UpdateRule:
        """Stock SB3, with the present values of its arguments."""
        raise NotImplementedError

    def _rule_arguments(self, rule: UpdateRule) -> dict[str, Any]:
        """What SB3's arguments would have to be for this rule.

        :param rule: any rule.
        :return: values by argument name; arguments that have no meaning for the rule are left out.
        """
        settings: dict[str, Any] = {"normalize_advantage": rule.advantage_normalization.scope != "none"}
        for choice, name in (
            (rule.advantage_estimator, "gae_lambda"),
            (rule.policy_objective, "clip_range"),
            (rule.value_objective, "clip_range_vf"),
        ):
            if hasattr(choice, name):
                settings[name] = getattr(choice, name)
        if rule.kl_control is not None:
            settings["target_kl"] = rule.kl_control.target
        return settings

    def _take_arguments_from(self, rule: UpdateRule) -> None:
        """Set SB3's attributes to what the rule says, after making sure that nobody asked for something else."""
        settings = self._rule_arguments(rule)
        defaults = inspect.signature(type(self).__init__).parameters
        for name in ("gae_lambda", "clip_range", "clip_range_vf", "normalize_advantage", "target_kl"):
            if name not in defaults:
                continue
            given, default = _plain(getattr(self, name)), defaults[name].default
            wanted = settings.get(name, default)
            if given not in (default, _plain(wanted)):
                raise InvalidValueError(
                    f"{name} must agree with rule, which has {wanted!r}, got {given!r} (give one of the two)"
                )
            setattr(self, name, wanted)

    # -- building and loading ---------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        # A loaded model comes through here with attributes that no constructor has seen. Warnings were given at
        # construction.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_arguments({name: value for name, value in vars(self).items() if name != "device"})
            self._check_rollout_size()
        if self._given_rule is not None:
            self._take_arguments_from(self._given_rule)
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = NotesDictRolloutBuffer if is_dict else NotesRolloutBuffer
        super()._setup_model()

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ActorCriticPolicy") -> None:
        if self.device.type != "cpu" and self.policy_class.__name__ == mlp_class_name:
            warnings.warn(
                f"You are trying to run {self.algorithm_name} on the GPU with {mlp_class_name}, a small network: "
                "each of its many steps costs more to launch than to compute; device='cpu' is usually faster "
                "(SB3 issue #1245).",
                UserWarning,
                stacklevel=2,
            )

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return guard_normalizer(OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper))

    # -- learning ---------------------------------------------------------------------------------------------

    def _n_epochs(self) -> int:
        """Passes over each rollout."""
        raise NotImplementedError

    def _batch_size(self) -> int | None:
        """Samples in a minibatch, ``None`` for the whole rollout."""
        raise NotImplementedError

    def _log(self, report: UpdateReport, rule: UpdateRule) -> None:
        """Record what SB3 records, under SB3's names."""
        raise NotImplementedError

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout overshoots total_timesteps, and SB3's progress then ends below 0: a linear schedule becomes
        # negative, and with it the learning rate.
        self._current_progress_remaining = min(max(1.0 - float(num_timesteps) / float(total_timesteps), 0.0), 1.0)

    def _update_learning_rate(self, optimizers: Any) -> None:
        value_at("learning_rate", self.lr_schedule, self._current_progress_remaining)
        super()._update_learning_rate(optimizers)

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
        rule = self.rule
        if isinstance(rollout_buffer, NotesRolloutBuffer):
            rollout_buffer.rule = rule
        bootstraps = rule.truncation == "bootstrap"
        return collect_rollouts(self, env, callback, rollout_buffer, n_rollout_steps, bootstrap_truncated=bootstraps)

    def train(self) -> None:
        """Learn from the rollout in ``rollout_buffer``."""
        # Training mode: dropout and batch normalisation are active here and only here.
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        rule = self.rule.at(progress)
        coefficients = LossCoefficients(
            value_at("ent_coef", self.ent_coef, progress, minimum=-float("inf")),
            value_at("vf_coef", self.vf_coef, progress),
        )
        self.last_report = update(self, rule, coefficients, self._n_epochs(), self._batch_size())
        self._log(self.last_report, rule)

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
            gathered.
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
        if self.env is None:
            raise InvalidValueError("env is required to learn, got None (pass one to load, or call set_env)")
        super().learn(
            total_timesteps,
            callback,
            log_interval,  # type: ignore[arg-type]
            tb_log_name,
            reset_num_timesteps,
            progress_bar,
        )
        if log_interval is not None:
            self._dump_last_update()
        return self

    def _dump_last_update(self) -> None:
        """Log the last update too. SB3 writes its log *before* each update, so the last one never appears in it."""
        recorded = dict(self.logger.name_to_value)
        if not any(name.startswith("train/") for name in recorded):
            return
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)
        # Dumping empties the logger; whoever reads logger.name_to_value after learn() shall still find what SB3 leaves
        # there.
        self.logger.name_to_value.update(recorded)


def _plain(value: Any) -> Any:
    """A constant schedule as its number."""
    if isinstance(value, FloatSchedule):
        value = value.value_schedule
    return value.val if isinstance(value, ConstantSchedule) else value
