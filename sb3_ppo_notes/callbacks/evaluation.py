"""Evaluation in environments that forbid actions."""

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.policies.masks import METHOD, gathered_masks


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
            observation, *args, action_masks=gathered_masks(self._env), **kwargs
        )
        return result


class MaskableEvalCallback(EvalCallback):
    """SB3's ``EvalCallback``; in environments with ``action_masks`` no forbidden action is ever taken.

    Its arguments are SB3's.
    """

    def _on_step(self) -> bool:
        model = self.model
        if self.eval_env.has_attr(METHOD):
            self.model = MaskedPredictor(model, self.eval_env)  # type: ignore[assignment]
        try:
            return super()._on_step()
        finally:
            self.model = model

    def evaluate(self, model: Any) -> tuple[float, float]:
        """Evaluate once, outside of training.

        :param model: trained with or without masks.
        :return: mean and standard deviation of the return; reward units.
        """
        predictor = MaskedPredictor(model, self.eval_env) if self.eval_env.has_attr(METHOD) else model
        mean, deviation = evaluate_policy(predictor, self.eval_env, n_eval_episodes=self.n_eval_episodes)
        return float(mean), float(deviation)  # type: ignore[arg-type]
