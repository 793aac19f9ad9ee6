"""What NotesPPO and NotesA2C have in common: everything but their arguments and the names they log under."""

import inspect
import warnings
from typing import Any, ClassVar, TypeVar

import torch as th
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
from stable_baselines3.common.utils import update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.algorithms.arguments import check_arguments, check_learn_arguments, check_rollout_size
from sb3_ppo_notes.algorithms.construction import SuggestsKeywords, check_policy, made_environment
from sb3_ppo_notes.algorithms.from_recipe import found_recipe, recipe_arguments, recipe_environment
from sb3_ppo_notes.algorithms.loss import LossCoefficients
from sb3_ppo_notes.algorithms.optimizers import Phase, separate_optimizers, split_parameters
from sb3_ppo_notes.algorithms.report import UpdateReport, dump_last_update
from sb3_ppo_notes.algorithms.rule_arguments import check_rule_fits, take_arguments_from
from sb3_ppo_notes.algorithms.update import Update
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.rollouts import NotesDictRolloutBuffer, NotesRolloutBuffer, collect_rollouts, guard_normalizer
from sb3_ppo_notes.rules import KLPenalty, UpdateRule
from sb3_ppo_notes.rules.schedules import value_at
from sb3_ppo_notes.rules.state import RuleState

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="NotesOnPolicyAlgorithm")


class NotesOnPolicyAlgorithm(SuggestsKeywords, OnPolicyAlgorithm):
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
    #: What KL control has arrived at; saved with the model.
    rule_state: RuleState = RuleState()
    #: The critic's own optimiser, where the rule has separate ones.
    critic_optimizer: th.optim.Optimizer
    _given_rule: UpdateRule | None = None

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
            take_arguments_from(rule, self)
        if env is not None:
            self._check_rollout_size()

    def _check_rollout_size(self) -> None:
        rule = self.rule
        normalizes = rule.advantage_normalization.scope != "none"
        warns = not rule.optimization.drop_last
        check_rollout_size(self.n_steps, self.n_envs, self._batch_size(), normalizes, warns_of_rest=warns)

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
        return cls(env=wrapped, **recipe_arguments(recipe, wrapped, overrides))

    # -- the rule ---------------------------------------------------------------------------------------------

    @property
    def rule(self) -> UpdateRule:
        """The choices of every update: the rule that was given, else the one that SB3's arguments describe."""
        return self._default_rule() if self._given_rule is None else self._given_rule

    def _default_rule(self) -> UpdateRule:
        """Stock SB3, with the present values of its arguments."""
        raise NotImplementedError

    def _setup_model(self) -> None:
        # A loaded model comes through here with attributes that no constructor has seen. Warnings were given at
        # construction.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_arguments({name: value for name, value in vars(self).items() if name != "device"})
            self._check_rollout_size()
        if self._given_rule is not None:
            take_arguments_from(self._given_rule, self)
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = NotesDictRolloutBuffer if is_dict else NotesRolloutBuffer
        super()._setup_model()
        check_rule_fits(self.rule, self.policy, self.rollout_buffer)
        self._setup_optimizers()

    def _setup_optimizers(self) -> None:
        """Give actor and critic an optimiser each, if the rule says so. SB3 has built one for all weights by now."""
        separate = self.rule.optimization.separate
        if separate is None:
            return
        self.policy.optimizer, self.critic_optimizer = separate_optimizers(self.policy, separate)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "critic_optimizer"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, others = super()._get_torch_save_params()
        return state_dicts + (["critic_optimizer"] if self.rule.optimization.separate else []), others

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
        """Set the learning rates of this update, and log the (actor's) rate."""
        progress = self._current_progress_remaining
        value_at("learning_rate", self.lr_schedule, progress)
        super()._update_learning_rate(optimizers)
        rule = self.rule
        if rule.optimization.separate is not None:
            actor, critic = rule.optimization.separate.actor, rule.optimization.separate.critic
            update_learning_rate(self.policy.optimizer, value_at("learning_rate", actor.learning_rate, progress))
            update_learning_rate(self.critic_optimizer, value_at("learning_rate", critic.learning_rate, progress))
            self.logger.record("notes/critic_learning_rate", self.critic_optimizer.param_groups[0]["lr"])
        if rule.adaptive_learning_rate is not None and self.rule_state.learning_rate is not None:
            update_learning_rate(self.policy.optimizer, self.rule_state.learning_rate)
        self._log_learning_rate()

    def _log_learning_rate(self) -> None:
        self.logger.record("train/learning_rate", self.policy.optimizer.param_groups[0]["lr"])

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
            self._kl_coef(rule),
        )
        self.last_report = Update(self, rule, coefficients, self._batch_size()).run(self._phases(rule))
        if rule.adaptive_learning_rate is not None:
            self._log_learning_rate()
        if isinstance(rule.policy_objective, KLPenalty):
            self.logger.record("notes/kl_coef", coefficients.kl_coef)
        self._log(self.last_report, rule)

    def _kl_coef(self, rule: UpdateRule) -> float:
        if not isinstance(rule.policy_objective, KLPenalty):
            return 0.0
        return rule.policy_objective.coefficient if self.rule_state.kl_coef is None else self.rule_state.kl_coef

    def _phases(self, rule: UpdateRule) -> list[Phase]:
        """Who is trained in this update: everything together, or the actor and then the critic."""
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
            dump_last_update(self.logger, self.num_timesteps)
        return self
