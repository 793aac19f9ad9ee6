"""One collector for every algorithm, policy and space: act, step, remember, until the rollout is full."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_ppo_notes.formulas.advantages import bootstrap_time_limits
from sb3_ppo_notes.policies.actor_critic import values_of
from sb3_ppo_notes.policies.masks import collect_masks
from sb3_ppo_notes.policies.memory import Recurrence, States
from sb3_ppo_notes.policies.modes import set_training_mode
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.policies.shipped import has_shipped_methods, is_library_class, original
from sb3_ppo_notes.processes.shards import STEPS_BETWEEN_QUESTIONS, Shards
from sb3_ppo_notes.rollouts.buffers import NotesRolloutBuffer
from sb3_ppo_notes.rollouts.finite import (
    check_actions,
    check_finite,
    check_policy_output,
    check_terminal_observation,
    warn_of_far_observations,
)
from sb3_ppo_notes.rollouts.pausing import UnfinishedStep, reset_noise, run_step_hooks, start_or_resume_rollout
from sb3_ppo_notes.rollouts.step_errors import add_place, check_batch, shape_error

#: Methods of a callback that are called while a rollout goes on.
CALLED = ("on_step", "_on_step", "update_locals", "update_child_locals")
#: As they were written, whatever somebody has put in their place since, in the class or in an instance.
STEP, ADD = original(VecEnv, "step"), original(NotesRolloutBuffer, "add")


class Actor(Protocol):
    """Chooses actions; their values and log-probabilities come afterwards, while the environments compute."""

    def begin(self) -> None:
        """Adapt to the policy as it is now."""

    def choose(self, observations: Any, action_masks: th.Tensor | None, recurrence: Any) -> Any:
        """Draw actions.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param action_masks: ``[B, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: ``actions`` ``[B, ...]``, and what :meth:`assess` needs.
        """

    def assess(self, choice: Any) -> Any:
        """Values and log-probabilities of a choice.

        :param choice: of :meth:`choose`.
        :return: ``actions``, ``values``, ``log_probs`` and a recurrent policy's next ``states``.
        """

    def values(self, observations: Any, recurrence: Any = None) -> th.Tensor:
        """V(s), where nobody acts.

        :param observations: ``[B, ...]`` tensor or dict of tensors.
        :param recurrence: one step of a recurrent policy; ``None`` for a policy without memory.
        :return: ``[B, 1]``; reward units.
        """


def collect_rollouts(
    model: OnPolicyAlgorithm,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
    *,
    acting: Callable[[], Actor],
    prepare: Callable[[], None] = lambda: None,
    bootstrap_truncated: bool = True,
    shards: Shards | None = None,
) -> bool:
    """Fill a buffer with experience of the current policy.

    Order of operations, use of random numbers, callback calls and names in ``callback.locals`` are SB3's. One thing is
    not: SB3 adds the value of a truncated episode's last observation to the very ``rewards`` that the callback was
    given; here the callback keeps what the environment paid.

    :param model: the algorithm: its policy acts, its counters advance.
    :param env: the training environments.
    :param callback: called at the start, after every step and at the end.
    :param rollout_buffer: emptied, then filled.
    :param n_rollout_steps: T, steps of each environment.
    :param acting: finds out how actions are chosen; asked again whenever somebody may have changed the policy.
    :param prepare: sets in the buffer what the rollout is for; called again before advantages are computed.
    :param bootstrap_truncated: whether a time limit's cut is bootstrapped (SB3) or taken for a terminal state.
    :param shards: of a training on several processes: the steps of all are counted, and all leave at the same step.
    :return: ``False`` if the callback, or a hook between two steps, asked to stop; the rollout is then incomplete.
    :raises NonFiniteError: if an observation, a reward or the policy's output is not finite.
    """
    check_batch(model._last_obs, model.observation_space, env.num_envs)
    check_finite("observation", model._last_obs, model.num_timesteps)
    # Evaluation mode: dropout and batch normalisation must not differ between one step and the next.
    set_training_mode(model.policy, False)
    first = start_or_resume_rollout(model, env, callback, rollout_buffer)
    prepare()
    visible: dict[str, Any] = {"self": model, "env": env, "callback": callback, "n_rollout_steps": n_rollout_steps}
    visible["rollout_buffer"] = rollout_buffer
    may_change = runs_own_code(callback)
    stepping = _Stepping(model, env, rollout_buffer, acting(), may_change, bootstrap_truncated)
    all_processes = _AllProcesses(shards, env.num_envs, n_rollout_steps)
    step = {} if first < n_rollout_steps else _last_step(model, rollout_buffer)
    if step and not run_step_hooks(model, first):
        return False
    for n_steps in range(first, n_rollout_steps):
        if not run_step_hooks(model, n_steps):
            return False
        if model.use_sde and model.sde_sample_freq > 0 and n_steps % model.sde_sample_freq == 0:
            reset_noise(model, env)
        step = stepping.step()
        model.num_timesteps += all_processes.n_envs
        callback.update_locals({**visible, **step, "n_steps": n_steps})
        if all_processes.stop(not callback.on_step(), n_steps):
            unfinished = UnfinishedStep(env, n_steps, partial(stepping.store, step))
            model._unfinished_step = unfinished  # type: ignore[attr-defined]
            return False
        if may_change:
            stepping.actor = acting()
        stepping.store(step)

    last_values = _last_values(model, env, rollout_buffer, stepping.actor)
    prepare()
    if isinstance(rollout_buffer, NotesRolloutBuffer):
        rollout_buffer.store_end(model._last_obs, step["dones"])
    rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=step["dones"])
    callback.update_locals(
        visible
        | step
        | {"n_steps": n_rollout_steps, "values": last_values, "actions": _as_stored(model, step["actions"])}
    )
    callback.on_rollout_end()
    return True


class _AllProcesses:
    """The processes of a training as they gather a rollout, be it a single one."""

    def __init__(self, shards: Shards | None, n_envs: int, n_rollout_steps: int):
        self.shards = shards
        self.n_envs = n_envs if shards is None else n_envs * shards.group.size
        self.last = n_rollout_steps - 1
        self.is_wished = False

    def stop(self, is_wished: bool, n_steps: int) -> bool:
        """``True`` if a callback's wish to stop is to be followed now: all processes leave at the same step."""
        if self.shards is None:
            return is_wished
        self.is_wished |= is_wished
        is_time = n_steps == self.last or (n_steps + 1) % STEPS_BETWEEN_QUESTIONS == 0
        return is_time and self.shards.any(self.is_wished)


def _last_values(model: OnPolicyAlgorithm, env: VecEnv, rollout_buffer: RolloutBuffer, actor: Actor) -> th.Tensor:
    """V of the states after the last step, ``[B, 1]``; a last look at the rollout before advantages are made of it."""
    with th.no_grad():
        last_obs = obs_as_tensor(model._last_obs, model.device)  # type: ignore[arg-type]
        last_values = actor.values(last_obs, _recurrence(model, model._last_episode_starts))
    check_policy_output(rollout_buffer, last_values, model.policy, model.num_timesteps)
    warn_of_far_observations(model, env, rollout_buffer)
    return last_values


class _Stepping:
    """One step in every environment, over and over; what does not change within a rollout is looked up once.

    :param model: the algorithm.
    :param env: the training environments.
    :param rollout_buffer: where a step is stored, as far as it is known before the environments have answered.
    :param actor: chooses actions.
    :param may_change: whether a callback may change a step after it was made.
    :param bootstrap_truncated: whether a time limit's cut is bootstrapped.
    """

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        env: VecEnv,
        rollout_buffer: RolloutBuffer,
        actor: Actor,
        may_change: bool,
        bootstrap_truncated: bool,
    ):
        self.model = model
        self.env = env
        self.buffer: Any = rollout_buffer
        self.actor = actor
        self.bootstrap_truncated = bootstrap_truncated
        self.is_masked = getattr(model, "action_masking", False)
        #: The buffer is ours; one whose ``add`` is somebody else's wants to be asked.
        self.is_ours = _is_method(rollout_buffer.add, ADD)
        #: It takes a step in two halves: SB3 stores a step after the callbacks have seen it.
        self.is_halved = self.is_ours and not may_change
        self._is_split = _is_method(env.step, STEP)

    def step(self) -> dict[str, Any]:
        """Act once in every environment.

        :return: what SB3's collector has in its local variables at this point, by SB3's names.
        """
        model, env = self.model, self.env
        obs_tensor = obs_as_tensor(model._last_obs, model.device)  # type: ignore[arg-type]
        masks = collect_masks(env) if self.is_masked else None
        mask_tensor = None if masks is None else th.as_tensor(masks, device=model.device)
        recurrence = _recurrence(model, model._last_episode_starts)
        with th.no_grad():
            choice = self.actor.choose(obs_tensor, mask_tensor, recurrence)
            sampled = choice.actions.cpu().numpy()
            check_actions(sampled, model.policy, model.num_timesteps)
            clipped_actions = environment_actions(model.policy, sampled)
            # While environments in other processes compute, the critic speaks and the buffer is written.
            if self._is_split:
                env.step_async(clipped_actions)
            action = self.actor.assess(choice)
        step = {
            "obs_tensor": obs_tensor,
            "actions": sampled,
            "values": action.values,
            "log_probs": action.log_probs,
            "action_masks": masks,
            "states": action.states,
            # As the policy used them: already forgotten where an episode has just begun.
            "states_before": None if recurrence is None else recurrence.states,
            "clipped_actions": clipped_actions,
        }
        if self.is_halved:
            self._store_policy_step(step)
        step["new_obs"], step["rewards"], step["dones"], step["infos"] = self._answers(clipped_actions)
        return step

    def _store_policy_step(self, step: dict[str, Any]) -> None:
        self.buffer.store_policy_step(
            self.model._last_obs,
            step["actions"],
            self.model._last_episode_starts,
            step["values"],
            step["log_probs"],
            step["action_masks"],
            step["states_before"],
        )

    def store(self, step: dict[str, Any]) -> None:
        """Put a step, or the half that is not there yet, into the buffer, and move on to the next observation.

        :param step: of :meth:`step`, as the callbacks have left it.
        """
        model, buffer = self.model, self.buffer
        model._update_info_buffer(step["infos"], step["dones"])
        rewards = step["rewards"]
        truncated = _truncated_episodes(step["dones"], step["infos"]) if self.bootstrap_truncated else []
        if truncated:
            terminal_values = _terminal_values(model.policy, truncated, len(rewards), step["states"])
            paid = np.asarray(rewards)
            # SB3 adds in place: an array of integers keeps the whole part.
            dtype = paid.dtype if hasattr(rewards, "dtype") else np.float32
            rewards = bootstrap_time_limits(paid, terminal_values, model.gamma).astype(dtype, copy=False)
        if self.is_ours:
            if not self.is_halved:
                self._store_policy_step(step)
            buffer.store_transition(rewards, step["rewards"], truncated)
        else:
            if isinstance(buffer, NotesRolloutBuffer):
                buffer.store_beside_add(step["action_masks"], step["states_before"], step["rewards"], truncated)
            actions, starts = _as_stored(model, step["actions"]), model._last_episode_starts
            buffer.add(model._last_obs, actions, rewards, starts, step["values"], step["log_probs"])
        model._last_obs = step["new_obs"]
        model._last_episode_starts = step["dones"]
        if step["states"] is not None:
            model._last_states = step["states"]  # type: ignore[attr-defined]

    def _answers(self, clipped_actions: np.ndarray) -> VecEnvStepReturn:
        """The environments' answer to an action, checked."""
        env, step = self.env, self.model.num_timesteps + self.env.num_envs
        try:
            new_obs, rewards, dones, infos = env.step_wait() if self._is_split else env.step(clipped_actions)
        except Exception as error:
            add_place(error, env, clipped_actions, step)
            clear = shape_error(error, env.observation_space)
            if clear is None:
                raise
            clear.__notes__ = error.__notes__
            raise clear from error
        check_batch(new_obs, self.model.observation_space, env.num_envs)
        check_finite("reward", rewards, step)
        check_finite("observation", new_obs, step)
        return new_obs, rewards, np.asarray(dones), infos


def _is_method(method: Any, function: Any) -> bool:
    """``True`` for this very function of a class, and nobody's own."""
    return function is not None and getattr(method, "__func__", None) is function


def _as_stored(model: OnPolicyAlgorithm, actions: np.ndarray) -> np.ndarray:
    """Actions as SB3's buffers take them: single numbers in a row each."""
    return actions.reshape(-1, 1) if isinstance(model.action_space, spaces.Discrete) else actions


def _last_step(model: OnPolicyAlgorithm, rollout_buffer: RolloutBuffer) -> dict[str, Any]:
    """The last step of a rollout that was full when its run was cut; infos are no part of a rollout."""
    return {
        "actions": rollout_buffer.actions[-1],
        "rewards": rollout_buffer.rewards[-1],
        "new_obs": model._last_obs,
        "dones": model._last_episode_starts,
        "infos": [{} for _ in range(model.n_envs)],
    }


def environment_actions(policy: ActorCriticPolicy, actions: np.ndarray) -> np.ndarray:
    """Actions as the environment takes them.

    A Gaussian knows no bounds, so its actions are clipped; a squashed one lives in [−1, 1] and is stretched to the
    bounds. The buffer keeps the action as sampled: log-probability and gradient belong to that one.

    :param policy: for the action space and whether it squashes.
    :param actions: ``[B, ...]`` as sampled.
    :return: ``[B, ...]`` within the action space.
    """
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return actions
    if policy.squash_output:
        return np.asarray(policy.unscale_action(actions))
    clipped: np.ndarray = np.clip(actions, space.low, space.high)
    return clipped


def _recurrence(model: Any, episode_starts: Any) -> Recurrence | None:
    """One step of a recurrent policy from where it was; ``None`` for a policy without memory."""
    if not isinstance(model.policy, NotesRecurrentPolicy):
        return None
    if model._last_states is None:
        model._last_states = model.policy.initial_states(model.n_envs)
    return model.policy.one_step(model._last_states, th.as_tensor(episode_starts, device=model.device))


def _truncated_episodes(dones: np.ndarray, infos: list[dict[str, Any]]) -> list[tuple[int, Any]]:
    """Environment index and last observation of each episode that a time limit cut at this step.

    Truncated *and* terminated counts as terminal: environments report TimeLimit.truncated only when nothing else ended
    it.
    """
    if not dones.any():
        return []
    return [
        (int(index), infos[index]["terminal_observation"])
        for index in np.flatnonzero(dones)
        if infos[index].get("TimeLimit.truncated", False) and infos[index].get("terminal_observation") is not None
    ]


def _terminal_values(
    policy: ActorCriticPolicy, truncated: list[tuple[int, Any]], n_envs: int, states: States | None
) -> np.ndarray:
    """V(last observation) of each truncated episode, 0 elsewhere: ``[B]``."""
    values = np.zeros(n_envs, dtype=np.float32)
    for index, observation in truncated:
        check_terminal_observation(observation, index)
        # One environment at a time, though a batch would be quicker: a matrix product of another shape may round
        # differently.
        with th.no_grad():
            recurrence = None
            if isinstance(policy, NotesRecurrentPolicy) and states is not None:
                own = tuple(state[:, index : index + 1] for state in states)
                recurrence = policy.one_step(own, th.zeros(1, device=policy.device))
            values[index] = values_of(policy, policy.obs_to_tensor(observation)[0], recurrence)[0].item()
    return values


def runs_own_code(callback: Any) -> bool:
    """``True`` if somebody's own code is called along with a callback; SB3's and ours leave the model as it is.

    :param callback: what ``learn`` was given, as SB3 has wrapped it; ``None`` for nothing.
    :return: ``True`` for a function, a class that is no library's, and whatever has one of them inside.
    """
    if callback is None:
        return False
    if not isinstance(callback, BaseCallback) or not is_library_class(type(callback)):
        return True
    if not has_shipped_methods(type(callback), *CALLED):
        return True
    inside = [callback, *vars(callback).values()]
    if any(callable(value) and not isinstance(value, BaseCallback | type) for value in inside[1:]):
        return True
    children = [value for value in vars(callback).values() if isinstance(value, BaseCallback)]
    children += getattr(callback, "callbacks", None) or []
    return any(map(runs_own_code, (child for child in children if child is not callback.parent)))
