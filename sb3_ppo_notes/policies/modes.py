"""Switching a policy between acting and learning."""

from typing import Any

from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_ppo_notes.policies.shipped import original

#: As they were written, whatever somebody has put in their place since.
SET_TRAINING_MODE = original(BasePolicy, "set_training_mode")
TRAIN = original(nn.Module, "train")


def set_training_mode(policy: Any, mode: bool) -> None:
    """Do what ``policy.set_training_mode(mode)`` does, in a fifth of the time.

    A module's flag is set by way of ``nn.Module.__setattr__``, which looks for parameters, buffers and modules first:
    for the sixteen modules of a small policy that is 0.05 ms, twice in an A2C update of 1.5 ms.

    :param policy: any policy; one with a method of its own for this, in whichever module, is asked.
    :param mode: ``True`` to learn: dropout and batch normalisation are active.
    """
    is_own = "set_training_mode" in vars(policy)
    if is_own or getattr(type(policy), "set_training_mode", None) is not SET_TRAINING_MODE:
        policy.set_training_mode(mode)
        return
    modules, rest = [], [policy]
    while rest:
        module = rest.pop()
        if not _is_ordinary(module):
            policy.set_training_mode(mode)
            return
        modules.append(module)
        rest += [child for child in module._modules.values() if child is not None]
    for module in modules:
        vars(module)["training"] = mode


def _is_ordinary(module: nn.Module) -> bool:
    """``True`` if the flag is an entry of the module's dictionary and nothing else. TorchScript keeps it in C++."""
    own = vars(module)
    kind = type(module)
    is_plain = kind.train is TRAIN and kind.__setattr__ is nn.Module.__setattr__
    return is_plain and "training" in own and "train" not in own
