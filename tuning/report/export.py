"""The winner as a file that rl_zoo3 and ``train --config`` read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sb3_ppo_notes.configs.rules import rule_as_data
from sb3_ppo_notes.configs.values import ACTIVATIONS
from sb3_ppo_notes.files import write_text
from tuning.report.data import StudyRecord, without_passwords
from tuning.report.numbers import arm_numbers, best_trial, optimism_of, tuned_arm
from tuning.space.setup import (
    RULE_ARGUMENTS,
    constructor_arguments,
    environment_of,
    plain_arguments,
    zoo_algorithm,
)


def best_entry(record: StudyRecord) -> dict[str, Any]:
    """The winner's hyperparameters by rl_zoo3's keys, as YAML holds them."""
    configuration = best_trial(record).configuration
    n_envs = int(record.base.get("n_envs", 1))
    arguments = plain_arguments(configuration, n_envs, record.base, record.algo)
    rule = constructor_arguments(configuration, n_envs, record.base, record.algo).get("rule")
    if rule is not None:  # it says what these would say
        arguments = {name: value for name, value in arguments.items() if name not in RULE_ARGUMENTS}
    entry: dict[str, Any] = {"n_envs": n_envs, "n_timesteps": float(record.total_timesteps)}
    normalize = record.base.get("normalize")
    if normalize:
        # rl_zoo3 and train set its gamma to the model's.
        options = (
            {key: value for key, value in dict(normalize).items() if key != "gamma"} if normalize is not True else {}
        )
        entry["normalize"] = options or True
    entry |= {name: value for name, value in environment_of(record.base).items() if name != "imports"}
    entry |= {name: value for name, value in arguments.items() if value is not None and name != "policy_kwargs"}
    if arguments.get("policy_kwargs"):
        entry["policy_kwargs"] = _expression(arguments["policy_kwargs"])
    if rule is not None:
        entry["rule"] = rule_as_data(rule)
    return entry


def best_yaml(record: StudyRecord) -> str:
    """``best.yml``: the environment's id and its hyperparameters, with where they come from as comments."""
    record = without_passwords(record)
    best, entry = best_trial(record), best_entry(record)
    lines = [f"# {record.algo}, trial {best.number} of study {record.name}, {record.total_timesteps:,} steps a run"]
    tuned = tuned_arm(record)
    if record.winner is None:
        lines.append("# the finalists have not run: picked for one noisy score, which is too optimistic")
    elif tuned is None:
        lines.append("# not tested yet on seeds that nobody tuned on")
    else:
        numbers, difference = arm_numbers(tuned), optimism_of(record)
        lines.append(
            f"# test score {numbers.mean:.1f} over {len(numbers.scores)} seeds that nobody tuned on; "
            f"tuning score minus test score {difference:+.1f}"
        )
    zoo, packages = zoo_algorithm(record.algo), " ".join(record.base.get("imports") or ())
    ours, theirs = (f" --import {packages}", f" --gym-packages {packages}") if packages else ("", "")
    command = f"python -m sb3_ppo_notes train --algo {zoo} --config best.yml --env {record.env_id}"
    lines.append(f"# train with: {command}{ours}")
    if "rule" in entry:
        lines.append("# 'rule' is NotesPPO's and NotesA2C's: stock SB3, and so rl_zoo3, refuses it")
    else:
        lines.append(f"# or: python -m rl_zoo3.train --algo {zoo} --env {record.env_id} -conf best.yml{theirs}")
    document = yaml.safe_dump({record.env_id: entry}, sort_keys=False, allow_unicode=True, width=1000)
    return "\n".join(line.replace("\n", " ") for line in lines) + "\n" + document


def write_best(record: StudyRecord, folder: str | Path) -> Path:
    """Write ``best.yml``; without a completed trial an error says so, and nothing is written."""
    content = best_yaml(record)
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / "best.yml"
    write_text(path, content)
    return path


def _expression(value: Any, name: str = "") -> str:
    """The expression that rl_zoo3's loader, and ours, read as this value; names of classes are not quoted."""
    if isinstance(value, Mapping):
        return "dict(" + ", ".join(f"{key}={_expression(item, str(key))}" for key, item in value.items()) + ")"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_expression(item) for item in value) + "]"
    if isinstance(value, str) and name.endswith(("_fn", "_class")):
        module = "nn." if value in ACTIVATIONS else "" if value == "RMSpropTFLike" else "th.optim."
        return module + value
    return repr(value)
