"""How good a policy is: whole episodes, of which none is endless, no action is forbidden, and a signal ends all."""

import warnings
from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, sync_envs_normalization

from sb3_ppo_notes.callbacks.watching import FinishedEpisodes, generators_put_back, untouched_generators
from sb3_ppo_notes.policies.masks import METHOD, collect_masks
from sb3_ppo_notes.rollouts.pausing import is_stopping

#: An episode of an evaluation is cut after so many steps, unless the environment has a time limit of its own.
MAX_EPISODE_STEPS = 10_000
#: Attributes of environments that have one: Gymnasium's TimeLimit, and ALE, which ends a game after 108,000 frames.
TIME_LIMITS = ("_max_episode_steps", "ale")
#: Environments of a command's evaluations have seeds so far from those of its training.
EVALUATION_SEED_OFFSET = 10_000
#: What is said of an episode that was cut.
CUT = (
    f"cut after MAX_EPISODE_STEPS = {MAX_EPISODE_STEPS:,} steps (sb3_ppo_notes.callbacks): the environment has no time "
    "limit, and gets one by gymnasium.wrappers.TimeLimit, or by max_episode_steps where it is registered"
)


class EvaluationStoppedError(Exception):
    """The process was asked to stop while it evaluated; nothing is known of the policy."""


class MaskedPredictor:
    """A model that asks an environment for its masks before every prediction, for SB3's ``evaluate_policy``.

    :param model: a model that was trained with ``action_masking=True``. Everything but ``predict`` is the model's own.
    :param env: the environments it is evaluated in.
    """

    def __init__(self, model: Any, env: VecEnv):
        self._model = model
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        """Actions that the environments allow.

        :param observation: of all environments.
        :param args: as the model's ``predict``.
        :param kwargs: as the model's ``predict``.
        :return: actions, and the next state of a recurrent policy.
        """
        result: tuple[np.ndarray, Any] = self._model.predict(
            observation, *args, action_masks=collect_masks(self._env), **kwargs
        )
        return result


class BoundedEpisodes(VecEnvWrapper):
    """Environments whose episodes end: where there is no time limit after ``MAX_EPISODE_STEPS``, and with a warning.

    A VecEnv cannot reset one of its environments alone: when an episode is cut all begin anew, and the unfinished
    episodes of the others do not count.

    :param venv: the environments of an evaluation.
    :param is_stopping: asked before every step.
    """

    def __init__(self, venv: VecEnv, is_stopping: Callable[[], bool] = is_stopping):
        super().__init__(venv)
        self._is_stopping = is_stopping
        self._has_limit = any(venv.has_attr(name) for name in TIME_LIMITS)
        self._is_monitored = venv.env_is_wrapped(Monitor)[0]
        #: Episodes that were cut.
        self.n_cut = 0
        self._begin()

    def _begin(self) -> None:
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._episodes = FinishedEpisodes(self.venv)

    def reset(self) -> Any:
        """Begin new episodes.

        :return: the first observations.
        """
        self._begin()
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Send actions.

        :param actions: one for each environment.
        :raises EvaluationStoppedError: if the process was asked to stop.
        """
        # Before and not after it: environments in other processes would be left with an answer that nobody takes.
        if self._is_stopping():
            raise EvaluationStoppedError("the process was asked to stop")
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        """Wait for the answers.

        :return: as any VecEnv; of an episode that was cut what a Monitor says of one that ended.
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        returns, finished = self._episodes.step(rewards, dones, infos)
        self._lengths = np.where(finished, 0, self._lengths + 1)
        cut = self._lengths >= MAX_EPISODE_STEPS
        if self._has_limit or not cut.any():
            return observations, rewards, dones, infos
        self._warn()
        infos = list(infos)
        for index in map(int, np.flatnonzero(cut)):
            # A Monitor's sum, where there is one: wrappers around it may change rewards.
            paid = np.sum(self.venv.get_attr("rewards", [index])[0]) if self._is_monitored else returns[index]
            infos[index] = infos[index] | {"episode": {"r": float(paid), "l": MAX_EPISODE_STEPS}}
        self.n_cut += int(cut.sum())
        return self.reset(), rewards, np.ones_like(dones), infos

    def _warn(self) -> None:
        if not self.n_cut:
            warnings.warn(f"an episode of the evaluation was {CUT}", UserWarning, stacklevel=2)


def predictor(model: Any, env: VecEnv) -> Any:
    """The model, asking for masks where there are some.

    :param model: any on-policy model, stock SB3's too.
    :param env: where it acts.
    :return: something with SB3's ``predict``.
    """
    is_masked = "action_masks" in signature(model.predict).parameters and env.has_attr(METHOD)
    return MaskedPredictor(model, env) if is_masked else model


def evaluate_episodes(
    model: Any, env: VecEnv, n_episodes: int, is_stopping: Callable[[], bool] = is_stopping
) -> tuple[list[float], list[int]]:
    """Play whole episodes with the deterministic policy and the environment's masks; the training does not notice.

    :param model: any on-policy model.
    :param env: other environments than those of the training.
    :param n_episodes: at least 1.
    :param is_stopping: asked before every step; if not given, whether a signal came within a ``GracefulStop``.
    :return: return (reward units) and length (environment steps) of each.
    :raises EvaluationStoppedError: if the process was asked to stop.
    """
    with untouched_generators():
        return play_episodes(predictor(model, env), env, n_episodes, is_stopping)


def play_episodes(
    model: Any, env: VecEnv, n_episodes: int, is_stopping: Callable[[], bool] = is_stopping
) -> tuple[list[float], list[int]]:
    """Play whole episodes with whatever acts.

    :param model: with SB3's ``predict``.
    :param env: any environments, or the same bounded already.
    :param n_episodes: at least 1.
    :param is_stopping: asked before every step; if not given, whether a signal came within a ``GracefulStop``.
    :return: return (reward units) and length (environment steps) of each.
    :raises EvaluationStoppedError: if the process was asked to stop.
    """
    bounded = env if isinstance(env, BoundedEpisodes) else BoundedEpisodes(env, is_stopping)
    returns, lengths = evaluate_policy(
        model, bounded, n_eval_episodes=n_episodes, return_episode_rewards=True, warn=False
    )
    return list(map(float, returns)), list(map(int, lengths))  # type: ignore[arg-type]


class MaskableEvalCallback(EvalCallback):
    """SB3's ``EvalCallback``; in environments with ``action_masks`` no forbidden action is ever taken.

    Its arguments are SB3's. An episode that does not end is cut. A signal within a ``GracefulStop`` ends the evaluation
    and the training; a resumed run begins with that evaluation, in other episodes.
    """

    #: Whether a signal has ended an evaluation.
    _is_due: bool = False

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if hasattr(self.model, "between_steps"):
            self.model.between_steps.append(lambda: not self._is_due or self._on_step())

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq != 0:
            return super()._on_step()
        model, env = self.model, self.eval_env
        if model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, env)
        self.model, self.eval_env = _Synchronized(_masked(model, env)), BoundedEpisodes(env)  # type: ignore[assignment]
        put_back = generators_put_back()
        self._is_due = False
        try:
            return super()._on_step()
        except EvaluationStoppedError:
            # Only then: SB3's callback leaves the training other random numbers than without it.
            put_back()
            self._is_due = True
            return False
        finally:
            self.model, self.eval_env = model, env

    def evaluate(self, model: Any) -> tuple[float, float]:
        """Evaluate once, outside of training.

        :param model: trained with or without masks.
        :return: mean and standard deviation of the return; reward units.
        """
        returns, _ = play_episodes(_masked(model, self.eval_env), self.eval_env, self.n_eval_episodes)
        return float(np.mean(returns)), float(np.std(returns))


def _masked(model: Any, env: VecEnv) -> Any:
    return MaskedPredictor(model, env) if env.has_attr(METHOD) else model


class _Synchronized:
    """A model for SB3's ``EvalCallback``, which would compare the environments' wrappers once more, and find ours."""

    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def get_vec_normalize_env(self) -> None:
        """None that had to be looked for."""
