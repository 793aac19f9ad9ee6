"""How a model comes about: from arguments, from a recipe, from a file."""

import inspect
import logging
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.algorithms.arguments import (
    CHECKS,
    AnsweredOnce,
    ask_schedules,
    check_arguments,
    plain_arguments,
    warn_of_doubtful_arguments,
)
from sb3_ppo_notes.algorithms.construction import SuggestsKeywords, check_policy
from sb3_ppo_notes.algorithms.equivalents import ReadsFilesOfOthers
from sb3_ppo_notes.algorithms.from_recipe import found_recipe, recipe_arguments, recipe_environment
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.algorithms.rule_arguments import RULE_ARGUMENTS, check_context, check_rule_fits, take_arguments_from
from sb3_ppo_notes.algorithms.saving import SavesAtomically, unsaved_names
from sb3_ppo_notes.algorithms.sizes import check_sizes
from sb3_ppo_notes.algorithms.watching import Watchers
from sb3_ppo_notes.engine import Engine
from sb3_ppo_notes.envs.make import make_env
from sb3_ppo_notes.envs.spaces import SUPPORTED, check_spaces
from sb3_ppo_notes.formulas.checks import InvalidTypeError, check_choice, check_flag
from sb3_ppo_notes.policies.masks import mask_sizes
from sb3_ppo_notes.policies.memory import States
from sb3_ppo_notes.policies.networks import NotesActorCriticCnnPolicy, NotesActorCriticPolicy, NotesMultiInputPolicy
from sb3_ppo_notes.policies.parameters import separate_optimizers
from sb3_ppo_notes.policies.precision import PRECISIONS, remembers_in_single
from sb3_ppo_notes.policies.recurrent import (
    NotesCnnRecurrentPolicy,
    NotesMultiInputRecurrentPolicy,
    NotesRecurrentPolicy,
)
from sb3_ppo_notes.rollouts import NotesDictRolloutBuffer, NotesRolloutBuffer, guard_environments
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.state import RuleState

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="BuiltFromArguments")

logger = logging.getLogger("sb3_ppo_notes")


class BuiltFromArguments(SuggestsKeywords, SavesAtomically, ReadsFilesOfOthers, OnPolicyAlgorithm):
    """How NotesPPO and NotesA2C come about: from arguments, from a recipe, from a file. How they learn is in
    ``on_policy``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": NotesActorCriticPolicy,
        "CnnPolicy": NotesActorCriticCnnPolicy,
        "MultiInputPolicy": NotesMultiInputPolicy,
        "MlpLstmPolicy": NotesRecurrentPolicy,
        "CnnLstmPolicy": NotesCnnRecurrentPolicy,
        "MultiInputLstmPolicy": NotesMultiInputRecurrentPolicy,
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
    batch_size: int | None
    #: The algorithm's name in the field, for messages.
    algorithm_name: ClassVar[str]
    #: What the last update did; ``None`` before the first.
    last_report: UpdateReport | None = None
    #: What KL control has arrived at; saved with the model.
    rule_state: RuleState = RuleState()
    #: The critic's own optimiser, where the rule has separate ones.
    critic_optimizer: th.optim.Optimizer
    #: Whether the environments say which actions are allowed.
    action_masking: bool = False
    #: Whether updates and acting are compiled.
    compile: bool = False
    #: What the networks compute in.
    precision: str = "float32"
    #: Carries out acting and learning; made when it is first asked for.
    _engine: Engine | None = None
    #: What was last said of it.
    _said_execution: tuple[str | None, ...] = ()
    #: Callbacks of the current run that want to see its updates.
    watchers: Watchers
    #: What a loss, gradient or weight that is not finite leads to.
    on_nonfinite: str = "raise"
    #: Steps left out because something was not finite, in all updates so far ...
    skipped_updates: int = 0
    #: ... and how many updates in a row have taken no step for that reason.
    barren_updates: int = 0
    #: The last checkpoint written of this model: set by whoever writes one, named in errors.
    last_checkpoint_path: Any = None
    #: Asked between two environment steps whether to go on: where a run can be saved or left. Emptied by ``learn``.
    between_steps: list[Callable[[], bool]]
    _given_rule: UpdateRule | None = None
    #: What a recurrent policy remembers of each training environment.
    _last_states: States | None = None

    def _construct(
        self,
        arguments: dict[str, Any],
        rule: UpdateRule | None,
        action_masking: bool,
        compile: bool,
        precision: str,
        on_nonfinite: str,
    ) -> None:
        """The constructor's common half.

        :param arguments: of the subclass's constructor, by name, without ``self`` and the extras.
        :param rule: replaces the rule that the arguments would build.
        :param action_masking: whether the environments say which actions are allowed.
        :param compile: whether updates and acting are compiled.
        :param precision: what the networks compute in.
        :param on_nonfinite: what a loss, gradient or weight that is not finite leads to.
        """
        check_flag("action_masking", action_masking)
        check_flag("compile", compile)
        check_choice("precision", precision, tuple(PRECISIONS))
        check_choice("on_nonfinite", on_nonfinite, ("raise", "skip_update"))
        if not (rule is None or isinstance(rule, UpdateRule)):
            raise InvalidTypeError(f"rule must be an UpdateRule or None, got {rule!r}")
        is_new = arguments.pop("_init_setup_model")
        # Whether one sample is enough for a minibatch is for the rule to say, if there is one.
        normalizes = {} if rule is None else {"normalize_advantage": rule.advantage_normalization.scope != "none"}
        check_arguments(arguments | normalizes)
        ask_schedules(arguments)
        if rule is not None:
            rule.at(1.0)
        warn_of_doubtful_arguments(arguments)
        check_policy(arguments["policy"], self.policy_aliases, arguments["policy_kwargs"])
        env = arguments["env"]
        if is_new:
            env = make_env(env, arguments["verbose"])
        theirs = inspect.signature(OnPolicyAlgorithm.__init__).parameters
        passed_on = {name: value for name, value in arguments.items() if name in theirs}
        super().__init__(**passed_on | {"env": env}, supported_action_spaces=SUPPORTED, _init_setup_model=False)
        if is_new:
            # Once more, now that SB3 has wrapped an environment of OpenAI's Gym.
            is_flattened = isinstance(arguments["policy"], str) and "features_extractor_class" not in self.policy_kwargs
            check_spaces(self.observation_space, self.action_space, is_flattened=is_flattened)
        for name, value in arguments.items():
            if name not in theirs:
                setattr(self, name, value)
        self._given_rule = rule
        self.watchers = Watchers()
        self.between_steps = []
        self.action_masking = action_masking
        self.compile = compile
        self.precision = precision
        self.on_nonfinite = on_nonfinite
        if rule is not None:
            take_arguments_from(rule, self)
        if is_new:
            check_sizes(self.n_steps, self.n_envs, self._batch_size(), self.rule)

    @classmethod
    def from_recipe(
        cls: type[SelfAlgorithm], name: str, env: GymEnv | str, *, n_envs: int | None = None, **overrides: Any
    ) -> SelfAlgorithm:
        """A seed system's algorithm, network and wrappers, on your environment.

        :param name: a key of ``sb3_ppo_notes.recipes.RECIPES``.
        :param env: an id, an environment or a VecEnv; the recipe's wrappers go around it.
        :param n_envs: another number of environments than the recipe's, if ``env`` is an id.
        :param overrides: constructor arguments in place of the recipe's; ``policy_kwargs`` are merged.
        :return: a model, not trained yet.
        :raises ValueError: if there is no such recipe, or it is of the other algorithm.
        """
        recipe = found_recipe(name, cls.algorithm_name.lower())
        wrapped = recipe_environment(recipe, env, n_envs, overrides.get("seed"))
        model: SelfAlgorithm = cls(env=wrapped, **recipe_arguments(recipe, wrapped, overrides))
        return model

    # -- the rule ---------------------------------------------------------------------------------------------

    @property
    def rule(self) -> UpdateRule:
        """The choices of every update: the rule that was given, else the one that SB3's arguments describe."""
        return self._default_rule() if self._given_rule is None else self._given_rule

    def _batch_size(self) -> int | None:
        """Samples in a minibatch, ``None`` for the whole rollout."""
        raise NotImplementedError

    def _buffer_lambda(self) -> float:
        """λ as SB3 takes it: the buffer's own, once there is a buffer. The model's attribute is only what builds it."""
        return getattr(getattr(self, "rollout_buffer", None), "gae_lambda", self.gae_lambda)

    def _default_rule(self) -> UpdateRule:
        """Stock SB3, with the present values of its arguments."""
        raise NotImplementedError

    def _setup_model(self) -> None:
        # A loaded model comes through here with attributes that no constructor has seen. Whether it can learn with them
        # is asked when it learns: to predict they do not matter.
        if "rule" in vars(self):
            self._given_rule = vars(self).pop("rule")
        vars(self).update(plain_arguments({name: vars(self)[name] for name in CHECKS if name in vars(self)}))
        if self._given_rule is not None:
            take_arguments_from(self._given_rule, self)
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = NotesDictRolloutBuffer if is_dict else NotesRolloutBuffer
        super()._setup_model()
        if isinstance(self.lr_schedule, AnsweredOnce):  # a subclass may have a schedule of its own
            self.lr_schedule = self.lr_schedule.schedule
        self._set_precision()
        if self._given_rule is not None:
            check_rule_fits(self._given_rule, self.policy, self.rollout_buffer)
        self._prepare_memory_and_masks()
        self._setup_optimizers()

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self.lr_schedule: Any = AnsweredOnce("learning_rate", self.lr_schedule)

    def _set_precision(self) -> None:
        self.policy.precision = self.precision  # type: ignore[assignment]
        if isinstance(self.policy, NotesRecurrentPolicy) and remembers_in_single(self.policy):
            name, place = type(self.policy.lstm_actor).__name__, "processor" if self.device.type == "cpu" else "device"
            logger.warning(
                "precision=%r is for the networks; the memory stays in float32, because PyTorch has no %s in %s for "
                "this %s",
                *(self.precision, name, self.precision, place),
            )

    def _prepare_memory_and_masks(self) -> None:
        check_context(self.policy, self.rollout_buffer, self._given_rule or UpdateRule(), self.action_masking)
        if self.action_masking:
            mask_sizes(self.action_space)
        self._prepare_buffer(self.rollout_buffer, self._given_rule)

    def _prepare_buffer(self, rollout_buffer: Any, rule: UpdateRule | None) -> None:
        """Tell a buffer of ours what it is filled and gone through for; any other knows."""
        if isinstance(rollout_buffer, NotesRolloutBuffer):
            sequences = self.policy.sequences if isinstance(self.policy, NotesRecurrentPolicy) else None
            rollout_buffer.prepare(rule, batch_size=self._batch_size(), sequences=sequences)

    def _setup_optimizers(self) -> None:
        """Give actor and critic an optimiser each, if the rule says so. SB3 has built one for all weights by now."""
        separate = None if self._given_rule is None else self._given_rule.optimization.separate
        if separate is None:
            return
        self.policy.optimizer, self.critic_optimizer = separate_optimizers(self.policy, separate)

    def _excluded_save_params(self) -> list[str]:
        # What the rule says is not said twice: a file holds the rule, and loading sets the attributes from it.
        said_by_rule = [] if self._given_rule is None else list(RULE_ARGUMENTS)
        return [
            *super()._excluded_save_params(),
            "critic_optimizer",
            "_last_states",
            "_engine",
            "_said_execution",
            "watchers",
            "last_checkpoint_path",
            *unsaved_names(),
            *said_by_rule,
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, others = super()._get_torch_save_params()
        return state_dicts + (["critic_optimizer"] if hasattr(self, "critic_optimizer") else []), others

    def _maybe_recommend_cpu(self, mlp_class_name: str = "NotesActorCriticPolicy") -> None:
        if self.device.type != "cpu" and self.policy_class.__name__ == mlp_class_name:
            warnings.warn(
                f"You are trying to run {self.algorithm_name} on the GPU with MlpPolicy, a small network: "
                "each of its many steps costs more to launch than to compute; device='cpu' is usually faster "
                "(SB3 issue #1245).",
                UserWarning,
                stacklevel=2,
            )

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return guard_environments(OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper))
