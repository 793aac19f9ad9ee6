"""This package's policy classes: SB3's networks, with a choice of action distribution and with action masks."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

from sb3_ppo_notes.formulas.checks import InvalidValueError, check_choice
from sb3_ppo_notes.policies.actor_critic import distribution_parameters, formulas_of
from sb3_ppo_notes.policies.distribution import ACTION_DISTRIBUTIONS, FormulaDistribution
from sb3_ppo_notes.policies.masks import mask_tensor


class NotesActorCriticPolicy(ActorCriticPolicy):
    """SB3's actor-critic policy; with its extras off, the same weights from the same seed.

    :param observation_space: of one observation.
    :param action_space: of one action.
    :param lr_schedule: learning rate as a function of the remaining progress.
    :param args: SB3's further arguments.
    :param action_distribution: for a Box space: ``"gaussian"`` (SB3's, clipped to the bounds), ``"squashed_gaussian"``
        (through a tanh), ``"beta"`` (on the interval itself) or ``"state_dependent_gaussian"`` (the network gives the
        deviation too).
    :param kwargs: SB3's further arguments.
    :raises ValueError: for another distribution, or one that does not fit the action space.
    """

    is_recurrent = False

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *args: Any,
        action_distribution: str = "gaussian",
        **kwargs: Any,
    ):
        check_choice("action_distribution", action_distribution, tuple(ACTION_DISTRIBUTIONS))
        got = f"got {action_distribution!r}"
        if action_distribution != "gaussian" and not isinstance(action_space, spaces.Box):
            raise InvalidValueError(f"action_distribution must be 'gaussian' unless actions form a Box, {got}")
        if action_distribution != "gaussian" and kwargs.get("use_sde"):
            raise InvalidValueError(f"action_distribution must be 'gaussian' with use_sde=True, {got}")
        self.action_distribution = action_distribution
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        if action_distribution in ("squashed_gaussian", "beta"):
            # Actions live in [−1, 1] and are stretched to the bounds, in the collector and in predict.
            self._squash_output = True

    def _build(self, lr_schedule: Any) -> None:
        if self.action_distribution != "gaussian":
            dimensions = int(np.prod(self.action_space.shape or ()))
            formulas = ACTION_DISTRIBUTIONS[self.action_distribution]
            self.action_dist = FormulaDistribution(dimensions, formulas, self.action_distribution, self.log_std_init)
        super()._build(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3 forgets share_features_extractor: a reloaded policy then has one extractor where it had two, with the
        # critic's weights in it.
        data = super()._get_constructor_parameters()
        data["share_features_extractor"] = self.share_features_extractor
        data["action_distribution"] = self.action_distribution
        return data

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Any:
        """π(·|s).

        :param obs: ``[N, ...]`` tensor or dict of tensors.
        :param action_masks: ``[N, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :return: an SB3 distribution.
        """
        if action_masks is None:
            return super().get_distribution(obs)
        features = super(ActorCriticPolicy, self).extract_features(obs, self.pi_features_extractor)
        return self._masked_distribution(self.mlp_extractor.forward_actor(features), action_masks)

    def _masked_distribution(self, latent_pi: th.Tensor, action_masks: Any) -> FormulaDistribution:
        formulas = formulas_of(self)
        if formulas is None:
            raise InvalidValueError(f"action_masks must be None for the distribution {type(self.action_dist).__name__}")
        masks = mask_tensor(action_masks, self.action_space, len(latent_pi), latent_pi.device)
        return FormulaDistribution(0, formulas).with_parameters(distribution_parameters(self, latent_pi, masks))

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions for observations.

        :param observation: one, or a batch.
        :param state: of a recurrent policy: what the last call returned, ``None`` at the beginning.
        :param episode_start: ``[N]``, where an episode has just begun, for a recurrent policy; ``None`` for nowhere.
        :param deterministic: the mode (of a Beta the mean) and not a sample.
        :param action_masks: ``[n]`` or ``[N, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :return: actions within the action space, and the next state.
        :raises ValueError: if a mask has the wrong shape or allows nothing.
        """
        if action_masks is None and not self.is_recurrent:
            return super().predict(observation, state, episode_start, deterministic)
        self.set_training_mode(False)
        tensor, is_batch = self.obs_to_tensor(observation)
        with th.no_grad():
            actions, state = self._choose(tensor, state, episode_start, deterministic, action_masks)
        chosen = actions.cpu().numpy().reshape((-1, *(self.action_space.shape or ())))
        if isinstance(self.action_space, spaces.Box):
            low, high = self.action_space.low, self.action_space.high
            chosen = self.unscale_action(chosen) if self.squash_output else np.clip(chosen, low, high)
        return (chosen if is_batch else chosen.squeeze(axis=0)), state

    def _choose(
        self, observations: Any, state: Any, episode_start: Any, deterministic: bool, action_masks: Any
    ) -> tuple[th.Tensor, tuple[np.ndarray, ...] | None]:
        """Actions, not yet within their bounds, and the next state."""
        return self.get_distribution(observations, action_masks).get_actions(deterministic=deterministic), state


class NotesActorCriticCnnPolicy(NotesActorCriticPolicy):
    """The same for images.

    :param args: as :class:`NotesActorCriticPolicy`.
    :param features_extractor_class: SB3's ``NatureCNN``.
    :param kwargs: as :class:`NotesActorCriticPolicy`.
    """

    def __init__(self, *args: Any, features_extractor_class: Any = NatureCNN, **kwargs: Any):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class NotesMultiInputPolicy(NotesActorCriticPolicy):
    """The same for Dict observations.

    :param args: as :class:`NotesActorCriticPolicy`.
    :param features_extractor_class: SB3's ``CombinedExtractor``.
    :param kwargs: as :class:`NotesActorCriticPolicy`.
    """

    def __init__(self, *args: Any, features_extractor_class: Any = CombinedExtractor, **kwargs: Any):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


#: Under SB3's name; files of models hold the shorter one.
NotesMultiInputActorCriticPolicy = NotesMultiInputPolicy
