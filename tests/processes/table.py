"""The table of docs/scale.md, by ``python -m tests.processes.table``: what was tried on how many processes, and how far
the results are apart.
"""

import re
import tempfile
from pathlib import Path

import pytest

import sb3_ppo_notes
from sb3_ppo_notes.processes import Alone
from tests.processes import cases, test_equality
from tests.processes.launch import run, values

PAGE = Path(sb3_ppo_notes.__file__).parent / "docs" / "scale.md"
HEAD = "| training | carried out as | two processes against one on both rollouts | four shards on 1, 2, 4 processes |"


def rows_of(page):
    """The table's first column as it stands on the page."""
    table = page[page.index(HEAD) :].partition("\n\n")[0]
    return [re.split(r" *\| *", line)[1] for line in table.splitlines()[2:]]


def table(folder):
    """Train everything again."""
    names = list(cases.CASES)
    values(run(cases.train, 2, folder, names, 2, test_equality.N_UPDATES, limit=900))
    two = cases.read(folder, 2)
    sharded = test_equality.SHARDED
    cases.train(Alone(), folder, sharded, 4, 2)
    for size in (2, 4):
        values(run(cases.train, size, folder, sharded, 4, 2, limit=900))
    four = [each for size in (1, 2, 4) for each in cases.read(folder, size)]
    lines = [HEAD, "|---|---|---|---|"]
    for name in names:
        one, other = (each[name] for each in two)
        assert one["digest"] == other["digest"]
        difference = "not compared: noise or rounding of other numbers of rows"
        if name in test_equality.COMPARED:
            with pytest.MonkeyPatch.context() as patch:
                model = test_equality.learn_from_union(name, [one["rollouts"], other["rollouts"]], patch)
            difference = f"{test_equality.largest_difference(model.policy.state_dict(), one['weights']):.0e}"
        same = "a process's noise cannot be two shards'"
        if name in sharded:
            digests = {each[name]["digest"] for each in four}
            same = f"the same bits, `{digests.pop()[:8]}`" if len(digests) == 1 else "**differ**"
        lines.append(
            f"| {name} | {one['ran'].split(';')[0].partition(' (')[0].removeprefix('steps ')} | {difference} | {same} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        new = table(Path(scratch))
    page = PAGE.read_text()
    PAGE.write_text(page.replace(page[page.index(HEAD) :].partition("\n\n")[0], new))
    print(new)
