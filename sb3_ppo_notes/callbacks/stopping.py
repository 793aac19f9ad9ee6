"""The end of training once the task is solved, before the time is up."""

from collections import deque

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.callbacks.evaluation import (
    Environment,
    EvaluationStoppedError,
    FinishedEpisodes,
    evaluate_episodes,
    own_environment,
    synchronize_normalizers,
)
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer, check_real
from sb3_ppo_notes.processes import Shards


class StopWhenSolved(BaseCallback):
    """Ends training once the mean return of the last episodes reaches a threshold.

    Either of the training's own last ``n_episodes`` episodes (a sample of the policy acts, and they may be old), or,
    with ``env``, of as many episodes of the deterministic policy in an environment of its own, every ``every`` steps.
    The mean is logged as ``notes/solved/mean_return``. Gymnasium's own measure is 100 episodes of training.

    An episode there that does not end is cut (``callbacks.MAX_EPISODE_STEPS``); a signal within a ``GracefulStop`` ends
    the evaluation, and the training.

    :param threshold: at which the task is solved; reward units. ``None`` for the ``reward_threshold`` that the
        environment's spec states.
    :param n_episodes: episodes that the mean is taken over; before there are so many, nothing is solved.
    :param env: to evaluate in: an id, a function that makes an environment, or a VecEnv; ``None`` for the training.
    :param every: steps between two evaluations; environment steps of the training, of all environments together.
    :param seed: of the environment to evaluate in.
    :param verbose: 1 prints a line when it stops.
    :raises ValueError: when training starts, if no threshold is given and the environment states none.
    """

    def __init__(
        self,
        threshold: float | None = None,
        n_episodes: int = 100,
        *,
        env: Environment | None = None,
        every: int = 10_000,
        seed: int = 0,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        if threshold is not None:
            check_real("threshold", threshold, "a finite number or None")
        check_integer("n_episodes", n_episodes, minimum=1)
        check_integer("every", every, minimum=1)
        check_integer("seed", seed, minimum=0)
        self.threshold = threshold
        self.n_episodes = n_episodes
        self.every = every
        #: The threshold was reached.
        self.is_solved = False
        self._env, self._seed = env, seed
        self._own_env: VecEnv | None = None
        self._returns: deque[float] = deque(maxlen=n_episodes)

    def _on_training_start(self) -> None:
        self.is_solved = False
        self._returns.clear()
        self._finished = FinishedEpisodes(self.training_env)
        self._threshold = spec_threshold(self.training_env) if self.threshold is None else float(self.threshold)
        if self._env is not None and self._own_env is None:
            self._own_env = own_environment(self._env, self.training_env, self._seed)
        self._last_count = self.num_timesteps // self.every
        self._is_due = False
        if hasattr(self.model, "between_steps"):
            self.model.between_steps.append(self._goes_on_after_evaluation)

    def _on_step(self) -> bool:
        if self._own_env is None:
            returns, finished = self._finished.step(self.locals["rewards"], self.locals["dones"], self.locals["infos"])
            if not finished.any():
                return True
            self._returns.extend(returns[finished])
            return self._is_unsolved()
        self._is_due = self._is_due or self.num_timesteps // self.every > self._last_count
        self._last_count = self.num_timesteps // self.every
        return self._goes_on_after_evaluation()

    def _goes_on_after_evaluation(self) -> bool:
        """Evaluate if it is time to; a signal leaves that to the run that is resumed, before its first step."""
        if not self._is_due or self._own_env is None:
            return True
        synchronize_normalizers(self.training_env, self._own_env)
        try:
            self._returns.extend(evaluate_episodes(self.model, self._own_env, self.n_episodes)[0])
        except EvaluationStoppedError:
            return False
        self._is_due = False
        return self._is_unsolved()

    def _is_unsolved(self) -> bool:
        if len(self._returns) < self.n_episodes:
            return True
        mean = float(np.mean(self._returns))
        self.logger.record("notes/solved/mean_return", mean)
        self.is_solved = mean >= self._threshold
        if self.is_solved and self.verbose >= 1:
            print(
                f"solved after {self.num_timesteps:,} steps: mean return {mean:.1f} of {self.n_episodes} episodes, "
                f"threshold {self._threshold:g}"
            )
        return not self.is_solved


class StopWhenAllSucceeded(BaseCallback):
    """Ends training once the last finished episode of *every* environment was a success, as the A2C notebook does.

    An environment says so by ``info["is_success"]`` at the end of an episode. Several processes that train one model
    ask each other after each rollout.

    :param verbose: 1 prints a line when it stops.
    """

    def __init__(self, verbose: int = 0):
        super().__init__(verbose)
        self.succeeded: np.ndarray = np.zeros(0, dtype=bool)
        #: On several processes: those of all have, after the last rollout.
        self.is_everywhere = False

    def _on_training_start(self) -> None:
        self.succeeded = np.zeros(self.training_env.num_envs, dtype=bool)
        self.is_everywhere = False

    def _on_step(self) -> bool:
        for index in np.flatnonzero(self.locals["dones"]):
            self.succeeded[index] = bool(self.locals["infos"][index].get("is_success", False))
        if not (self.succeeded.all() if self._shards is None else self.is_everywhere):
            return True
        if self.verbose >= 1:
            n_envs = len(self.succeeded) * (1 if self._shards is None else self._shards.group.size)
            print(f"all {n_envs} environments succeeded after {self.num_timesteps} steps")
        return False

    def _on_rollout_end(self) -> None:
        if self._shards is not None:
            self.is_everywhere = not self._shards.any(not self.succeeded.all())

    @property
    def _shards(self) -> Shards | None:
        return getattr(self.model, "_shards", None)


def spec_threshold(env: VecEnv) -> float:
    """The return at which an environment's own spec calls it solved."""
    spec = env.get_attr("spec")[0]
    threshold = getattr(spec, "reward_threshold", None)
    if threshold is None:
        name = getattr(spec, "id", None) or "this environment"
        raise InvalidValueError(f"threshold must be given for {name}, whose spec states no reward_threshold, got None")
    return float(threshold)
