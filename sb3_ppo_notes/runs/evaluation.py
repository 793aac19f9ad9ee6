"""How good a trained policy is: deterministic, on seeds that training never saw, in raw rewards."""

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_notes.callbacks.evaluation import play_episodes
from sb3_ppo_notes.callbacks.watching import with_frozen_normalizers

EVALUATION_SEED_OFFSET = 10_000


def evaluate(model: OnPolicyAlgorithm, env_id: str, seed: int, n_episodes: int) -> tuple[float, float]:
    """Mean and deviation of the return.

    Observations are normalised by the statistics of the training environments, which are not updated; rewards are not.

    :param model: the trained model, with its training environments.
    :param env_id: id of a registered environment.
    :param seed: of the training; another one is derived from it.
    :param n_episodes: at least 1.
    :return: mean and standard deviation over episodes; reward units.
    """
    env = make_vec_env(env_id, n_envs=1, seed=seed + EVALUATION_SEED_OFFSET)
    env = with_frozen_normalizers(env, model.env)
    returns, _ = play_episodes(model, env, n_episodes)
    env.close()
    return float(np.mean(returns)), float(np.std(returns))
