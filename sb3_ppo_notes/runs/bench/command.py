"""``bench``: how fast ours and the peers train on this machine, side by side."""

import itertools
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes._atomic import write_whole
from sb3_ppo_notes.algorithms.construction import check_policy
from sb3_ppo_notes.callbacks.evaluation import EVALUATION_SEED_OFFSET
from sb3_ppo_notes.configs.build import check_environment
from sb3_ppo_notes.configs.environments import EnvironmentOptions
from sb3_ppo_notes.files import machine, write_json
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.persistence import GracefulStop
from sb3_ppo_notes.runs.bench.arms import (
    HYPERPARAMETERS,
    OURS,
    PEERS,
    Arm,
    check_device,
    kind_of,
    our_arm,
    parse_names,
    peer_arm,
)
from sb3_ppo_notes.runs.bench.report import bench_table, draw_bars, footnotes
from sb3_ppo_notes.runs.bench.results import train_all
from sb3_ppo_notes.runs.console import INTERRUPTED, ProgressBar, command_line, table_console

LEAST_STEPS, ROLLOUTS = 8192, 4
TURNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())


@dataclass
class Bench(EnvironmentOptions):
    """Measure how fast ours and the peers train here, in turn, one thread each."""

    env: str = "CartPole-v1"
    """Id of a registered environment."""
    n_envs: int = 8
    """Environments stepped side by side."""
    algo: Literal["ppo", "a2c"] = "ppo"
    """The algorithm."""
    policy: str = "MlpPolicy"
    """Name of a policy; one with Lstm is compared with sb3-contrib's RecurrentPPO."""
    ours: str | None = None
    """Our variants, separated by commas: notes, notes+compile, notes+lean (environments in LeanVecEnv), notes+vector
    (in Gymnasium's own vector environment), notes+lean+compile, notes+vector+compile. If not given notes,notes+compile;
    for a policy with Lstm, which is not compiled, notes. One that compiles and did not run so is an error."""
    peers: str = "sb3"
    """Peers they are compared with, separated by commas: sb3, sb3-contrib, sbx. Ratios are to the first."""
    peer_python: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Interpreter for the peers whose package is not installed here."""
    processes: str = "1"
    """Numbers of processes that train each of our variants together, separated by commas: 1,2. n_envs and batch_size
    are those of all of them."""
    rounds: int = 5
    """Rounds measured, after one of warm-up."""
    total_timesteps: int | None = None
    """Environment steps of an arm in each round, rounded up to whole rollouts; if not given, 4 rollouts and at least
    8192."""
    n_steps: int | None = None
    """Steps of each environment in a rollout, for every arm; stock's default if not given."""
    batch_size: int | None = None
    """Samples in a minibatch, likewise."""
    n_epochs: int | None = None
    """Passes over each rollout, likewise."""
    n_eval_episodes: int = 20
    """Episodes of the final, deterministic evaluation, on seeds that training never saw."""
    seed: int = 0
    """Of all random generators."""
    device: str = "cpu"
    """Device of PyTorch's arms: cpu, cuda or cuda:1. JAX chooses by itself."""
    cold_compile: bool = False
    """Measure compilation twice: with an empty cache, and from the cache that this has filled."""
    outdir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = field(default_factory=lambda: Path("bench"))
    """Folder for bench.json and bench.png."""

    def __call__(self) -> int:
        """Measure, print, write.

        :return: 0; 130 after Ctrl-C, 143 after SIGTERM.
        :raises ValueError: for an option out of range, before training; for a row that did not run as it is called.
        :raises OSError: if an arm fails.
        """
        arms = self._check()
        with GracefulStop(raises=True) as stop:
            try:
                self._run(arms)
            except KeyboardInterrupt:
                print("interrupted: every arm is ended, nothing is written", file=sys.stderr)
                return stop.exit_code or INTERRUPTED
        return 0

    def _check(self) -> list[Arm]:
        for name in ("n_envs", "rounds", "n_eval_episodes"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("seed", self.seed, minimum=0)
        check_device(self.device)
        check_policy(self.policy, NotesPPO.policy_aliases, None)
        ours, peers = parse_names("ours", self._ours(), list(OURS)), parse_names("peers", self.peers, list(PEERS))
        self._check_hyperparameters()
        vectors = [name for name in ours if OURS[name][1] == "vector"]
        if self.wrapper and vectors:
            raise InvalidValueError(
                f"wrapper must be left out with ours {', '.join(vectors)}, which wraps nothing, got {self.wrapper[0]!r}"
            )
        folder = next(path for path in (self.outdir.absolute(), *self.outdir.absolute().parents) if path.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            what = "read-only folder" if folder.is_dir() else "file"
            raise InvalidValueError(f"outdir must be a folder to write to, got {self.outdir}: {folder} is a {what}")
        if self.peer_python is not None and not os.access(self.peer_python, os.X_OK):
            raise InvalidValueError(f"peer_python must be a Python interpreter, got {self.peer_python}")
        environment = self.environment()
        check_environment(self.env, **environment)
        common: dict[str, Any] = {"env": self.env, "n_envs": self.n_envs, "policy": self.policy, "seed": self.seed}
        common |= {"device": self.device, "imports": [], "env_kwargs": {}, "env_wrapper": []} | environment
        common["arguments"] = self._hyperparameters()
        kind = kind_of(self.algo, self.policy)
        return [
            *(peer_arm(name, kind, self.peer_python, common) for name in peers),
            *(our_arm(name, self.algo, common, number) for name in ours for number in self._processes()),
        ]

    def _processes(self) -> list[int]:
        words = [word.strip() for word in self.processes.split(",")]
        if not all(word.isdecimal() and int(word) for word in words):
            raise InvalidValueError(f"processes must be numbers separated by commas, got {self.processes!r}")
        numbers = sorted({int(word) for word in words})
        for name, total in (("n_envs", self.n_envs), ("batch_size", self._hyperparameters().get("batch_size"))):
            for number in numbers:
                if total is not None and total % number:
                    raise InvalidValueError(f"{name} must be a multiple of {number} processes, got {total}")
        return numbers

    def _ours(self) -> str:
        default = "notes" if "Lstm" in self.policy else "notes,notes+compile"
        return default if self.ours is None else self.ours

    def _check_hyperparameters(self) -> None:
        defaults = HYPERPARAMETERS[kind_of(self.algo, self.policy)]
        for name in ("n_steps", "batch_size", "n_epochs"):
            if (value := getattr(self, name)) is None:
                continue
            if name not in defaults:
                raise InvalidValueError(f"{name} must not be given with algo {self.algo}, which has none, got {value}")
            check_integer(name, value, minimum=1)
        hyperparameters, rollout = self._hyperparameters(), self._rollout()
        if hyperparameters.get("batch_size", 1) > rollout:
            raise InvalidValueError(
                f"batch_size must be at most the rollout of n_steps * n_envs = {rollout} steps, got "
                f"{hyperparameters['batch_size']}"
            )
        if self.total_timesteps is not None:
            because = f" (one rollout: {hyperparameters['n_steps']} steps of {self.n_envs} environments)"
            check_integer("total_timesteps", self.total_timesteps, minimum=rollout, because=because)

    def _hyperparameters(self) -> dict[str, int]:
        given = {name: getattr(self, name) for name in ("n_steps", "batch_size", "n_epochs")}
        return HYPERPARAMETERS[kind_of(self.algo, self.policy)] | {k: v for k, v in given.items() if v is not None}

    def _rollout(self) -> int:
        return self._hyperparameters()["n_steps"] * self.n_envs

    def _steps(self) -> int:
        rollout = self._rollout()
        wanted = self.total_timesteps or max(ROLLOUTS * rollout, LEAST_STEPS)
        return -(-wanted // rollout) * rollout

    def _run(self, arms: list[Arm]) -> None:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        # Drawn between turns only, to take no time from anybody.
        with ProgressBar((self.rounds + 1) * len(arms), columns=TURNS, auto_refresh=False) as bar:
            turn = itertools.count()

            def tell(arm: str, number: int) -> None:
                text = f"{f'round {number}' if number else 'warm-up'}, {arm}"
                bar.describe(text, completed=next(turn), refresh=True)

            results = train_all(arms, self.rounds, self._steps(), self._episodes(), self.cold_compile, tell)
        console = table_console()
        where = "" if self.device == "cpu" else f", {self.device}"
        title = f"{self.algo.upper()} on {self.env}, {self.policy}, {self.n_envs} envs{where}"
        summaries = results.summaries()
        console.print(bench_table(summaries, results.evaluations, title))
        for note in footnotes(summaries, self.rounds, self.n_eval_episodes, load):
            console.print(note, highlight=False)
        self.outdir.mkdir(parents=True, exist_ok=True)
        document = {
            "command": command_line("bench", asdict(self)),
            "options": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()},
            "hyperparameters": self._hyperparameters(),
            "machine": machine() | {"load_at_start": load},
            **results.document(),
        }
        write_json(self.outdir / "bench.json", document)
        write_whole(self.outdir / "bench.png", lambda path: draw_bars(summaries, title, path))
        console.print(f"written: {self.outdir}/bench.json, bench.png", soft_wrap=True)

    def _episodes(self) -> dict[str, int]:
        return {"episodes": self.n_eval_episodes, "seed": self.seed + EVALUATION_SEED_OFFSET}
