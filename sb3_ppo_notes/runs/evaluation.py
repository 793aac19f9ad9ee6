"""How good a trained policy is: deterministic, on seeds that training never saw, in raw rewards."""

from contextlib import closing

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_notes.callbacks.evaluation import EVALUATION_SEED_OFFSET, Evaluator


def evaluate(model: OnPolicyAlgorithm, env_id: str, seed: int, n_episodes: int) -> tuple[float, float]:
    """Mean and deviation of the return over episodes, in reward units; ``seed`` is the training's."""
    assert model.env is not None  # it was trained
    seed += EVALUATION_SEED_OFFSET
    with closing(Evaluator(env_id, model.env, seed=seed, n_episodes=n_episodes, masks=False)) as evaluator:
        episodes = evaluator.evaluate(model)
    return episodes.mean_return, episodes.std_return
