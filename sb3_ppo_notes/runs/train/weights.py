"""Number of weights of a model, by module."""

import re
from collections import Counter

from rich.table import Table
from torch import nn

from sb3_ppo_notes.formulas.checks import InvalidValueError


def count_weights(module: nn.Module, scope: str = "", exclude: str | None = None) -> int:
    """The number of trainable weights, as batch-ppo's ``count_weights`` tells it.

    Only of the module at the path ``scope`` (``"mlp_extractor.policy_net"``); without those whose names the regular
    expression ``exclude`` matches from their beginning.

    >>> count_weights(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 2)))
    4610
    """
    return sum(_sizes(module, scope, exclude).values())


def weights_table(module: nn.Module, exclude: str | None = None) -> Table:
    """One row a module, and their sum."""
    table = Table(title="weights" if exclude is None else f"weights, without {exclude}")
    table.add_column("module")
    table.add_column("number", justify="right")
    rows: Counter[str] = Counter()
    for name, size in _sizes(module, "", exclude).items():
        rows[_module_of(name)] += size
    for row, size in rows.items():
        table.add_row(row, f"{size:,}")
    table.add_section()
    table.add_row("all", f"{sum(rows.values()):,}", style="bold")
    return table


def _sizes(module: nn.Module, scope: str, exclude: str | None) -> dict[str, int]:
    try:
        pattern = None if exclude is None else re.compile(exclude)
    except re.error as error:
        raise InvalidValueError(f"exclude must be a regular expression, got {exclude!r} ({error})") from error
    return {
        name: parameter.numel()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
        and (not scope or name == scope or name.startswith(f"{scope}."))
        and not (pattern and pattern.match(name))
    }


def _module_of(name: str) -> str:
    """``mlp_extractor.policy_net`` of ``mlp_extractor.policy_net.0.weight``: two levels of names, no layers."""
    parts = [part for part in name.split(".")[:-1] if not part.isdigit()]
    return ".".join(parts[:2]) or name
