"""Proximal Policy Optimisation: a drop-in for ``stable_baselines3.PPO``."""

from typing import Any, Literal, TypeVar

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm, SomeCallback
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.envs.make import AnyEnv
from sb3_ppo_notes.processes import Group
from sb3_ppo_notes.rules import (
    GAE,
    AdvantageNormalization,
    ClippedSurrogate,
    ClippedValueError,
    EarlyStop,
    SquaredValueError,
    UpdateRule,
)

SelfNotesPPO = TypeVar("SelfNotesPPO", bound="NotesPPO")


class NotesPPO(NotesOnPolicyAlgorithm):
    """PPO (clip version), bit for bit stock SB3's unless an extra is used.

    Gather ``n_steps`` of each environment, then go ``n_epochs`` times through them in minibatches, ascending the
    clipped surrogate.

    Source: Schulman et al. 2017 (arXiv:1707.06347), algorithm 1.
    Deviation from SB3: progress never leaves [0, 1]; ``ent_coef`` and ``vf_coef`` take schedules; the last update is
    logged too; wrong arguments are refused; NaN and infinity raise before they reach a weight.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, the same with ``Lstm`` before ``Policy``,
        or a class.
    :param env: an environment, several in a VecEnv, or the id of a registered one.
    :param learning_rate: ≥ 0, or a schedule of the remaining progress (1 → 0), or ``"lin_3e-4"`` for a line to 0.
    :param n_steps: T, steps of each environment in a rollout.
    :param batch_size: N, samples in a minibatch; best a divisor of ``n_steps * n_envs``. ``None`` for all, as in
        sb3-contrib; so is a larger number than that.
    :param n_epochs: K, passes over each rollout.
    :param gamma: γ in [0, 1], discount.
    :param gae_lambda: λ in [0, 1] of GAE.
    :param clip_range: ε ≥ 0 of the clipped surrogate, or a schedule; infinity for no clip.
    :param clip_range_vf: ε > 0 of the value clip in reward units, or a schedule; ``None`` for no clip.
    :param normalize_advantage: bring each minibatch's advantages to mean 0 and deviation 1.
    :param ent_coef: weight of the entropy bonus, or a schedule.
    :param vf_coef: weight of the value loss, or a schedule. Where actor and critic share no weights and the optimiser
        is Adam, which divides a gradient's length out, it changes the critic's step not at all and, through the common
        clip of the gradient's norm, the actor's.
    :param max_grad_norm: longest gradient, > 0; ``None`` or infinity for no limit.
    :param use_sde: state-dependent exploration (gSDE) in place of independent noise.
    :param sde_sample_freq: steps between two draws of gSDE's weights, below 1 for once a rollout.
    :param rollout_buffer_class: a buffer of your own, ``None`` for ours.
    :param rollout_buffer_kwargs: its further arguments.
    :param target_kl: stop an update when the estimated KL(old ‖ new) of a minibatch exceeds 1.5 times this; ``None``
        never.
    :param stats_window_size: episodes that ``rollout/`` statistics are averaged over, ``None`` for all.
    :param tensorboard_log: folder of TensorBoard logs, ``None`` for none.
    :param policy_kwargs: further arguments of the policy.
    :param verbose: below 1 silent, 1 information, above debugging.
    :param seed: of all random generators.
    :param device: ``"cpu"``, ``"cuda"``, ``"auto"``, …
    :param _init_setup_model: whether to build the networks now.
    :param rule: the choices of the update, in place of those that ``gae_lambda``, ``clip_range``, ``clip_range_vf``,
        ``normalize_advantage`` and ``target_kl`` describe.
    :param action_masking: ask the environments' ``action_masks()`` before each step which actions are allowed
        (sb3-contrib's convention).
    :param compile: compile the step of a minibatch and the acting. Several times faster on small networks; equal to
        the eager ones up to rounding. Needs a C++ compiler; what it cannot take stays eager, and the log says why. Of
        a recurrent policy memory and acting stay as they are, and what stands on the memory is compiled.
    :param precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``: what the networks compute in (autocast); weights
        and optimiser stay in float32. float16 scales its loss and leaves out steps that overflow.
    :param on_nonfinite: what a loss, a gradient or a weight that is NaN or infinite leads to: ``"raise"`` a
        NonFiniteError, or ``"skip_update"``: leave out that step (if it is a weight: undo the update), count it as
        ``notes/skipped_updates``, and raise only after ten updates of which nothing was left.
    :param processes: ``"auto"``: this process is one of those that torchrun has started, and all of them train this
        one model; or a :class:`~sb3_ppo_notes.processes.Group`. ``batch_size`` and all numbers of steps are then those
        of the whole training, ``env`` this process's share of the environments. ``None`` for one process.
    :param shards: number V of parts of the training, a multiple of the number of processes; ``None`` for one a process.
        It decides what is computed: with V fixed, any number of processes ends with the same weights.
    :raises TypeError: for an argument of the wrong type, naming it, its value and the allowed range.
    :raises ValueError: for an argument out of range, likewise.
    """

    algorithm_name = "PPO"

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: AnyEnv | str,
        learning_rate: float | str | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int | None = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | str | Schedule = 0.2,
        clip_range_vf: float | str | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float | None = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        rule: UpdateRule | None = None,
        action_masking: bool = False,
        compile: bool = False,
        precision: str = "float32",
        on_nonfinite: str = "raise",
        processes: Literal["auto"] | Group | None = None,
        shards: int | None = None,
    ):
        self._construct(locals())

    def _setup_model(self) -> None:
        super()._setup_model()
        # SB3 keeps both as FloatSchedules, and so do its callbacks and its rl_zoo3.
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def _default_rule(self) -> UpdateRule:
        value_objective = SquaredValueError() if self.clip_range_vf is None else ClippedValueError(self.clip_range_vf)
        return UpdateRule(
            advantage_estimator=GAE(self._buffer_lambda()),
            advantage_normalization=AdvantageNormalization("minibatch" if self.normalize_advantage else "none"),
            policy_objective=ClippedSurrogate(self.clip_range),
            value_objective=value_objective,
            kl_controls=() if self.target_kl is None else (EarlyStop(self.target_kl),),
        )

    def _log(self, report: UpdateReport, rule: UpdateRule) -> None:
        self.logger.record("train/entropy_loss", report.entropy_loss)
        self.logger.record("train/policy_gradient_loss", report.policy_loss)
        self.logger.record("train/value_loss", report.value_loss)
        self.logger.record("train/approx_kl", report.approx_kl)
        self.logger.record("train/clip_fraction", report.clip_fraction)
        self.logger.record("train/loss", report.loss)
        self.logger.record("train/explained_variance", report.explained_variance)
        if getattr(self.policy, "log_std", None) is not None:
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for choice, name in ((rule.policy_objective, "clip_range"), (rule.value_objective, "clip_range_vf")):
            if hasattr(choice, name):
                self.logger.record(f"train/{name}", getattr(choice, name))

    def learn(
        self: SelfNotesPPO,
        total_timesteps: int,
        callback: MaybeCallback | list[SomeCallback] = None,
        log_interval: int | None = 1,
        tb_log_name: str = "PPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfNotesPPO:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    learn.__doc__ = NotesOnPolicyAlgorithm.learn.__doc__
