"""Vectorised environments that change rewards and observations the way the seed systems do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ppo_notes._atomic import write_text
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer, check_positive
from sb3_ppo_notes.formulas.normalization import Moments, merged_moments, streaming_std


class VecRewardScale(VecEnvWrapper):
    """Multiplies every reward, as minimalRL divides by 100. Episode returns (of ``Monitor``, underneath) stay raw.

    :param venv: the environments.
    :param scale: > 0; dimensionless.
    """

    def __init__(self, venv: VecEnv, scale: float):
        check_positive("scale", scale)
        super().__init__(venv)
        self.scale = scale

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards * np.float32(self.scale), dones, infos


class VecEpisodeEndReward(VecEnvWrapper):
    """Replaces the reward: 0 at every step, at the end of an episode +1 if it was long enough, else −1.

    The notebook counts steps from 0 and asks ``each_step < 195`` at the last one, so an episode of 195 steps still
    fails and one of 196 succeeds. A time limit is presented as a true end, because the notebook knows no other. Infos
    of finished episodes say ``is_success``.

    :param venv: the environments.
    :param shortest_success: steps of the shortest episode that counts as a success.
    """

    def __init__(self, venv: VecEnv, shortest_success: int = 196):
        check_integer("shortest_success", shortest_success, minimum=1)
        super().__init__(venv)
        self.shortest_success = shortest_success
        self.lengths = np.zeros(venv.num_envs, dtype=int)
        #: For each environment: its last finished episode was a success.
        self.succeeded = np.zeros(venv.num_envs, dtype=bool)

    def reset(self) -> VecEnvObs:
        self.lengths[:] = 0
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, _, dones, infos = self.venv.step_wait()
        self.lengths += 1
        success = self.lengths >= self.shortest_success
        for index in np.flatnonzero(dones):
            self.succeeded[index] = success[index]
            infos[index]["is_success"] = bool(success[index])
        rewards = np.where(dones, np.where(success, 1.0, -1.0), 0.0).astype(np.float32)
        self.lengths[dones] = 0
        return observations, rewards, dones, infos


class StreamingNormalize(VecEnvWrapper):
    """batch-ppo's normalisation: observations centred and scaled, rewards only scaled, by the statistics of everything
    seen.

    Against ``VecNormalize``: rewards are divided by the deviation of the *rewards*, not of the running return; the
    statistics begin from nothing; the clips are narrower.

    :param venv: the environments; their observations form a Box.
    :param clip_observation: largest absolute normalised observation; standard deviations.
    :param clip_reward: largest absolute normalised reward; standard deviations.
    :param training: whether statistics go on being updated; set it to ``False`` for evaluation.
    """

    def __init__(self, venv: VecEnv, clip_observation: float = 5.0, clip_reward: float = 10.0, training: bool = True):
        check_positive("clip_observation", clip_observation)
        check_positive("clip_reward", clip_reward)
        shape = venv.observation_space.shape
        if shape is None:
            raise InvalidValueError(f"venv must have observations of one shape, got {venv.observation_space}")
        super().__init__(venv)
        self.clip_observation = clip_observation
        self.clip_reward = clip_reward
        self.training = training
        self.observation_moments = Moments(0, np.zeros(shape), np.zeros(shape))
        self.reward_moments = Moments(0, np.zeros(()), np.zeros(()))

    def reset(self) -> VecEnvObs:
        observations: Any = self.venv.reset()
        self._learn(observations, None)
        return self.normalize_observations(observations)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self._learn(observations, rewards)
        for index in np.flatnonzero(dones):
            if "terminal_observation" in infos[index]:
                infos[index]["terminal_observation"] = self.normalize_observations(infos[index]["terminal_observation"])
        return self.normalize_observations(observations), self.normalize_rewards(rewards), dones, infos

    def normalize_observations(self, observations: Any) -> np.ndarray:
        """Observations in standard deviations from the mean.

        :param observations: ``[B, ...]`` or ``[...]``, raw.
        :return: the same shape, within ±``clip_observation``; float32.
        """
        centred = observations - self.observation_moments.mean
        scaled = centred / streaming_std(self.observation_moments)
        bounded: np.ndarray = np.clip(scaled, -self.clip_observation, self.clip_observation).astype(np.float32)
        return bounded

    def normalize_rewards(self, rewards: np.ndarray) -> np.ndarray:
        """Rewards in standard deviations, not centred: a reward keeps its sign.

        :param rewards: ``[B]``, raw.
        :return: ``[B]``, within ±``clip_reward``; float32.
        """
        scaled = rewards / streaming_std(self.reward_moments)
        bounded: np.ndarray = np.clip(scaled, -self.clip_reward, self.clip_reward).astype(np.float32)
        return bounded

    def _learn(self, observations: Any, rewards: np.ndarray | None) -> None:
        if not self.training:
            return
        self.observation_moments = merged_moments(self.observation_moments, np.asarray(observations))
        if rewards is not None:
            self.reward_moments = merged_moments(self.reward_moments, rewards)

    def save(self, path: str | Path) -> None:
        """Write the statistics as JSON.

        :param path: the file.
        """
        statistics = {"observation": self.observation_moments, "reward": self.reward_moments}
        document = {name: [m.n, m.mean.tolist(), m.deviations.tolist()] for name, m in statistics.items()}
        write_text(path, json.dumps(document))

    def load(self, path: str | Path) -> None:
        """Read statistics that :meth:`save` wrote.

        :param path: the file.
        :raises ValueError: if they are of another observation shape.
        """
        document = json.loads(Path(path).read_text())
        moments = {name: Moments(n, np.asarray(mean), np.asarray(m)) for name, (n, mean, m) in document.items()}
        if moments["observation"].mean.shape != self.observation_moments.mean.shape:
            shape, expected = moments["observation"].mean.shape, self.observation_moments.mean.shape
            raise InvalidValueError(f"path must hold statistics of observations of shape {expected}, got {shape}")
        self.observation_moments, self.reward_moments = moments["observation"], moments["reward"]
