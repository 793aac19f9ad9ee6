"""``compare``: train stock SB3 and ours with the same seeds; show that they are the same, and which is faster.

With ``--envs`` or ``--arms`` it compares any algorithms on any tasks and ends with a verdict.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import torch as th
import tyro
from rich.console import Console

from sb3_ppo_notes.callbacks.evaluation import CUT
from sb3_ppo_notes.configs.environments import EnvironmentOptions
from sb3_ppo_notes.files import machine, usable_processors
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.formulas.statistics import SEEDS_TO_REPORT
from sb3_ppo_notes.persistence import GracefulStop
from sb3_ppo_notes.runs.compare.outcome import Outcome, apply_protocol
from sb3_ppo_notes.runs.compare.output import show, write_files
from sb3_ppo_notes.runs.compare.parity import SideBySide
from sb3_ppo_notes.runs.compare.plan import Plan, make_plan
from sb3_ppo_notes.runs.compare.pool import FOLDER, Key, check_outdir, count_done, run_all
from sb3_ppo_notes.runs.compare.run import Run
from sb3_ppo_notes.runs.console import INTERRUPTED, command_line

#: Defaults of a comparison with a verdict.
DEFAULTS: dict[str, Any] = {"arms": "sb3,notes", "seeds": 10, "n_eval_episodes": 100}
#: Options of which the command that repeats it is made.
REPEATED = (
    *("envs", "arms", "algo", "seeds", "total_timesteps", "n_envs", "n_eval_episodes", "a_a"),
    *("imports", "env_kwargs", "wrapper"),
)
#: Without one.
SIDE_BY_SIDE = {"total_timesteps": 50_000, "seeds": 3, "n_envs": 8, "n_eval_episodes": 20}


@dataclass
class Compare(EnvironmentOptions):
    """Train algorithms with the same seeds and compare them, in one of three ways:
    1. As it is: stock SB3 and ours, and whether each of their weights is equal.
    2. --recipes: seed systems side by side.
    3. --envs or --arms: any algorithms on any tasks, a verdict and report.html.
    """

    env: str = "CartPole-v1"
    """Id of a registered environment."""
    algo: Literal["ppo", "a2c"] = "ppo"
    """The algorithm."""
    total_timesteps: int | None = None
    """Environment steps of each training run; if not given 50000, for (3) what rl_zoo3 trains the task for."""
    seeds: int | None = None
    """Number of seeds: 0, 1, 2, …; if not given 3, for (3) 10."""
    n_envs: int | None = None
    """Environments stepped side by side; if not given 8, for (3) rl_zoo3's number."""
    n_eval_episodes: int | None = None
    """Episodes of the final, deterministic evaluation, on seeds that training never saw; if not given 20, for (3)
    100."""
    recipes: str | None = None
    """(2) Seed systems, names separated by commas: skrl,minimal_rl,…"""
    envs: str | None = None
    """(3) Tasks, ids separated by commas, with rl_zoo3's tuned hyperparameters where it has some."""
    arms: str | None = None
    """(3) Who is compared with the first one, separated by commas. sb3, notes (of --algo; also sb3-ppo,
    notes-a2c, …), trpo, recurrent-ppo, maskable-ppo, recipe:NAME, module:Class, each with options if need be:
    notes:clip_range=0.1,gamma=0.9. If not given sb3,notes."""
    a_a: bool = False
    """(3) Also train the first arm with as many other seeds and compare it with itself."""
    resume: bool = False
    """(3) Go on with the runs in the outdir; what is finished is not repeated."""
    jobs: int | None = None
    """(3) Runs side by side, a process and a thread each; if not given as many as there are cores."""
    outdir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = field(default_factory=lambda: Path("comparison"))
    """Folder for comparison.json, learning_curves.png and learning_curves.csv, for (3) report.html and more."""

    def __call__(self) -> int:
        """Compare.

        :return: 0 if every parameter of every seed is equal, else 1. With a verdict: 1 if an arm is worse than the
            first, or the A/A check fails. 130 after Ctrl-C, 143 after SIGTERM.
        :raises ValueError: for an option out of range, before anything is trained or written.
        """
        with GracefulStop(raises=True) as stop:
            try:
                if self.envs is None and self.arms is None:
                    return self._compare_side_by_side()
                return self._experiment(stop)
            except KeyboardInterrupt:
                # An experiment that has begun to train says by itself what it keeps.
                print("interrupted: nothing of it is kept", file=sys.stderr)
                return stop.exit_code or INTERRUPTED

    def _compare_side_by_side(self) -> int:
        for name in ("a_a", "resume", "jobs"):
            if getattr(self, name) is not None and getattr(self, name) is not False:
                raise InvalidValueError(f"{name} needs --envs or --arms, got neither")
        numbers = {name: getattr(self, name) for name in SIDE_BY_SIDE}
        numbers = SIDE_BY_SIDE | {name: value for name, value in numbers.items() if value is not None}
        options = {"env": self.env, "environment": self.environment(), "algo": self.algo, **numbers}
        return SideBySide(recipes=self.recipes, outdir=self.outdir, **options)()

    def _experiment(self, stop: GracefulStop) -> int:
        if self.recipes is not None:
            raise InvalidValueError(f"recipes must be written among the arms (recipe:skrl,…), got {self.recipes!r}")
        if self.envs is not None and self.env != type(self).env:
            raise InvalidValueError(f"env must be left out when there are envs, got {self.env!r}")
        options = {name: value for name, value in asdict(self).items() if name not in ("env", "recipes", "outdir")}
        options["envs"] = self.env if self.envs is None else self.envs
        options = {name: DEFAULTS.get(name) if value is None else value for name, value in options.items()}
        return experiment(options, self.environment(), self.outdir, stop)


def experiment(options: dict[str, Any], environment: dict[str, Any], outdir: Path, stop: GracefulStop) -> int:
    """Train every arm on every task with every seed, and judge them.

    :return: 0; 1 if an arm is worse than the first or the A/A check fails; 130 after Ctrl-C, 143 after SIGTERM.
    :raises ValueError: for an option out of range, before anything is trained or written.
    """
    th.set_num_threads(1)
    _check(options, outdir)
    names = ("arms", "envs", "algo", "seeds", "a_a", "total_timesteps", "n_envs", "n_eval_episodes")
    plan = make_plan(environment=environment, **{name: options[name] for name in names})
    runs = plan.runs()
    # What an earlier attempt has left is read before anything is begun, so that it is refused before, too.
    done_before = count_done(runs, outdir)
    try:
        outcome = _run_missing(plan, runs, options, outdir, done_before)
        show(outcome, console := Console())
        paths = write_files(outcome, outdir)
    except KeyboardInterrupt:
        done = count_done(runs, outdir)
        print(
            f"interrupted: {done} of {len(runs)} runs are done and kept; the same command with --resume goes on",
            file=sys.stderr,
        )
        return stop.exit_code or INTERRUPTED
    console.print(f"written: {outdir}/{', '.join(paths)}", soft_wrap=True, highlight=False)
    return 1 if outcome.is_bad_news else 0


def _run_missing(plan: Plan, runs: list[Run], options: dict[str, Any], outdir: Path, done_before: int) -> Outcome:
    jobs = options["jobs"] or usable_processors()
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    records = run_all(runs, outdir, jobs)
    for env in plan.envs:
        check_playable([run for run in runs if run.env == env], records, outdir)
        n_cut = sum(record.get("episodes_cut", 0) for key, record in records.items() if key[1] == env)
        if n_cut:
            print(f"note: {n_cut} episodes of {env} were {CUT}", file=sys.stderr)
    about = {
        "command": command_line("compare", {name: options[name] or None for name in REPEATED} | {"outdir": outdir}),
        "options": options | {"outdir": str(outdir)},
        "machine": machine(),
        "jobs": jobs,
        "started": started.strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": time.perf_counter() - clock,
        "runs_done_before": done_before,
    }
    return apply_protocol(plan, records, about)


def check_playable(runs: Sequence[Run], records: Mapping[Key, dict[str, Any]], outdir: Path) -> None:
    """Refuse to judge algorithms by a task that nobody could play. Its runs are removed: it may be mended.

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
