"""SB3's ``DummyVecEnv`` without its copies: the same values, less of the time between two environment steps."""

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from sb3_ppo_notes.envs.rewards import check_reward


class LeanVecEnv(DummyVecEnv):
    """Environments stepped one after the other in this process, as ``DummyVecEnv`` steps them.

    Constructor, methods and returned values are ``DummyVecEnv``'s. That one copies everything it returns with
    ``deepcopy``: observations, rewards, dones, and every object in every info. Here

    - observations, rewards and dones of a step are new arrays; nothing writes to them afterwards, so they stay valid
      as long as the caller keeps them;
    - a ``terminal_observation`` is a copy, made before the environment is reset;
    - infos and ``reset_infos`` are *the dictionaries the environments returned*, with the objects in them. An
      environment that returns the same dictionary or array again at its next step thereby changes what an earlier
      step returned, and a change made to an info is a change to the environment's own dictionary. Whoever keeps an info
      of such an environment beyond the next step copies it.

    :param env_fns: functions that build one environment each.
    """

    def _renew_buffers(self) -> None:
        # New memory instead of a copy of the old: np.empty costs less than one environment's row.
        self.buf_obs = OrderedDict((key, np.empty_like(rows)) for key, rows in self.buf_obs.items())

    def reset(self) -> VecEnvObs:
        self._renew_buffers()
        return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        self._renew_buffers()
        rewards = np.empty(self.num_envs, dtype=np.float32)
        dones = np.empty(self.num_envs, dtype=bool)
        infos: list[dict[str, Any]] = []
        actions, rows = self.actions, self.buf_obs.get(None)  # type: ignore[call-overload]
        for index, env in enumerate(self.envs):
            observation, reward, terminated, truncated, info = env.step(actions[index])
            check_reward(reward, index)
            rewards[index] = reward
            info["TimeLimit.truncated"] = truncated and not terminated
            done = dones[index] = terminated or truncated
            if done:
                # Copied before the reset, which overwrites it in an environment that has one array for ever.
                info["terminal_observation"] = deepcopy(observation)
                observation, self.reset_infos[index] = env.reset()
            infos.append(info)
            if rows is None:
                self._save_obs(index, observation)
            else:
                rows[index] = observation
        self.buf_rews, self.buf_dones, self.buf_infos = rewards, dones, infos
        return self._obs_from_buf(), rewards, dones, infos

    def _obs_from_buf(self) -> VecEnvObs:
        return dict_to_obs(self.observation_space, self.buf_obs)
