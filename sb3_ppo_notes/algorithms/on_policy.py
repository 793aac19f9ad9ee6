"""The common class of NotesPPO and NotesA2C: everything but their arguments and the names they log under.

It is long because SB3's ``BaseAlgorithm`` is one class: how a model is built, saved and loaded, and its loop.
All the learning is in ``algorithms.update``, all the gathering in ``rollouts.collector``.
"""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import update_learning_rate
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_notes.algorithms.arguments import (
    CHECKS,
    RULE_ARGUMENTS,
    check_arguments,
    check_learn_arguments,
    check_that_it_can_learn,
    check_unchanged,
    plain_arguments,
    set_arguments_from,
    warn_of_doubtful_arguments,
)
from sb3_ppo_notes.algorithms.construction import check_fit, check_keywords, check_policy, check_sizes
from sb3_ppo_notes.algorithms.logs import dump_last_update, guard_sinks
from sb3_ppo_notes.algorithms.model_files import ModelFile, save_whole
from sb3_ppo_notes.algorithms.normalizers import Normalizers
from sb3_ppo_notes.algorithms.processes import (
    UPDATES_BETWEEN_COMPARISONS,
    Episodes,
    ProgressBarCallback,
    check_division,
    check_evaluations,
    check_same_arguments,
    digest_of,
    make_shards,
    seed_share,
    share_of,
    silence,
    warn_of_processes_apart,
    without_reports,
)
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.algorithms.schedules import AnsweredOnce, ask_schedules
from sb3_ppo_notes.algorithms.update import Update
from sb3_ppo_notes.algorithms.watchers import Watchers
from sb3_ppo_notes.engine import Engine, Phase
from sb3_ppo_notes.envs.make import AnyEnv, as_vec_env, make_env
from sb3_ppo_notes.envs.restarts import restarts_of
from sb3_ppo_notes.envs.sharded_vec_env import wrappers_of
from sb3_ppo_notes.envs.spaces import SUPPORTED, check_spaces
from sb3_ppo_notes.formulas.checks import InvalidValueError, NonFiniteError
from sb3_ppo_notes.policies.memory import States
from sb3_ppo_notes.policies.modes import set_training_mode
from sb3_ppo_notes.policies.networks import NotesActorCriticCnnPolicy, NotesActorCriticPolicy, NotesMultiInputPolicy
from sb3_ppo_notes.policies.parameters import separate_optimizers, split_parameters
from sb3_ppo_notes.policies.precision import set_precision
from sb3_ppo_notes.policies.recurrent import (
    NotesCnnRecurrentPolicy,
    NotesMultiInputRecurrentPolicy,
    NotesRecurrentPolicy,
)
from sb3_ppo_notes.processes import Shards, join_group
from sb3_ppo_notes.recipes import find_recipe
from sb3_ppo_notes.rollouts import (
    NotesDictRolloutBuffer,
    NotesRolloutBuffer,
    collect_rollouts,
    guard_environments,
)
from sb3_ppo_notes.rollouts.collector import Actor
from sb3_ppo_notes.rollouts.pausing import UnfinishedStep
from sb3_ppo_notes.rollouts.step_errors import shape_error
from sb3_ppo_notes.rules import KLPenalty, UpdateRule
from sb3_ppo_notes.rules.loss import LossCoefficients
from sb3_ppo_notes.rules.schedules import value_at
from sb3_ppo_notes.rules.state import RuleState

#: Updates in a row of which nothing was left, after which going on would only waste time.
MOST_SKIPPED_UPDATES = 10
#: Attributes that older files have under another name.
OLD_NAMES = {"barren_updates": "consecutive_skipped_updates"}
#: Attributes that belong to a run, or to this process, and not to a model.
OF_A_RUN = (
    "between_steps",
    "last_checkpoint_path",
    "on_resume",
    "resume_report",
    "watchers",
    "processes",
    "shards",
    "_engine",
    "_episodes",
    "_is_learning",
    "_iteration",
    "_last_states",
    "_normalizers",
    "_paused_at",
    "_run_id",
    "_said_execution",
    "_shards",
    "_unfinished_step",
)

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="NotesOnPolicyAlgorithm")
#: SB3's list[BaseCallback] is no list of one kind of callback, such as ours, to a type checker.
SomeCallback = TypeVar("SomeCallback", bound=BaseCallback)


class NotesOnPolicyAlgorithm(OnPolicyAlgorithm):
    """Gather a rollout, learn from it, report: the loop around an :class:`~sb3_ppo_notes.rules.UpdateRule`.

    Subclasses give the arguments, build the default rule from them and name what is logged.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": NotesActorCriticPolicy,
        "CnnPolicy": NotesActorCriticCnnPolicy,
        "MultiInputPolicy": NotesMultiInputPolicy,
        "MlpLstmPolicy": NotesRecurrentPolicy,
        "CnnLstmPolicy": NotesCnnRecurrentPolicy,
        "MultiInputLstmPolicy": NotesMultiInputRecurrentPolicy,
    }
    #: The algorithm's name in the field, for messages.
    algorithm_name: ClassVar[str]
    #: SB3 says "or None", which it is only of a model that was loaded without.
    env: VecEnv
    ent_coef: Any
    vf_coef: Any
    max_grad_norm: Any
    gae_lambda: float
    clip_range: Any
    clip_range_vf: Any
    normalize_advantage: bool
    target_kl: float | None
    #: Passes over each rollout, and samples in a minibatch (``None``: the whole rollout).
    n_epochs: int = 1
    batch_size: int | None = None
    action_masking: bool = False
    compile: bool = False
    precision: str = "float32"
    on_nonfinite: str = "raise"
    #: The group of a training on several processes, ``"auto"`` before it is joined, and the number of shards.
    processes: Any = None
    shards: int | None = None
    _shards: Shards | None = None
    #: Episodes that ended in this process since the last rollout; of several processes only.
    _episodes: Episodes | None = None
    #: Of the environments, of several processes only.
    _normalizers: Normalizers | None = None
    #: The rule that was given; ``None`` where SB3's arguments describe it.
    _given_rule: UpdateRule | None = None
    #: Numbers that KL control has arrived at; saved with the model.
    rule_state: RuleState = RuleState()
    #: The critic's own optimiser, where the rule has separate ones.
    critic_optimizer: th.optim.Optimizer
    #: A recurrent policy's state in each training environment.
    _last_states: States | None = None
    #: Report of the last update; ``None`` before the first.
    last_report: UpdateReport | None = None
    #: Steps left out because something was not finite, in all updates so far ...
    skipped_updates: int = 0
    #: ... and how many updates in a row have taken no step for that reason.
    consecutive_skipped_updates: int = 0
    #: Carries out acting and learning; built when it is first asked for.
    _engine: Engine | None = None
    #: The reasons that were last printed for its not being faster.
    _said_execution: tuple[str | None, ...] = ()
    #: Callbacks of the current run that want to see its updates.
    watchers: Watchers
    #: Asked between two environment steps whether to go on: where a run can be saved or left. Emptied by ``learn``.
    between_steps: list[Callable[[], bool]]
    #: Called with the callbacks when learning goes on from a checkpoint; ``None`` without one.
    on_resume: Callable[[BaseCallback], None] | None = None
    #: Says what of a resumed run is exact; ``None`` without a checkpoint.
    resume_report: Any = None
    #: The last checkpoint written of this model: set by whoever writes one, named in errors.
    last_checkpoint_path: Any = None
    #: Index of the rollout step before which collection was paused, or ``None``.
    _paused_at: int | None = None
    #: The step at which a callback ended the last ``learn``; ``None`` if none did.
    _unfinished_step: UnfinishedStep | None = None
    #: ``True`` while ``learn`` goes on, and after an exception has cut it short.
    _is_learning: bool = False
    #: Distinguishes the checkpoints of this run from those of another; set with the first.
    _run_id: str | None = None
    #: Rollouts since learning began.
    _iteration: int = 0

    # -- building -----------------------------------------------------------------------------------------------------

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # __new__ takes anything; tools shall still see the constructor's own signature.
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse unknown names with a suggestion, before anything is built, and note which arguments were written."""
        check_keywords(cls.__init__, kwargs)
        model = super().__new__(cls)
        if args or kwargs:
            model._explicit = {*list(inspect.signature(cls).parameters)[: len(args)], *kwargs}  # type: ignore[attr-defined]
        return model

    @classmethod
    def constructor_parameters(cls) -> Mapping[str, inspect.Parameter]:
        """Parameters of the algorithm's own constructor, also of a subclass that has another.

        :return: by name, ``self`` left out.
        """
        own: Any = next(base for base in cls.__mro__ if NotesOnPolicyAlgorithm in base.__bases__)
        return {name: each for name, each in inspect.signature(own.__init__).parameters.items() if name != "self"}

    def _construct(self, values: Mapping[str, Any]) -> None:
        """The constructor of every algorithm.

        :param values: the constructor's local variables: its arguments, and what else there is.
        """
        arguments = plain_arguments({name: values[name] for name in self.constructor_parameters() if name in values})
        explicit = vars(self).pop("_explicit", ())
        check_arguments(arguments)
        rule, is_new = arguments.pop("rule"), arguments.pop("_init_setup_model")
        ask_schedules(arguments)
        if rule is not None:
            rule.at(1.0)
        warn_of_doubtful_arguments(arguments)
        check_policy(arguments["policy"], self.policy_aliases, arguments["policy_kwargs"])
        if is_new and "processes" not in explicit:
            warn_of_processes_apart()
        self._join(arguments)
        if is_new:
            arguments["env"] = make_env(arguments["env"], arguments["verbose"])
        of_sb3 = inspect.signature(OnPolicyAlgorithm.__init__).parameters
        super().__init__(
            **{name: value for name, value in arguments.items() if name in of_sb3},
            supported_action_spaces=SUPPORTED,
            _init_setup_model=False,
        )
        if is_new:
            # Once more, now that SB3 has wrapped an environment of OpenAI's Gym.
            is_flattened = isinstance(arguments["policy"], str) and "features_extractor_class" not in self.policy_kwargs
            check_spaces(self.observation_space, self.action_space, is_flattened=is_flattened)
        for name in arguments.keys() - of_sb3.keys():
            setattr(self, name, arguments[name])
        self._given_rule = rule
        self.watchers = Watchers()
        self.between_steps = []
        if rule is not None:
            set_arguments_from(rule, self, explicit)
        if is_new:
            check_sizes(self.n_steps, self.n_envs_of_all, self.batch_size, self.rule)
            self._setup_model()

    def _join(self, arguments: dict[str, Any]) -> None:
        """Join the group of a training on several processes, and take this process's share of the environments."""
        if arguments["processes"] is None:
            if arguments["shards"] is not None:
                raise InvalidValueError(f"shards must be None without processes, got {arguments['shards']}")
            return
        arguments["processes"] = group = join_group(arguments["processes"])
        check_same_arguments(group, arguments)
        self._shards = shards = make_shards(group, arguments["shards"], arguments["seed"])
        arguments |= {"seed": shards.seed, "shards": shards.n_shards, "env": share_of(arguments["env"], shards)}
        if not shards.is_writer:
            arguments["verbose"] = 0

    @property
    def n_envs_of_all(self) -> int:
        """Number of environments of all processes."""
        return self.n_envs * (1 if self._shards is None else self._shards.group.size)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all generators, on several processes those of this one's share.

        :param seed: of all; ``None`` for nothing.
        """
        super().set_random_seed(seed)
        if self._shards is not None and seed is not None:
            self._shards.set_seed(seed)
            seed_share(self.env, self._shards)

    @classmethod
    def from_recipe(
        cls: type[SelfAlgorithm], name: str, env: AnyEnv | str, *, n_envs: int | None = None, **overrides: Any
    ) -> SelfAlgorithm:
        """A seed system's algorithm, network and wrappers, on your environment.

        :param name: a key of ``sb3_ppo_notes.recipes.RECIPES``.
        :param env: an id, an environment or a VecEnv; the recipe's wrappers go around it.
        :param n_envs: another number of environments than the recipe's, if ``env`` is an id.
        :param overrides: constructor arguments in place of the recipe's; ``policy_kwargs`` are merged.
        :return: a model, not trained yet.
        :raises ValueError: if there is no such recipe, or it is of the other algorithm.
        """
        recipe = find_recipe(name, cls.algorithm_name)
        wrapped = recipe.environments(env, n_envs, overrides.get("seed"))
        model: SelfAlgorithm = cls(env=wrapped, **recipe.arguments(wrapped, overrides))
        return model

    def _setup_model(self) -> None:
        # A loaded model comes through here with attributes that no constructor has seen. Whether it can learn with them
        # is asked when it learns: to predict they do not matter.
        if "rule" in vars(self):
            self._given_rule = vars(self).pop("rule")
        vars(self).update({new: vars(self).pop(old) for old, new in OLD_NAMES.items() if old in vars(self)})
        vars(self).update(plain_arguments({name: vars(self)[name] for name in CHECKS if name in vars(self)}))
        explicit = vars(self).pop("_explicit", ())
        rule = self._given_rule
        if rule is not None:
            set_arguments_from(rule, self, explicit)
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = NotesDictRolloutBuffer if is_dict else NotesRolloutBuffer
        if self.processes is not None and self._shards is None:  # a loaded model
            self.processes = join_group(self.processes)
            self._shards = make_shards(self.processes, self.shards, self.seed)
            self.seed = self._shards.seed
        if self._shards is not None:
            check_division(self, self._shards)
            self._episodes = Episodes(self._shards)
            self._normalizers = None if self.env is None else Normalizers(self.env, self._shards)
        super()._setup_model()
        if isinstance(self.lr_schedule, AnsweredOnce):  # a subclass may have a schedule of its own
            self.lr_schedule = self.lr_schedule.schedule
        set_precision(self.policy, self.precision)
        check_fit(rule or UpdateRule(), self.policy, self.rollout_buffer, self.action_masking)
        self._prepare_buffer(self.rollout_buffer, rule)
        if rule is not None and rule.optimization.separate is not None:
            # SB3 has built one for all weights by now.
            optimizers = separate_optimizers(self.policy, rule.optimization.separate)
            self.policy.optimizer, self.critic_optimizer = optimizers

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self.lr_schedule: Any = AnsweredOnce("learning_rate", self.lr_schedule)

    def _prepare_buffer(self, rollout_buffer: Any, rule: UpdateRule | None) -> None:
        """Tell a buffer of ours what it is filled and gone through for; any other knows."""
        if isinstance(rollout_buffer, NotesRolloutBuffer):
            sequences = self.policy.sequences if isinstance(self.policy, NotesRecurrentPolicy) else None
            rollout_buffer.prepare(rule, batch_size=self.batch_size, sequences=sequences, shards=self._shards)

    def _maybe_recommend_cpu(self, mlp_class_name: str = "NotesActorCriticPolicy") -> None:
        if self.device.type != "cpu" and self.policy_class.__name__ == mlp_class_name:
            warnings.warn(
                f"You are trying to run {self.algorithm_name} on the GPU with MlpPolicy, a small network: "
                "each of its many steps costs more to launch than to compute; device='cpu' is usually faster "
                "(SB3 issue #1245).",
                UserWarning,
                stacklevel=2,
            )

    def set_env(self, env: AnyEnv, force_reset: bool = True) -> None:
        """Learn in other environments, see SB3's ``BaseAlgorithm.set_env``.

        :param env: as many as before, of the same spaces; on several processes this one's share.
        :param force_reset: whether they begin anew.
        """
        super().set_env(env, force_reset)  # type: ignore[arg-type]
        if self._shards is not None and self.env is not None:
            share_of(self.env, self._shards)
            self._normalizers = Normalizers(self.env, self._shards)

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """The normaliser of the training environments.

        :return: of several shards the first one's; ``None`` if there is none.
        """
        if self._shards is None:
            return super().get_vec_normalize_env()
        return next((each for each in wrappers_of(self.env) if isinstance(each, VecNormalize)), None)

    @staticmethod
    def _wrap_env(env: AnyEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return guard_environments(OnPolicyAlgorithm._wrap_env(as_vec_env(env), verbose, monitor_wrapper))

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Write the model to a zip file, see SB3's ``BaseAlgorithm.save``: whole, or not at all. Of several processes
        the first one writes.

        :param path: the file; ``.zip`` is added to a name without a suffix.
        :param exclude: attributes to leave out beside those that always are.
        :param include: attributes to put in although they usually are not.
        :raises TypeError: if an attribute cannot be pickled, naming it; nothing was written.
        """
        if self._shards is None or self._shards.is_writer:
            save_whole(self, super().save, path, exclude, include)

    @classmethod
    def load(
        cls: type[SelfAlgorithm],
        path: Any,
        env: AnyEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfAlgorithm:
        """Load a model from a zip file of ours, of stock SB3 or of sb3-contrib's ``RecurrentPPO`` and ``MaskablePPO``.

        :param path: the file.
        :param env: environments to learn in; none are needed to predict.
        :param device: where the networks shall be.
        :param custom_objects: by name, in place of what the file has.
        :param print_system_info: of the file's machine and this one.
        :param force_reset: whether the environments begin anew.
        :param kwargs: attributes to change; a new ``learning_rate`` is also where an adaptive one starts again.
        :return: the model. Whether it can learn is asked when it learns: to predict, only its networks count.
        :raises TypeError: if custom_objects is no dictionary.
        :raises ValueError: if it is no such file, one with other networks than ours, or an argument is out of range.
        :raises ModuleNotFoundError: if the file needs a package that is not installed, naming which part of it does.
        """
        kwargs = plain_arguments(kwargs)
        check_arguments(kwargs)
        file = ModelFile(path)
        replacements, attributes = (
            file.replacements(custom_objects),
            file.attributes | kwargs | {"_explicit": {*kwargs}},
        )
        with file.naming_missing_packages():
            model = super().load(path, env, device, replacements, print_system_info, force_reset, **attributes)  # type: ignore[arg-type]
        if "learning_rate" in kwargs:
            model.rule_state = dataclasses.replace(model.rule_state, learning_rate=None)
        return model

    def _excluded_save_params(self) -> list[str]:
        # What the rule says is not said twice: a file holds the rule, and loading sets the attributes from it.
        of_rule = () if self._given_rule is None else RULE_ARGUMENTS
        return [*super()._excluded_save_params(), "critic_optimizer", *OF_A_RUN, *of_rule]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, others = super()._get_torch_save_params()
        return state_dicts + (["critic_optimizer"] if hasattr(self, "critic_optimizer") else []), others

    # -- the rule -----------------------------------------------------------------------------------------------------

    @property
    def rule(self) -> UpdateRule:
        """The choices of every update: the rule that was given, else the one that SB3's arguments describe."""
        return self._default_rule() if self._given_rule is None else self._given_rule

    def _default_rule(self) -> UpdateRule:
        """Stock SB3, with the present values of its arguments."""
        raise NotImplementedError

    def _buffer_lambda(self) -> float:
        """λ as SB3 takes it: the buffer's own, once there is a buffer. The model's attribute is only what builds it."""
        return getattr(getattr(self, "rollout_buffer", None), "gae_lambda", self.gae_lambda)

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

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        before, episodes = self._last_obs, self.ep_info_buffer
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
        if self._shards is not None and self.ep_info_buffer is not episodes:
            self._episodes = Episodes(self._shards)
        check_evaluations(self, result[1])
        self.watchers = Watchers(result[1])
        return result

    def _init_callback(self, callback: Any, progress_bar: bool = False) -> BaseCallback:
        whole: Any = super()._init_callback(callback, progress_bar)
        if progress_bar and self._shards is not None:
            whole.callbacks[-1] = ProgressBarCallback(self._shards.group.size)
            whole.callbacks[-1].init_callback(self)
        return whole  # type: ignore[no-any-return]

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
        is_complete = collect_rollouts(
            self,
            env,
            callback,
            rollout_buffer,
            n_rollout_steps,
            acting=self._begin_acting,
            prepare=lambda: self._prepare_buffer(rollout_buffer, self.rule),
            bootstrap_truncated=self.rule.truncation == "bootstrap",
            shards=self._shards,
        )
        if self._episodes is not None and is_complete:
            self._episodes.merge_into(self)
        if self._normalizers is not None and is_complete:
            self._normalizers.merge()
        return is_complete

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: Any = None) -> None:
        if self._episodes is None:
            super()._update_info_buffer(infos, dones)
        else:
            self._episodes.add(infos, dones, self.num_timesteps)

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
        self.last_report = Update(self, rule, coefficients, self.batch_size).run(self._phases(rule))
        self._count_skipped()
        self._say_execution()
        if rule.adaptive_learning_rate is not None:
            self.logger.record("train/learning_rate", self.policy.optimizer.param_groups[0]["lr"])
        if isinstance(rule.policy_objective, KLPenalty):
            self.logger.record("notes/kl_coef", coefficients.kl_coef)
        restarts = restarts_of(self.env)
        if restarts is not None:
            self.logger.record("notes/env_restarts", restarts)
        if self._shards is not None:
            self.logger.record("notes/processes", self._shards.group.size)
            if self._iteration % UPDATES_BETWEEN_COMPARISONS == 0:
                self._shards.check_equal(digest_of(self.policy), f"weights after {self.num_timesteps} steps")
        self._log(self.last_report, rule)
        self.watchers.tell("on_update", self.last_report)

    @property
    def engine(self) -> Engine:
        """Acts and learns on this machine: ``engine.report()`` says what ran, and why nothing faster."""
        choices: dict[str, Any] = {name: getattr(self, name) for name in ("compile", "precision", "on_nonfinite")}
        choices["shards"] = self._shards
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
        self.consecutive_skipped_updates = self.consecutive_skipped_updates + 1 if skipped.is_all else 0
        if self.consecutive_skipped_updates >= MOST_SKIPPED_UPDATES:
            updates = f"the last {MOST_SKIPPED_UPDATES} updates"
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
        """An actor of the policy as it is now."""
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
            return [Phase(self.policy.optimizer, weights, self.max_grad_norm, self.n_epochs, "both")]
        actor, critic = split_parameters(self.policy)
        return [
            Phase(self.policy.optimizer, actor, separate.actor.max_grad_norm, separate.actor.n_epochs, "policy"),
            Phase(self.critic_optimizer, critic, separate.critic.max_grad_norm, separate.critic.n_epochs, "critic"),
        ]

    def _together(self, **arguments: Any) -> AbstractContextManager[None]:
        """A context in which several processes learn one model; nothing of one process alone."""
        if self._shards is None:
            return nullcontext()
        # Those of the constructor again: attributes may have been changed since.
        present = {name: getattr(self, name, None) for name in self.constructor_parameters()}
        arguments["number of trained weights"] = sum(
            each.numel() for each in self.policy.parameters() if each.requires_grad
        )
        check_same_arguments(self._shards.group, present | arguments)
        return self._shards.learning(lambda: digest_of(self.policy))

    def learn(
        self: SelfAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback | list[SomeCallback] = None,
        log_interval: int | None = 1,
        tb_log_name: str = "OnPolicyAlgorithm",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAlgorithm:
        """Train: SB3's loop, and what lets it be left and taken up between two steps.

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
        if self._shards is not None and not self._shards.is_writer:
            callback, progress_bar = without_reports(callback), False
            silence(self)
        counts = {"num_timesteps": self.num_timesteps, "reset_num_timesteps": reset_num_timesteps}
        with _naming_checkpoint(self), self._together(total_timesteps=total_timesteps, **counts):
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
        if log_interval is not None and self.last_report is not before:
            dump_last_update(self.logger, self.num_timesteps)
        return self


@contextmanager
def _naming_checkpoint(model: NotesOnPolicyAlgorithm) -> Iterator[None]:
    """Say in an error where to go on from; it is changed in place, so that it keeps its traceback."""
    try:
        yield
    except NonFiniteError as error:
        path = model.last_checkpoint_path
        if path is not None and str(path) not in str(error):
            error.args = (f"{error}; the last good checkpoint is {path}",)
        raise
