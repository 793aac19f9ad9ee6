"""Arms of a comparison: how they are written, and their algorithms."""

import ast
import contextlib
import importlib
import inspect
import re
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ppo_notes.configs.environments import look_here
from sb3_ppo_notes.configs.run_config import ALGORITHMS
from sb3_ppo_notes.configs.words import split_at_commas
from sb3_ppo_notes.envs.make import did_you_mean
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.recipes import RECIPES

#: Arms with a name; ``sb3`` and ``notes`` are the ``-ppo`` or the ``-a2c`` of that name.
NAMED = {
    "sb3-ppo": "stable_baselines3:PPO",
    "sb3-a2c": "stable_baselines3:A2C",
    "notes-ppo": "sb3_ppo_notes:NotesPPO",
    "notes-a2c": "sb3_ppo_notes:NotesA2C",
    "trpo": "sb3_contrib:TRPO",
    "recurrent-ppo": "sb3_contrib:RecurrentPPO",
    "maskable-ppo": "sb3_contrib:MaskablePPO",
}
#: Whose tuned values an algorithm gets; the first of its base classes that is listed.
FAMILIES = {
    **{"RecurrentPPO": "ppo_lstm", "TRPO": "trpo", "A2C": "a2c", "NotesA2C": "a2c"},
    **dict.fromkeys(("PPO", "NotesPPO", "MaskablePPO"), "ppo"),
}
#: Arguments that a comparison gives every arm, and no arm may have for itself.
RESERVED = ("seed", "device", "env", "verbose", "tensorboard_log", "_init_setup_model")
#: Options of an arm that are no arguments of its constructor.
OF_THE_TASK = ("n_envs", "normalize")


@dataclass(frozen=True)
class Arm:
    """An arm of a comparison.

    :param name: as the user wrote it.
    :param target: ``"module:Class"``, or ``"recipe:NAME"``.
    :param overrides: constructor arguments in place of the task's; also ``policy``, ``n_envs`` and ``normalize``.
    """

    name: str
    target: str
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> str | None:
        """Key of ``RECIPES``, ``None`` for a class."""
        kind, _, name = self.target.partition(":")
        return name if kind == "recipe" else None


def parse_arms(words: str, algo: str) -> list[Arm]:
    """Arms separated by commas, the baseline first; what looks like ``name=value`` belongs to the arm before it.

    :raises ValueError: for an arm that is unknown or named twice, or fewer than two.

    >>> [(arm.target, arm.overrides) for arm in parse_arms("notes:gamma=0.9,n_steps=8,sb3", "a2c")]
    [('sb3_ppo_notes:NotesA2C', {'gamma': 0.9, 'n_steps': 8}), ('stable_baselines3:A2C', {})]
    """
    texts: list[str] = []
    for text in (part.strip() for part in split_at_commas(words)):
        if texts and re.match(r"[A-Za-z_]\w*\s*=", text):
            texts[-1] += "," + text
        elif text:
            texts.append(text)
    if len(texts) < 2:
        raise InvalidValueError(f"arms must be at least two, separated by commas, got {words!r}")
    for text in texts:
        if texts.count(text) > 1:
            raise InvalidValueError(f"arms must differ, got {text!r} twice (--a-a compares an arm with itself)")
    return [_parse_arm(text, algo) for text in texts]


def _parse_arm(text: str, algo: str) -> Arm:
    # An argument is a name, "=" and whatever follows; a colon before it ends the arm's own name.
    match = re.fullmatch(r"(.*?)(?::(\s*[A-Za-z_]\w*\s*=.*))?", text, flags=re.S)
    name, options = match.groups() if match else (text, None)
    target = {"sb3": NAMED[f"sb3-{algo}"], "notes": NAMED[f"notes-{algo}"]}.get(name) or NAMED.get(name) or name
    if not options and text.partition(":")[0] in ("sb3", "notes", *NAMED) and ":" in text:
        raise InvalidValueError(f"arms must have options of the form name=value, got {text!r}")
    arm = Arm(text, target, dict(_parse_option(text, part) for part in split_at_commas(options or "") if part.strip()))
    if ":" not in target or (arm.recipe is not None and arm.recipe not in RECIPES):
        names = ["sb3", "notes", *NAMED, *(f"recipe:{recipe}" for recipe in RECIPES)]
        hint = did_you_mean(name, names, most=1)
        raise InvalidValueError(f"arms must be of {', '.join(names)} or module:Class, got {name!r}{hint}")
    return arm


def _parse_option(arm: str, text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name.isidentifier() or not value:
        raise InvalidValueError(f"arms must have options of the form name=value, got {text!r} in {arm!r}")
    with contextlib.suppress(ValueError, SyntaxError):
        return name, ast.literal_eval(value)
    return name, value


def arm_class(arm: Arm) -> type[BaseAlgorithm]:
    """The algorithm's class, imported; anything that is not of SB3's kind is refused."""
    if arm.recipe is not None:
        ours: type[BaseAlgorithm] = ALGORITHMS[RECIPES[arm.recipe].algorithm]
        return ours
    module, _, name = arm.target.rpartition(":")
    look_here()
    try:
        candidate = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise InvalidValueError(f"arms: {arm.name} cannot be imported: {error}") from error
    if not inspect.isclass(candidate) or not issubclass(candidate, BaseAlgorithm):
        raise InvalidValueError(f"arms must be algorithms of Stable-Baselines3's kind, got {arm.name!r}: {candidate!r}")
    return candidate


def family_of(arm: Arm) -> str | None:
    """The key of ``tuned.ZOO`` under which its tuned values stand, ``None`` if there are none."""
    names = [base.__name__ for base in arm_class(arm).__mro__]
    family = next((FAMILIES[name] for name in names if name in FAMILIES), None)
    return "ppo_lstm" if family == "ppo" and "Lstm" in str(arm.overrides.get("policy")) else family


def check_options(arm: Arm) -> None:
    """Refuse options that the arm's algorithm does not take, or that all arms have in common."""
    names = inspect.signature(arm_class(arm).__init__).parameters
    for name in arm.overrides:
        if name in RESERVED:
            raise InvalidValueError(f"arms: {name} is the same for all arms and no option of one, got {arm.name!r}")
        if name not in names and name not in OF_THE_TASK and "kwargs" not in names:
            hint = did_you_mean(name, [*names, *OF_THE_TASK], most=1)
            raise InvalidValueError(f"arms: {arm.name} has no argument {name!r}{hint}")
