"""``run``: search, finalists and test, with as many workers as this machine is to give."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from optuna.storages import BaseStorage

from sb3_ppo_notes.configs.build import check_environment
from sb3_ppo_notes.configs.environments import EnvironmentOptions
from tuning.commands.compare import comparison_table, optimism_line
from tuning.commands.progress import StudyProgress
from tuning.commands.verbs import StudyOptions, console, exit_code
from tuning.report import write_report
from tuning.report.record import read_record
from tuning.selection import Protocol
from tuning.space import Space
from tuning.space.setup import environment_of
from tuning.space.warm_starts import base_of, warm_starts, zoo_entry
from tuning.storage import open_storage
from tuning.storage.database import Patience
from tuning.worker.identity import IDENTITY, create_or_join
from tuning.worker.processes import run_workers, silence_optuna
from tuning.worker.queues import find_study
from tuning.worker.settings import Settings, baselines, check_sampler

#: Seeds of two studies lie so far apart.
SEEDS_PER_STUDY = 1000
FIRST_TEST_SEED = 100
#: With a budget, a trial is as long as lets this many run; the study would find nothing with fewer.
RUNS_OF_A_BUDGET = 64
LONGEST_TRIAL, SHORTEST_TRIAL = 100_000, 1_000


@dataclass
class Run(StudyOptions, EnvironmentOptions):
    """Search for a configuration that holds up, alone or with other machines."""

    env: str = "CartPole-v1"
    """Id of a registered environment."""
    algo: Literal["notes_ppo", "notes_a2c"] = "notes_ppo"
    """Algorithm to tune."""
    budget: int | None = None
    """Environment steps of search and finalists, all workers together; pruned and failed trials count too."""
    timeout: float | None = None
    """Seconds after which no further trial of the search starts."""
    max_trials: int | None = None
    """Complete and pruned trials of the search."""
    workers: int = 1
    """Processes on this machine, one thread each."""
    n_timesteps: int | None = None
    """Environment steps of a trial; if not given, rl_zoo3's, but at most a 64th of the budget."""
    n_envs: int | None = None
    """Environments of a trial side by side; if not given, rl_zoo3's number or 8."""
    space: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A YAML file that narrows or replaces the search space."""
    vary: tuple[str, ...] = ()
    """Rules to choose among as well, such as rule.policy_objective."""
    warm_start: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")] = ()
    """YAML files with configurations to start from, beside SB3's defaults and rl_zoo3's."""
    sampler: str = "tpe"
    """Sampler of the suggestions: tpe, random, gp, cma or qmc."""
    seed: int = 0
    """Of the suggestions, and of the block of seeds that runs are trained on."""
    finalists: int | None = None
    """Configurations that are run again; if not given, 5, or fewer if they would take more than 30 % of the budget."""
    finalist_seeds: int | None = None
    """Fresh seeds on which they are; if not given, 4, or fewer."""
    test_seeds: int = 10
    """Seeds of the test, on which nobody tuned."""
    n_eval_episodes: int = 10
    """Episodes of each evaluation."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the update: auto does where a trial is long enough to win by it."""
    heartbeat: int = 60
    """Seconds between two signs of life of a running trial; three missing ones mean death."""
    patience: float = 600.0
    """Seconds that a database may be away."""
    allow_changed_config: bool = False
    """Go on with a study although its space, environment or protocol has changed."""

    def __call__(self) -> int:
        """Run the study; the exit code is 1 if trials keep failing, 2 if their environment does."""
        silence_optuna()
        self.study = self.study or re.sub(r"[^A-Za-z0-9._-]+", "-", self.env)
        self.environment()  # imports what registers the environment
        entry = zoo_entry(self.env, self.algo)
        self._check()
        address, name = self.address(), self.checked_name()
        storage: BaseStorage | None = None
        stored: dict[str, Any] = {}
        if not address.is_journal or address.path.exists():  # type: ignore[union-attr]
            storage = open_storage(address, self.heartbeat, Patience(self.patience))
            there = find_study(name, storage)
            stored = there.user_attrs.get(IDENTITY, {}) if there is not None else {}
        settings = self.settings(entry, stored)
        starts = warm_starts(self.env, settings.space, self.warm_start, settings.base)
        if address.is_sqlite and self.workers > 1:
            print("warning: SQLite is slow and fragile with several workers; use a journal file", file=sys.stderr)
        storage = storage or open_storage(address, self.heartbeat, Patience(self.patience))
        study = create_or_join(settings, storage, starts, self.allow_changed_config)
        settings.folder.mkdir(parents=True, exist_ok=True)
        with StudyProgress(study, storage) as line:
            code = run_workers(settings, self.workers, line.show)
        record = read_record(study, storage, str(address))
        written = write_report(record, self.folder())
        if code == 0 and len(record.tested) > 1:
            console().print(comparison_table(record))
        console().print(optimism_line(record), highlight=False)
        console().print(f"written: {', '.join(str(path) for path in written)}", soft_wrap=True, highlight=False)
        if code in (130, 143):
            print("interrupted: the same command goes on from here", file=sys.stderr)
        return exit_code(code, study, storage, self.hide)

    def settings(self, entry: Mapping[str, Any], stored: Mapping[str, Any]) -> Settings:
        """The options as the workers take them.

        ``stored`` is the identity of the study if it exists: what was chosen for it then is not chosen anew because the
        budget has grown.
        """
        base = base_of(entry) | self.environment()
        environment = environment_of(base)
        check_environment(self.env, **environment)
        if self.n_envs is not None:
            base = {**base, "n_envs": self.n_envs}
        base.setdefault("n_envs", 8)
        total = self.n_timesteps or stored.get("n_timesteps") or self._n_timesteps(entry)
        space = Space.default(self.algo) if self.space is None else Space.from_yaml(self.space, self.algo)
        if self.vary:
            space = space.vary(self.vary)
        settings = Settings(
            study=self.study,
            storage=self.storage_text(),
            folder=self.folder() / "checkpoints",
            env_id=self.env,
            algo=self.algo,
            space=space.fit(int(base["n_envs"]), total),
            base=base,
            protocol=self._protocol(total, stored),
            total_timesteps=total,
            budget=self.budget,
            max_trials=self.max_trials,
            timeout=self.timeout,
            seed=self.seed,
            sampler=self.sampler,
            n_eval_episodes=self.n_eval_episodes,
            compile=self.compile,
            baselines=baselines(self.env, self.algo, environment),
            heartbeat=self.heartbeat,
            patience=self.patience,
        )
        settings.limits()  # refuses what no worker could do
        return settings

    def _check(self) -> None:
        at_least_one = "workers finalists finalist_seeds n_eval_episodes heartbeat n_timesteps n_envs budget"
        for name in at_least_one.split():
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.test_seeds < 2:
            raise ValueError(f"test_seeds must be >= 2, got {self.test_seeds}")
        if not 0 <= self.seed < 2**31 // SEEDS_PER_STUDY:
            raise ValueError(f"seed must be in [0, {2**31 // SEEDS_PER_STUDY - 1}], got {self.seed}")
        if not self.patience >= 0:
            raise ValueError(f"patience must be >= 0 seconds, got {self.patience}")
        check_sampler(self.sampler)

    def _protocol(self, total: int, stored: Mapping[str, Any]) -> Protocol:
        first = SEEDS_PER_STUDY * self.seed
        n_seeds = 4 if self.finalist_seeds is None else self.finalist_seeds
        protocol = Protocol(
            search_seeds=(first,),
            finalist_seeds=tuple(range(first + 1, first + 1 + n_seeds)),
            test_seeds=tuple(range(first + FIRST_TEST_SEED, first + FIRST_TEST_SEED + self.test_seeds)),
            n_finalists=5 if self.finalists is None else self.finalists,
        )
        if self.finalists is not None or self.finalist_seeds is not None or self.budget is None:
            return protocol
        if "protocol" in stored:
            before = Protocol.from_fingerprint(stored["protocol"])
            return dataclasses.replace(
                protocol,
                n_finalists=before.n_finalists,
                finalist_seeds=protocol.finalist_seeds[: len(before.finalist_seeds)],
            )
        return protocol.fitted(self.budget / total)

    def _n_timesteps(self, entry: Mapping[str, Any]) -> int:
        steps = int(float(entry.get("n_timesteps", LONGEST_TRIAL)))
        if self.budget is None:
            return steps
        return max(SHORTEST_TRIAL, min(steps, self.budget // RUNS_OF_A_BUDGET))
