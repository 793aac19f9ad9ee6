"""``train --track``: the run's log in an experiment tracker too, as one more of SB3's sinks.

Everything stays on this machine, in the run's folder, unless the variables of the environment that the tracker itself
reads say otherwise. No tracker's package is imported before it is asked for.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import json
import numbers
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from sb3_ppo_notes.callbacks.evaluation import preserve_generators
from sb3_ppo_notes.configs.rules import rule_as_data
from sb3_ppo_notes.configs.run_config import ALGORITHMS, NOT_IN_YAML, RunConfig
from sb3_ppo_notes.files import write_json
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.runs.train.log import RunState

#: The project, experiment or repository's group that runs belong to, where the environment names none.
PROJECT = "sb3_ppo_notes"
#: In the run's folder: which run of which tracker it is, so that a run that is resumed goes on there.
TRACKER = "tracker.json"


def check_tracker(name: str | None) -> None:
    """Refuse a tracker whose package is not installed."""
    if name is not None and importlib.util.find_spec(name) is None:
        raise InvalidValueError(f"track {name!r} needs a package that is not installed: pip install {name}")


class Tracker(KVWriter):
    """Writes the numbers that ``progress.csv`` holds, at the same steps; nothing of the training notices.

    :param folder: of the run, whose name is the run's.
    :param config: plain data.
    """

    #: Of the package, and of the option's value.
    name: ClassVar[str]

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self.folder = folder.resolve()
        self._process = os.getpid()
        file = folder / TRACKER
        before = json.loads(file.read_text()) if file.is_file() else {}
        with self._apart():
            run = self._start(importlib.import_module(self.name), dict(config), before.get(self.name))
        write_json(file, {self.name: run})

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Log a row; what is no number stays in the files."""
        if os.getpid() != self._process:
            return  # a copy in a process that was forked
        present = filter_excluded_keys(key_values, key_excluded, "csv")
        present = filter_excluded_keys(present, key_excluded, self.name)
        # By its text, as whoever reads the file: a float32 of NumPy's is 5.3457916e-05 in both.
        row = {key: float(str(value)) for key, value in present.items() if _is_number(value)}
        with self._apart():
            self._log(row, step)

    def close(self) -> None:
        """SB3's logger is closed before it is clear how the run ends: see :meth:`finish`."""

    def finish(self, outcome: str) -> None:
        """End the run there as ``"finished"``, ``"interrupted"`` or ``"failed"``. No error: the run itself is done."""
        try:
            with self._apart():
                self._finish(outcome)
        except Exception as error:  # of the package's own kinds
            warnings.warn(f"{self.name} could not be closed ({type(error).__name__}: {error})", stacklevel=2)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Names of runs are drawn from random generators; and what a tracker prints is not the command's output."""
        with preserve_generators(), contextlib.redirect_stdout(sys.stderr):
            yield

    def _start(self, package: Any, config: dict[str, Any], run: str | None) -> str:
        """Begin, or go on with ``run``; the run's name among the tracker's."""
        raise NotImplementedError

    def _log(self, row: dict[str, float], step: int) -> None:
        raise NotImplementedError

    def _finish(self, outcome: str) -> None:
        raise NotImplementedError

    def command(self) -> str:
        """The line that shows the run."""
        raise NotImplementedError


class WeightsAndBiases(Tracker):
    """An offline run is one more folder each time it is resumed; ``wandb sync`` puts them together, by the same id."""

    name = "wandb"

    def _start(self, package: Any, config: dict[str, Any], run: str | None) -> str:
        chosen = os.environ
        self._run = package.init(
            project=None if "WANDB_PROJECT" in chosen else PROJECT,
            name=None if "WANDB_NAME" in chosen else self.folder.name,
            dir=None if "WANDB_DIR" in chosen else str(self.folder),
            mode=None if "WANDB_MODE" in chosen else "offline",
            id=run,
            resume=None if run is None else "allow",
            config=config,
            reinit="create_new",
            settings=package.Settings(console="off"),
        )
        # Its own steps must rise, and rows of one step would become one row there.
        self._run.define_metric("*", step_metric="global_step")
        return str(self._run.id)

    def _log(self, row: dict[str, float], step: int) -> None:
        self._run.log(row | {"global_step": step})

    def _finish(self, outcome: str) -> None:
        self._run.finish(exit_code=int(outcome != "finished"))

    def command(self) -> str:
        return f"wandb sync {Path(self._run.dir).parent}" if self._run.offline else str(self._run.url)


class MLflow(Tracker):
    """Without MLflow's global run, which a user's own code may have begun."""

    name = "mlflow"
    STATUS: ClassVar = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

    def _start(self, package: Any, config: dict[str, Any], run: str | None) -> str:
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder}/mlflow.db"
        self._client = package.MlflowClient(tracking_uri=self.uri)
        self._entities = package.entities
        if run is not None:
            self._client.update_run(run, status="RUNNING")
            self._id = run
            return run
        self._id = str(self._client.create_run(self._experiment(), run_name=self.folder.name).info.run_id)
        params = [self._entities.Param(_mlflow_key(key), str(value)) for key, value in _flat(config).items()]
        for at in range(0, len(params), 100):  # the most that one call takes
            self._client.log_batch(self._id, params=params[at : at + 100])
        return self._id

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        # A local store would put artifacts beside wherever the command is run.
        is_ours = "MLFLOW_TRACKING_URI" not in os.environ
        place = {"artifact_location": (self.folder / "mlartifacts").as_uri()} if is_ours else {}
        return str(self._client.create_experiment(name, **place))

    def _log(self, row: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(_mlflow_key(key), value, now, step) for key, value in row.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def _finish(self, outcome: str) -> None:
        self._client.set_terminated(self._id, self.STATUS[outcome])

    def command(self) -> str:
        return f"mlflow ui --backend-store-uri {self.uri}"


class Trackio(Tracker):
    """Knows runs by their names, and reads where its files are when it is imported."""

    name = "trackio"

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        os.environ.setdefault("TRACKIO_DIR", str(folder.resolve() / "trackio"))
        super().__init__(folder, config)

    def _start(self, package: Any, config: dict[str, Any], run: str | None) -> str:
        self._package = package
        self._run = package.init(
            PROJECT,
            name=run or self.folder.name,
            config=config,
            resume="never" if run is None else "must",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return str(self._run.name)

    def _log(self, row: dict[str, float], step: int) -> None:
        self._run.log(row, step=step)

    def _finish(self, outcome: str) -> None:
        self._package.finish()

    def command(self) -> str:
        return f"TRACKIO_DIR={os.environ['TRACKIO_DIR']} trackio show --project {PROJECT}"


class Aim(Tracker):
    """Samples no machine and no terminal, and writes no variable of the environment down."""

    name = "aim"

    def _start(self, package: Any, config: dict[str, Any], run: str | None) -> str:
        repo = package.Repo.from_path(str(self.folder), init=True)
        quiet: dict[str, Any] = {"system_tracking_interval": None, "capture_terminal_logs": False}
        # The lock of a process that was killed is still there, and the run's folder has a lock of its own.
        again = {} if run is None else {"run_hash": run, "force_resume": True}
        self._run = package.Run(repo=repo, experiment=PROJECT, log_system_params=False, **quiet, **again)
        self._run.name = self.folder.name
        self._run["config"] = config
        return str(self._run.hash)

    def _log(self, row: dict[str, float], step: int) -> None:
        for key, value in row.items():
            self._run.track(value, name=key, step=step)

    def _finish(self, outcome: str) -> None:
        self._run["outcome"] = outcome
        self._run.close()

    def command(self) -> str:
        return f"aim up --repo {self.folder}"


KINDS: dict[str, type[Tracker]] = {kind.name: kind for kind in (WeightsAndBiases, MLflow, Trackio, Aim)}


@contextmanager
def tracking(
    config: RunConfig, rule: UpdateRule, folder: Path, state: RunState, console: Console
) -> Iterator[list[KVWriter]]:
    """The sinks of the run's tracker: none without one. However the run ends, it is ended there, and as what."""
    name = config.track
    if name is None:
        yield []
        return
    try:
        tracker = KINDS[name](folder, tracked_config(config, rule))
    except Exception as error:  # of the package's own kinds
        line = " ".join(str(error).split())
        raise InvalidValueError(f"track {name!r} could not begin ({type(error).__name__}: {line[:300]})") from error
    outcome = "failed"
    try:
        yield [tracker]
        outcome = "finished" if state.is_finished else "interrupted"
    finally:
        command = tracker.command()
        tracker.finish(outcome)
        console.print(f"tracked: {command}", soft_wrap=True, markup=False, highlight=False)


def tracked_config(config: RunConfig, rule: UpdateRule) -> dict[str, Any]:
    """A run's configuration with SB3's defaults and the whole rule, by which runs are compared: plain data."""
    if config.recipe is not None:
        values = RECIPES[config.recipe].hyperparameters
    else:
        arguments = inspect.signature(ALGORITHMS[config.algo].__init__).parameters
        values = {name: argument.default for name, argument in arguments.items() if name not in NOT_IN_YAML}
    both = {"hyperparameters": values | config.hyperparameters, "rule": rule_as_data(rule, complete=True)}
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config) | both, default=str))
    return plain


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parts of parts by names with a dot.

    >>> _flat({"env": "CartPole-v1", "rule": {"reward_scaling": {"ZScore": {}}, "kl_control": ()}})
    {'env': 'CartPole-v1', 'rule.reward_scaling.ZScore': {}, 'rule.kl_control': ()}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        is_deeper = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if is_deeper else {f"{prefix}{key}": value}
    return flat


def _mlflow_key(key: str) -> str:
    """A name with no other characters than MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", key)
