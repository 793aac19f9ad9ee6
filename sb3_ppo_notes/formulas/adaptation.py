"""How a number follows the KL: the learning rate of skrl's scheduler, the penalty coefficient of batch-ppo and the PPO
paper.
"""


def adapted_learning_rate(
    learning_rate: float, kl: float, threshold: float, kl_factor: float, lr_factor: float, bounds: tuple[float, float]
) -> float:
    """The learning rate for the next epoch, so that the policy moves about as far as wanted.

        α ← max(α/f, α_min) if KL > threshold·k
            else min(α·f, α_max) if KL < threshold/k
            else α

    Both comparisons are strict, and a NaN changes nothing (it is neither larger nor smaller).

    Source: skrl 1.4.3 ``KLAdaptiveLR``; rsl_rl; the idea in Heess et al. 2017 (arXiv:1707.02286).

    :param learning_rate: α > 0; dimensionless.
    :param kl: mean estimate of KL(old ‖ new) in the last epoch; nats.
    :param threshold: the KL that is aimed at; nats.
    :param kl_factor: k > 1, width of the band in which nothing changes; dimensionless.
    :param lr_factor: f > 1, size of a change; dimensionless.
    :param bounds: α_min and α_max; dimensionless.
    :return: scalar, the new learning rate.

    >>> adapted_learning_rate(1e-3, kl=0.1, threshold=0.01, kl_factor=2.0, lr_factor=2.0, bounds=(1e-6, 1e-2))
    0.0005
    """
    if kl > threshold * kl_factor:
        return max(learning_rate / lr_factor, bounds[0])
    if kl < threshold / kl_factor:
        return min(learning_rate * lr_factor, bounds[1])
    return learning_rate


def adapted_penalty(
    coefficient: float, kl: float, target: float, band: tuple[float, float], factor: float, bounds: tuple[float, float]
) -> float:
    """The KL penalty's coefficient for the next update.

        β ← min(β·f, β_max) if KL > high·target
            else max(β/f, β_min) if KL < low·target
            else β

    Without a floor β dies: 216 decreases by 1.5 bring it below float32's smallest normal number, a processor that
    flushes those to 0 makes it 0, and 0·1.5 is 0 for ever. Without a ceiling it overflows.

    Source: PPO (arXiv:1707.06347) section 4: band (1/1.5, 1.5), f = 2. batch-ppo: band (0.7, 1.3), f = 1.5.
    Deviation: neither source has bounds.

    :param coefficient: β > 0; dimensionless.
    :param kl: mean KL(old ‖ new) after the update; nats.
    :param target: the KL that is aimed at; nats.
    :param band: low and high, times the target; dimensionless.
    :param factor: f > 1; dimensionless.
    :param bounds: β_min > 0 and β_max; dimensionless.
    :return: scalar, the new coefficient.

    >>> adapted_penalty(1.0, kl=0.02, target=0.01, band=(0.7, 1.3), factor=1.5, bounds=(1e-6, 1e6))
    1.5
    """
    if kl > band[1] * target:
        return min(coefficient * factor, bounds[1])
    if kl < band[0] * target:
        return max(coefficient / factor, bounds[0])
    return coefficient
