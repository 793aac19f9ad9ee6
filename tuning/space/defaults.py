"""The default search spaces."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.configs.values import linear_start
from tuning.space.dimensions import Dimension

CLASSES: dict[str, type[NotesPPO] | type[NotesA2C]] = {"notes_ppo": NotesPPO, "notes_a2c": NotesA2C}

# rl_zoo3's names and, where SB3's own defaults or rl_zoo3's own tuned values lie in it, its ranges; wider where they do
# not. The lower end of ent_coef and of one_minus_gae_lambda stands for 0 (see setup.ZERO_AT).
SHARED = (
    Dimension("one_minus_gamma", "float", 1e-4, 0.1, log=True),
    Dimension("one_minus_gae_lambda", "float", 1e-4, 0.2, log=True),
    Dimension("learning_rate", "float", 1e-5, 5e-3, log=True),
    Dimension("ent_coef", "float", 1e-8, 0.1, log=True),
    Dimension("max_grad_norm", "float", 0.3, 5.0, log=True),
    Dimension("net_arch", "choice", choices=("tiny", "small", "medium")),
    Dimension("activation_fn", "choice", choices=("tanh", "relu")),
)
ADDED = (
    Dimension("vf_coef", "float", 0.1, 1.0),
    Dimension("lr_schedule", "choice", choices=("constant", "linear")),
)
PPO = (
    Dimension("n_steps_pow", "int", 3, 12),
    Dimension("batch_size_pow", "int", 4, 11),
    *SHARED,
    Dimension("clip_range", "choice", choices=(0.1, 0.2, 0.3, 0.4, "lin_0.2", "lin_0.4")),
    Dimension("n_epochs", "choice", choices=(1, 4, 5, 10, 20)),
    *ADDED,
    Dimension("target_kl", "choice", choices=(None, 0.01, 0.03, 0.1)),
)
A2C = (
    Dimension("n_steps", "choice", choices=(5, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)),
    *SHARED,
    *ADDED,
    Dimension("normalize_advantage", "choice", choices=(False, True)),
)

#: Parameters that a file may search although the default space does not.
FURTHER = {
    "sde_sample_freq": Dimension("sde_sample_freq", "int", -1, 1_000_000),
    "use_sde": Dimension("use_sde", "choice", choices=(False, True)),
}


class _OrLinear(Dimension):
    """Limits of a list that may hold linear schedules beside numbers, such as ``lin_0.2``."""

    def allows(self, value: object) -> bool:
        """True if the number, or the one after ``lin_``, lies in the range."""
        start = linear_start(value)
        return super().allows(value if start is None else start)


class _OrNone(Dimension):
    """Limits of a list that may hold ``None`` beside numbers."""

    def allows(self, value: object) -> bool:
        """As any dimension's, and ``None``."""
        return value is None or super().allows(value)


_TINY = 1e-12
#: The values that a model could be built from at all, where the default space is narrower.
LIMITS = {
    "one_minus_gamma": Dimension("one_minus_gamma", "float", 0.0, 1.0),
    "one_minus_gae_lambda": Dimension("one_minus_gae_lambda", "float", 0.0, 1.0),
    "learning_rate": Dimension("learning_rate", "float", _TINY, 1e3),
    "ent_coef": Dimension("ent_coef", "float", 0.0, 1e3),
    "max_grad_norm": _OrNone("max_grad_norm", "float", _TINY, 1e6),
    "net_arch": Dimension("net_arch", "choice", choices=("tiny", "small", "medium")),
    "activation_fn": Dimension("activation_fn", "choice", choices=("tanh", "relu", "elu", "leaky_relu")),
    "vf_coef": Dimension("vf_coef", "float", 0.0, 1e3),
    "n_steps_pow": Dimension("n_steps_pow", "int", 0, 20),
    "batch_size_pow": Dimension("batch_size_pow", "int", 1, 20),
    "n_steps": Dimension("n_steps", "int", 1, 2**20),
    "clip_range": _OrLinear("clip_range", "float", _TINY, 1e3),
    "n_epochs": Dimension("n_epochs", "int", 1, 1000),
    "target_kl": _OrNone("target_kl", "float", _TINY, 1e3),
}
#: The default spaces.
DIMENSIONS = {"notes_ppo": PPO, "notes_a2c": A2C}


@cache
def default_arguments(algo: str) -> Mapping[str, Any]:
    """The constructor's defaults, which are SB3's; an argument without one is left out."""
    parameters = inspect.signature(CLASSES[algo].__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
