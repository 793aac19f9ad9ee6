"""``compare --envs … --arms …``: train, judge, write; the part of the command that ends with a verdict."""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch as th
from rich.console import Console

from sb3_ppo_notes.callbacks.evaluation import CUT
from sb3_ppo_notes.files import machine, usable_processors
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.formulas.statistics import SEEDS_TO_REPORT
from sb3_ppo_notes.runs.compare.output import Outcome, shown, write_files
from sb3_ppo_notes.runs.compare.plan import Plan, planned
from sb3_ppo_notes.runs.compare.pool import FOLDER, Key, check_outdir, number_done, perform
from sb3_ppo_notes.runs.compare.results import Results, check_scores, completed_scales
from sb3_ppo_notes.runs.compare.run import Run
from sb3_ppo_notes.runs.compare.verdict import a_a_check, judge, summary
from sb3_ppo_notes.runs.interruption import exit_code

#: What an option is that was not given.
DEFAULTS: dict[str, Any] = {"arms": "sb3,notes", "seeds": 10, "n_eval_episodes": 100}


def experiment(options: dict[str, Any], outdir: Path) -> int:
    """Train every arm on every task with every seed, and judge them.

    :param options: ``envs``, ``arms``, ``algo``, ``seeds``, ``total_timesteps``, ``n_envs``, ``n_eval_episodes``,
        ``a_a``, ``jobs`` and ``resume``; ``None`` where nothing was given.
    :param outdir: where the results go.
    :return: 0; 1 if an arm is worse than the first or the A/A check fails; 130 after Ctrl-C, 143 after SIGTERM.
    :raises ValueError: for an option out of range, before anything is trained or written.
    """
    options = {name: DEFAULTS.get(name) if value is None else value for name, value in options.items()}
    th.set_num_threads(1)
    _check(options, outdir)
    names = ("arms", "envs", "algo", "seeds", "a_a", "total_timesteps", "n_envs", "n_eval_episodes")
    plan = planned(**{name: options[name] for name in names})
    runs = plan.runs()
    # What an earlier attempt has left is read before anything is begun, so that it is refused before, too.
    done_before = number_done(runs, outdir)
    try:
        outcome = _performed(plan, runs, options, outdir, done_before)
        shown(outcome, console := Console())
        written = write_files(outcome, outdir)
    except KeyboardInterrupt as interruption:
        done = number_done(runs, outdir)
        print(
            f"interrupted: {done} of {len(runs)} runs are done and kept; the same command with --resume goes on",
            file=sys.stderr,
        )
        return exit_code(interruption)
    console.print(f"written: {outdir}/{written[0]}, {', '.join(written[1:])}", soft_wrap=True, highlight=False)
    return 1 if outcome.is_bad_news else 0


def _performed(plan: Plan, runs: list[Run], options: dict[str, Any], outdir: Path, done_before: int) -> Outcome:
    jobs = options["jobs"] or usable_processors()
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    records = perform(runs, outdir, jobs)
    for env in plan.envs:
        check_playable([run for run in runs if run.env == env], records, outdir)
        n_cut = sum(record.get("episodes_cut", 0) for key, record in records.items() if key[1] == env)
        if n_cut:
            print(f"note: {n_cut} episodes of {env} were {CUT}", file=sys.stderr)
    about = {
        "command": command(options, outdir),
        "options": options | {"outdir": str(outdir)},
        "machine": machine(),
        "jobs": jobs,
        "started": started.strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": time.perf_counter() - clock,
        "runs_done_before": done_before,
    }
    return judged(plan, records, about)


def check_playable(runs: Sequence[Run], records: Mapping[Key, dict[str, Any]], outdir: Path) -> None:
    """Refuse to judge algorithms by a task that nobody could play. Its runs are removed: it may be mended.

    :param runs: of the task.
    :param records: of every run.
    :param outdir: where their files are.
    :raises ValueError: if the environment ended every run by an error of its own, which is the message.
    """
    if not all(records[run.key].get("by_environment") for run in runs):
        return
    for run in runs:
        (outdir / FOLDER / run.path).unlink()
        (outdir / FOLDER / run.path).with_suffix(".log").unlink(missing_ok=True)
    for folder in (outdir / FOLDER, outdir):
        if not any(folder.iterdir()):
            folder.rmdir()
    raise InvalidValueError(records[runs[0].key]["error"])


def _check(options: dict[str, Any], outdir: Path) -> None:
    for name in ("n_eval_episodes", "total_timesteps", "n_envs", "jobs"):
        if options[name] is not None:
            check_integer(name, options[name], minimum=1)
    check_integer("seeds", options["seeds"], minimum=2, because=" (one run says nothing of the next seed's)")
    if options["a_a"]:
        check_integer("seeds", options["seeds"], minimum=SEEDS_TO_REPORT, because=" with --a-a")
    if options["resume"] and not (outdir / FOLDER).is_dir():
        raise InvalidValueError(f"resume needs a folder with runs to go on with, got {outdir}")
    check_outdir(outdir, options["resume"])


def judged(plan: Plan, records: dict[Key, dict[str, Any]], about: dict[str, Any]) -> Outcome:
    """Apply the protocol to runs that are done.

    :param plan: what was to be done.
    :param records: of every run.
    :param about: what else the report says.
    :return: the outcome.
    :raises ValueError: for a score that is no number, or a missing run.
    """
    missing = [run.key for run in plan.runs() if run.key not in records]
    if missing:
        arm, env, seed = missing[0]
        raise InvalidValueError(f"arms must have run the same tasks and seeds: {arm} on {env}, seed {seed} is missing")
    check_scores(records)
    arms = [arm.name for arm in plan.arms]
    scales = completed_scales(plan.scales, arms, plan.seeds, records)
    results = Results(arms, plan.envs, plan.seeds, records, scales)
    return Outcome(
        plan=plan,
        results=results,
        summaries=[summary(results, arm) for arm in arms],
        judgements=[judge(results, arm) for arm in arms[1:]],
        a_a=a_a_check(results, plan.other_seeds) if plan.other_seeds else None,
        about=about,
    )


def command(options: dict[str, Any], outdir: Path) -> str:
    """The command line that does the same again.

    :param options: as given to :func:`experiment`, with the defaults filled in.
    :param outdir: where the results went.
    :return: words of a shell.
    """
    words = ["python", "-m", "sb3_ppo_notes", "compare"]
    for name in ("envs", "arms", "algo", "seeds", "total_timesteps", "n_envs", "n_eval_episodes"):
        if options[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(options[name])]
    return shlex.join([*words, *(["--a-a"] if options["a_a"] else []), "--outdir", str(outdir)])
