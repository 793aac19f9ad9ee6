"""How good a trained policy is: deterministic, on seeds that training never saw, in raw rewards."""

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_ppo_notes.rollouts.wrappers import StreamingNormalize

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
    env = with_frozen_normalizer(env, model.env)
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=n_episodes, deterministic=True)
    env.close()
    return float(mean), float(deviation)  # type: ignore[arg-type]


def with_frozen_normalizer(env: VecEnv, training_env: VecEnv | None) -> VecEnv:
    """Evaluation environments that see what the policy saw in training.

    :param env: fresh environments.
    :param training_env: those of the training, whose normaliser's statistics are taken.
    :return: the fresh ones, behind a normaliser that no longer learns if the training ones have one.
    """
    wrapper = training_env
    while isinstance(wrapper, VecEnvWrapper):
        if isinstance(wrapper, StreamingNormalize):
            frozen = StreamingNormalize(env, wrapper.clip_observation, wrapper.clip_reward, training=False)
            frozen.observation_moments, frozen.reward_moments = wrapper.observation_moments, wrapper.reward_moments
            return frozen
        if isinstance(wrapper, VecNormalize):
            copy = VecNormalize(env, training=False, norm_reward=False, clip_obs=wrapper.clip_obs)
            copy.obs_rms = wrapper.obs_rms
            return copy
        wrapper = wrapper.venv
    return env
