"""SB3 distribution objects whose arithmetic is ``formulas.distributions``: what ``predict`` and ``get_distribution``
hand out.
"""

from typing import Any

import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import nn

from sb3_ppo_notes.formulas.distributions import BETA, GAUSSIAN, SQUASHED_GAUSSIAN, DistributionFormulas, Parameters
from sb3_ppo_notes.formulas.distributions.beta import beta_parameters
from sb3_ppo_notes.formulas.distributions.gaussian import broadcast_std, clamped_std

#: The formulas of each action distribution of a Box space.
ACTION_DISTRIBUTIONS: dict[str, DistributionFormulas] = {
    "gaussian": GAUSSIAN,
    "squashed_gaussian": SQUASHED_GAUSSIAN,
    "beta": BETA,
    "state_dependent_gaussian": GAUSSIAN,
}
#: Those whose network gives two numbers a dimension; the others have a learned deviation beside the network.
TWO_HEADED = ("beta", "state_dependent_gaussian")


class FormulaDistribution(DiagGaussianDistribution):
    """A distribution by its formulas. It makes its own output layer, as SB3 asks of every distribution.

    :param action_dim: dimensions of the action.
    :param formulas: of the distribution.
    :param name: a key of ``ACTION_DISTRIBUTIONS``; what its parameters are made from.
    :param log_std_init: logarithm of the deviation at the start, where the network gives it.
    """

    def __init__(self, action_dim: int, formulas: DistributionFormulas, name: str = "", log_std_init: float = 0.0):
        super().__init__(action_dim)
        self.formulas = formulas
        self.name = name
        self.log_std_init = log_std_init
        self.parameters: Parameters = ()

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> tuple[nn.Module, Any]:
        """The output layer, and the learned deviation where it does not depend on the state.

        :param latent_dim: units of the layer before.
        :param log_std_init: logarithm of the deviation at the start.
        :return: the layer, and a parameter or ``None``.
        """
        if self.name in TWO_HEADED:
            return nn.Linear(latent_dim, 2 * self.action_dim), None
        return super().proba_distribution_net(latent_dim, log_std_init)

    def parameters_from(self, output: th.Tensor, log_std: th.Tensor | None) -> Parameters:
        """The distribution's parameters.

        :param output: ``[N, ...]`` of the output layer.
        :param log_std: the learned deviation's logarithm, ``None`` where the network gives it.
        :return: a tuple of tensors ``[N, d]``.
        """
        if self.name == "beta":
            return beta_parameters(output)
        if log_std is None:
            mean, offset = output.chunk(2, dim=1)
            return mean, clamped_std(offset + self.log_std_init)
        return output, broadcast_std(output, log_std)

    def proba_distribution(self, mean_actions: th.Tensor, log_std: Any) -> "FormulaDistribution":
        """The distribution in certain states, as SB3's policies ask for it.

        :param mean_actions: ``[N, ...]`` of the output layer.
        :param log_std: the learned deviation's logarithm or ``None``.
        :return: a new object.
        """
        return self.with_parameters(self.parameters_from(mean_actions, log_std))

    def with_parameters(self, parameters: Parameters) -> "FormulaDistribution":
        """The distribution with these parameters.

        :param parameters: a tuple of tensors ``[N, ...]``.
        :return: a new object.
        """
        distribution = FormulaDistribution(self.action_dim, self.formulas, self.name, self.log_std_init)
        distribution.parameters = parameters
        return distribution

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """Log-probability of actions.

        :param actions: ``[N, ...]``.
        :return: ``[N]``; nats.
        """
        return self.formulas.log_prob(self.parameters, actions)

    def entropy(self) -> th.Tensor | None:
        """Entropy.

        :return: ``[N]``; nats.
        """
        return None if self.formulas.entropy is None else self.formulas.entropy(self.parameters)

    def sample(self) -> th.Tensor:
        """Random actions.

        :return: ``[N, ...]``.
        """
        return self.formulas.sample(self.parameters)

    def mode(self) -> th.Tensor:
        """The deterministic actions (of a Beta the mean).

        :return: ``[N, ...]``.
        """
        return self.formulas.mode(self.parameters)
