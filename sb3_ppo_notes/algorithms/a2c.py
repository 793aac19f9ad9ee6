"""Advantage Actor-Critic: a drop-in for ``stable_baselines3.A2C``, and PPO with one epoch over one batch."""

from functools import lru_cache
from typing import Any, Literal, TypeVar

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from sb3_ppo_notes.algorithms.arguments import check_arguments
from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm, SomeCallback
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.envs.make import AnyEnv
from sb3_ppo_notes.processes import Group
from sb3_ppo_notes.rules import GAE, AdvantageNormalization, PolicyGradient, UpdateRule

SelfNotesA2C = TypeVar("SelfNotesA2C", bound="NotesA2C")


class NotesA2C(NotesOnPolicyAlgorithm):
    """A2C, bit for bit stock SB3's unless an extra is used.

    Step all environments ``n_steps`` times, then take *one* gradient step on everything. The first A is for advantage;
    what A3C does asynchronously is synchronous here. PPO with one epoch, one batch, no normalisation and the same
    optimiser is this very algorithm: at ratio 1 the gradient of the clipped surrogate is the policy gradient.

    Source: Mnih et al. 2016 (arXiv:1602.01783).
    Deviation from SB3: progress never leaves [0, 1]; ``ent_coef`` and ``vf_coef`` take schedules; the last update is
    logged too; a single sample is not normalised to NaN; wrong arguments are refused; NaN and infinity raise before
    they reach a weight.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, the same with ``Lstm`` before ``Policy``,
        or a class.
    :param env: an environment, several in a VecEnv, or the id of a registered one.
    :param learning_rate: ≥ 0, or a schedule of the remaining progress (1 → 0), or ``"lin_7e-4"`` for a line to 0.
    :param n_steps: T, steps of each environment in a rollout.
    :param gamma: γ in [0, 1], discount.
    :param gae_lambda: λ in [0, 1] of GAE; 1 is return − V.
    :param ent_coef: weight of the entropy bonus, or a schedule.
    :param vf_coef: weight of the value loss, or a schedule. Where actor and critic share no weights, an optimiser that
        divides a gradient's length out (RMSprop, Adam) hardly notices it in the critic; the common clip of the
        gradient's norm lets the actor notice it.
    :param max_grad_norm: longest gradient, > 0; ``None`` or infinity for no limit.
    :param rms_prop_eps: ε of RMSprop, keeps its denominator off 0.
    :param use_rms_prop: RMSprop (the original) in place of Adam, unless ``policy_kwargs`` names an optimiser.
    :param use_sde: state-dependent exploration (gSDE) in place of independent noise.
    :param sde_sample_freq: steps between two draws of gSDE's weights, below 1 for once a rollout.
    :param rollout_buffer_class: a buffer of your own, ``None`` for ours.
    :param rollout_buffer_kwargs: its further arguments.
    :param normalize_advantage: bring the advantages to mean 0 and deviation 1.
    :param stats_window_size: episodes that ``rollout/`` statistics are averaged over, ``None`` for all.
    :param tensorboard_log: folder of TensorBoard logs, ``None`` for none.
    :param policy_kwargs: further arguments of the policy.
    :param verbose: below 1 silent, 1 information, above debugging.
    :param seed: of all random generators.
    :param device: ``"cpu"``, ``"cuda"``, ``"auto"``, …
    :param _init_setup_model: whether to build the networks now.
    :param rule: the choices of the update, in place of those that ``gae_lambda`` and ``normalize_advantage`` describe.
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

    algorithm_name = "A2C"

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: AnyEnv | str,
        learning_rate: float | str | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float | None = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
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
        arguments = dict(locals())
        check_arguments({name: arguments.pop(name) for name in ("rms_prop_eps", "use_rms_prop")})
        if use_rms_prop and "optimizer_class" not in (policy_kwargs or {}):
            settings = dict(alpha=0.99, eps=rms_prop_eps, weight_decay=0)
            rms_prop = {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": settings}
            arguments["policy_kwargs"] = (policy_kwargs or {}) | rms_prop
        self._construct(arguments)

    @classmethod
    def load(cls: type[SelfNotesA2C], path: Any, *args: Any, **kwargs: Any) -> SelfNotesA2C:
        """Load a model from a zip file, see SB3's ``BaseAlgorithm.load``.

        :param path: the file.
        :param args: as in SB3.
        :param kwargs: as in SB3; ``policy_kwargs`` may be those of the constructor, without the optimiser that it
            chose.
        :return: the model.
        """
        policy_kwargs = kwargs.get("policy_kwargs")
        if policy_kwargs is not None and "optimizer_class" not in policy_kwargs:
            # SB3's A2C writes its RMSprop into the caller's dict, so that the same dict compares equal later on. Here
            # the caller's dict is left alone and the comparison is helped instead.
            data, _, _ = load_from_zip_file(path, custom_objects=kwargs.get("custom_objects"))
            stored = (data or {}).get("policy_kwargs", {})
            chosen = {key: stored[key] for key in ("optimizer_class", "optimizer_kwargs") if key in stored}
            kwargs["policy_kwargs"] = policy_kwargs | chosen
        return super().load(path, *args, **kwargs)

    def _default_rule(self) -> UpdateRule:
        return _stock_rule(self._buffer_lambda(), bool(self.normalize_advantage))

    def _log(self, report: UpdateReport, rule: UpdateRule) -> None:
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/explained_variance", report.explained_variance)
        self.logger.record("train/entropy_loss", report.entropy_loss)
        self.logger.record("train/policy_loss", report.policy_loss)
        self.logger.record("train/value_loss", report.value_loss)
        if getattr(self.policy, "log_std", None) is not None:
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())

    def learn(
        self: SelfNotesA2C,
        total_timesteps: int,
        callback: MaybeCallback | list[SomeCallback] = None,
        log_interval: int | None = 100,
        tb_log_name: str = "A2C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfNotesA2C:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    learn.__doc__ = NotesOnPolicyAlgorithm.learn.__doc__


@lru_cache(maxsize=16, typed=True)  # a float64 of NumPy is equal to a float and computes otherwise
def _stock_rule(gae_lambda: float, normalizes: bool) -> UpdateRule:
    """Kept, because it is asked for three times in an update that takes a millisecond."""
    return UpdateRule(
        advantage_estimator=GAE(gae_lambda),
        advantage_normalization=AdvantageNormalization("minibatch" if normalizes else "none"),
        policy_objective=PolicyGradient(),
    )
