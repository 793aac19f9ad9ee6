"""Rules side by side, as a page shows them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sb3_ppo_notes.rules.update_rule import SLOTS, UpdateRule


def markdown_table(rules: Mapping[str, UpdateRule]) -> str:
    """Stock PPO and other rules, one row each, one column a slot; what is as in stock PPO is left empty.

    :param rules: by name.
    :return: a Markdown table.
    """
    stock = UpdateRule()
    lines = ["| | " + " | ".join(SLOTS.values()) + " |", "|---" * (len(SLOTS) + 1) + "|"]
    lines.append(_row("stock PPO", [_short(getattr(stock, slot)) for slot in SLOTS]))
    for name, rule in rules.items():
        choices = [(getattr(rule, slot), getattr(stock, slot)) for slot in SLOTS]
        lines.append(_row(name, ["" if choice == usual else _short(choice) for choice, usual in choices]))
    return "\n".join(lines)


def _row(name: str, cells: list[str]) -> str:
    return f"| **{name}** | " + " | ".join(cells) + " |"


def _short(choice: Any) -> str:
    """A choice with only those numbers that are not its defaults."""
    if isinstance(choice, tuple):
        return ", ".join(map(_short, choice)) or "none"
    if not dataclasses.is_dataclass(choice):
        return str(choice)
    changed = [
        f"{item.name}={_short(getattr(choice, item.name))}"
        for item in dataclasses.fields(choice)
        if item.repr and getattr(choice, item.name) != item.default
    ]
    return f"{type(choice).__name__}({', '.join(changed)})" if changed else type(choice).__name__
