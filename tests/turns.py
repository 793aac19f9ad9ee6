"""Slow tests by turns: as many as begin within a time, in an order that each commit draws anew.

    python -m pytest -m slow -n 2 -p tests.turns --turn-seconds 300 --turn-order "$(git rev-parse HEAD)"

A pytest plugin. What was not begun is skipped, counted and named at the end.
"""

import collections
import hashlib
import time

import pytest

NOT_NOW = "not this commit's turn"


def pytest_addoption(parser):
    group = parser.getgroup("turns")
    group.addoption(
        "--turn-seconds", type=float, default=float("inf"), help="no test begins so many seconds after the first"
    )
    group.addoption("--turn-order", default="", help="any text: another one, another order")


def drawn(order, item):
    """The place of a test. Those of a file that share an expensive fixture stay together."""
    fixtures = [each for definitions in item._fixtureinfo.name2fixturedefs.values() for each in definitions]
    is_together = any(each.scope == "module" for each in fixtures)
    name = item.nodeid.partition("::")[0] if is_together else item.nodeid
    return hashlib.sha256(f"{order} {name}".encode()).hexdigest()


def pytest_collection_modifyitems(config, items):
    """Of those that take minutes one is drawn, and goes first: begun last, it would end long after the time is over."""
    order = config.getoption("turn_order")
    items.sort(key=lambda item: drawn(order, item))
    long = [item for item in items if item.get_closest_marker("long")]
    config.without_turn = set(long[1:]) if config.getoption("turn_seconds") < float("inf") else set()
    items.sort(key=lambda item: item not in long[:1])


def pytest_collection_finish(session):
    session.config.turns_end = time.monotonic() + session.config.getoption("turn_seconds")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if item in item.config.without_turn or time.monotonic() > item.config.turns_end:
        pytest.skip(NOT_NOW)


def pytest_terminal_summary(terminalreporter, config):
    reports = [each for each in terminalreporter.stats.get("skipped", []) if NOT_NOW in str(each.longrepr)]
    if not reports:
        return
    rows = collections.Counter(report.nodeid.partition("[")[0] for report in reports)
    seconds = config.getoption("turn_seconds")
    terminalreporter.section(f"{len(reports)} slow tests had no turn within {seconds:.0f} s: python -m pytest -m slow")
    for name, count in sorted(rows.items()):
        terminalreporter.line(f"{count:4d} {name}")
