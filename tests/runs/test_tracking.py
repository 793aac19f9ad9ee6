"""``train --track``: the log once more in an experiment tracker, offline, ended as the run ended, and nothing learned otherwise."""

import csv
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3.common.logger import Logger

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.configs.run_config import TRACKERS, RunConfig
from sb3_ppo_notes.rules import GAE, UpdateRule
from sb3_ppo_notes.runs.train import tracking
from sb3_ppo_notes.runs.train.log import RunState

ROOT = Path(__file__).parents[2]
CONFIG = """
env: {env}
n_envs: 2
total_timesteps: {steps}
n_eval_episodes: 1
checkpoint_every: 32
hyperparameters: {{n_steps: 16, batch_size: 16, n_epochs: 2, learning_rate: lin_1e-2, policy_kwargs: {{net_arch: [8]}}}}
"""
VARIABLES = ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_NAME", "TRACKIO_DIR")
VARIABLES += ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")


class Fake(ModuleType):
    """All four packages at once, as far as they are used; whatever is called is kept, and draws random numbers."""

    def __init__(self, name, error=None):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.calls, self.rows, self.error = [], [], error
        self.entities = SimpleNamespace(Metric=lambda *metric: metric, Param=lambda *param: param)
        self.Repo = SimpleNamespace(from_path=lambda path, init: ("repo", path))

    def _call(self, name, /, *args, **kwargs):
        self.calls.append((name, args, kwargs))
        print(name)
        random.random(), np.random.rand(), th.rand(1)
        if self.error == name:
            raise RuntimeError("the server is down")

    def of(self, name):
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name]

    # -- wandb
    def init(self, *args, **kwargs):
        self._call("init", *args, **kwargs)
        run = SimpleNamespace(id="an-id", name=kwargs["name"], dir="RUN/wandb/offline-run-1/files", offline=True)
        run.log = lambda row, step=None: self._row(row, row.get("global_step", step))
        run.define_metric = lambda *args, **kwargs: None
        run.finish = lambda exit_code: self._call("end", "finished" if exit_code == 0 else "failed or interrupted")
        return run

    def _row(self, row, step):
        self._call("log")
        self.rows.append((step, {key: value for key, value in row.items() if key != "global_step"}))

    def Settings(self, **settings):
        return settings

    # -- trackio
    def finish(self):
        self._call("end", "finished, failed or interrupted")

    # -- mlflow
    def MlflowClient(self, tracking_uri):
        self._call("client", tracking_uri)
        return SimpleNamespace(
            get_experiment_by_name=lambda name: None,
            create_experiment=lambda name, **place: self._call("experiment", name, **place) or "1",
            create_run=lambda experiment, run_name: SimpleNamespace(info=SimpleNamespace(run_id="an-id")),
            update_run=lambda run, status: self._call("update", run, status),
            log_batch=self._log_batch,
            set_terminated=lambda run, status: self._call("end", status.lower().replace("killed", "interrupted")),
        )

    def _log_batch(self, run, metrics=(), params=()):
        self._call("params", dict(params)) if params else self._row({m[0]: m[1] for m in metrics}, metrics[0][3])

    # -- aim
    def Run(self, **kwargs):
        self._call("run", **kwargs)
        return _AimRun(self)


class _AimRun(dict):
    hash = "an-id"

    def __init__(self, fake):
        super().__init__()
        self.fake = fake

    def track(self, value, name, step):
        self.fake.rows.append((step, {name: value}))

    def close(self):
        self.fake._call("params", self["config"])
        self.fake._call("end", self["outcome"])


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a tracker sets is taken back
        monkeypatch.delenv(name)


@pytest.fixture
def fake(monkeypatch):
    def install(name, error=None):
        module = Fake(name, error)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install


def train(folder, *options, env="CartPole-v1", steps=64, code=0):
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".yaml")
    file.write_text(CONFIG.format(env=env, steps=steps))
    assert main(["train", "--config", str(file), "--outdir", str(folder), *options]) == code
    return folder


def rows_of(folder):
    """Of ``progress.csv``: as numbers, without empty fields."""
    with (folder / "progress.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def as_text(entry):
    return json.dumps(entry, sort_keys=True)


def weights(folder):
    return NotesPPO.load(folder / "model.zip", device="cpu").policy.state_dict()


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert all(th.equal(first[name], second[name]) for name in first)


def test_each_name_has_its_writer():
    assert tuple(tracking.KINDS) == TRACKERS


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_gets_every_number_of_the_csv_and_changes_nothing(name, fake, tmp_path, capsys):
    plain = train(tmp_path / "plain")
    capsys.readouterr()
    package = fake(name)
    folder = train(tmp_path / "tracked", "--track", name)
    assert_same_weights(folder, plain)
    rows = rows_of(folder)
    assert len(rows) == 4  # two rollouts, the last update, the last evaluation
    expected = [(int(row["time/total_timesteps"]), row) for row in rows]
    if name == "aim":  # one number a call
        expected = [(step, {key: value}) for step, row in expected for key, value in row.items()]
    assert sorted(map(as_text, package.rows)) == sorted(map(as_text, expected))
    [((end,), _)] = package.of("end")
    assert "finished" in end
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("tracked: ")  # and nothing that the package itself prints
    assert "init" not in printed


@pytest.mark.parametrize("name", TRACKERS)
def test_the_rule_is_there_as_plain_data(name, fake, tmp_path):
    package = fake(name)
    train(tmp_path / "run", "--track", name)
    config = package.of("params")[0][0][0] if name in ("mlflow", "aim") else package.of("init")[0][1]["config"]
    if name == "mlflow":
        assert config["rule.policy_objective.ClippedSurrogate.clip_range"] == "0.2"
        assert config["hyperparameters.n_steps"] == "16"
        assert config["hyperparameters.gamma"] == "0.99"  # SB3's default
        return
    assert json.loads(json.dumps(config)) == config
    assert config["rule"]["policy_objective"] == {"ClippedSurrogate": {"clip_range": 0.2}}
    assert config["rule"]["advantage_estimator"] == {"GAE": {"gae_lambda": 0.95}}
    assert config["hyperparameters"]["learning_rate"] == "lin_1e-2"
    assert config["env"] == "CartPole-v1"


def test_a_recipes_values_stand_in_the_place_of_sb3s():
    config = tracking.tracked_config(RunConfig(name="a", recipe="skrl"), UpdateRule())
    assert config["hyperparameters"]["n_steps"] != 2048
    assert "clip_range" not in config["hyperparameters"]
    rule = UpdateRule(advantage_estimator=GAE(0.5))
    assert tracking.tracked_config(RunConfig(name="a"), rule)["rule"]["advantage_estimator"] == {
        "GAE": {"gae_lambda": 0.5}
    }


def test_the_environment_says_where_to(fake, tmp_path, monkeypatch):
    package = fake("wandb")
    train(tmp_path / "here", "--track", "wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    train(tmp_path / "there", "--track", "wandb")
    here, there = (kwargs for _, kwargs in package.of("init"))
    assert (here["mode"], here["project"], here["dir"]) == ("offline", "sb3_ppo_notes", str(tmp_path / "here"))
    assert (there["mode"], there["project"], there["dir"]) == (None, None, str(tmp_path / "there"))
    package = fake("mlflow")
    train(tmp_path / "local", "--track", "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://theirs")
    train(tmp_path / "remote", "--track", "mlflow")
    assert [uri for (uri,), _ in package.of("client")] == [f"sqlite:///{tmp_path}/local/mlflow.db", "http://theirs"]
    assert [place for _, place in package.of("experiment")][1] == {}


class Breaks(gym.Env):
    """An environment that raises after a while."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    count = 0

    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        Breaks.count += 1
        if Breaks.count > 50:
            raise RuntimeError("the cable was pulled")
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.fixture
def breaking():
    gym.register("Tests/Breaks-v0", Breaks)
    Breaks.count = 0
    yield "Tests/Breaks-v0"
    del gym.registry["Tests/Breaks-v0"]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_that_raises_is_ended_as_failed(name, fake, tmp_path, breaking):
    package = fake(name)
    train(tmp_path / "run", "--track", name, env=breaking, code=2)
    [((end,), _)] = package.of("end")
    assert "failed" in end
    assert [step for step, _ in package.rows]  # what came before is there


@pytest.mark.parametrize("name", ["mlflow", "aim"])
def test_a_run_that_is_stopped_is_ended_as_interrupted_and_goes_on_under_its_name(name, fake, tmp_path, monkeypatch):
    straight = train(tmp_path / "straight")
    package = fake(name)
    begin = RunState._on_rollout_start

    def stop_in_the_second_rollout(self):
        begin(self)
        if self.num_timesteps == 32:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunState, "_on_rollout_start", stop_in_the_second_rollout)
    folder = train(tmp_path / "run", "--track", name, code=143)
    assert [end for (end,), _ in package.of("end")] == ["interrupted"]
    monkeypatch.setattr(RunState, "_on_rollout_start", begin)
    n_params = len(package.of("params"))
    assert main(["train", "--resume", str(folder)]) == 0
    assert [end for (end,), _ in package.of("end")] == ["interrupted", "finished"]
    assert_same_weights(folder, straight)
    if name == "mlflow":
        assert [args for args, _ in package.of("update")] == [("an-id", "RUNNING")]
        assert len(package.of("params")) == n_params  # MLflow refuses a parameter that has another value by now
    else:
        assert [kwargs.get("run_hash") for _, kwargs in package.of("run")] == [None, "an-id"]


def test_a_missing_package_is_one_line_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "aim", None)
    train(tmp_path / "run", "--track", "aim", code=2)
    assert capsys.readouterr().err == "error: track 'aim' needs a package that is not installed: pip install aim\n"
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_cannot_begin_is_one_line_and_leaves_nothing_behind(fake, tmp_path, capsys):
    fake("wandb", error="init")
    train(tmp_path / "run", "--track", "wandb", code=2)
    line = "error: track 'wandb' could not begin (RuntimeError: the server is down)"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", ["log", "end"])
def test_a_tracker_that_fails_later_is_a_warning_and_the_run_goes_on(error, fake, tmp_path):
    plain = train(tmp_path / "plain")
    fake("mlflow", error=error)
    with pytest.warns(UserWarning, match="the server is down"):
        train(tmp_path / "run", "--track", "mlflow")
    assert_same_weights(tmp_path / "run", plain)
    assert len(rows_of(tmp_path / "run")) == len(rows_of(plain))


def test_what_is_kept_out_of_the_csv_or_this_tracker_is_not_logged(fake, tmp_path):
    package = fake("wandb")
    tracker = tracking.WeightsAndBiases(tmp_path, {})
    logger = Logger(None, [tracker])
    for name, value, excluded in [
        ("number", np.float64(1.5), None),
        ("text", "words", None),
        ("curve", th.zeros(2), ("csv",)),
        ("elsewhere", 2.0, ("csv", "stdout")),
        ("not here", 3.0, "wandb"),
    ]:
        logger.record(name, value, exclude=excluded)
    logger.dump(7)
    assert package.rows == [(7, {"number": 1.5})]


def test_a_forked_process_logs_nothing(fake, tmp_path, monkeypatch):
    package = fake("wandb")
    tracker = tracking.WeightsAndBiases(tmp_path, {})
    monkeypatch.setattr(os, "getpid", lambda: -1)
    tracker.write({"number": 1.0}, {"number": ()}, 1)
    assert package.rows == []


def test_names_that_mlflow_refuses_are_written_with_other_signs(fake, tmp_path):
    package = fake("mlflow")
    tracking.MLflow(tmp_path, {}).write({"train/loss (%)": 1.0}, {"train/loss (%)": ()}, 1)
    assert package.rows == [(1, {"train/loss ___": 1.0})]


# -- the packages themselves, each in a process of its own ------------------------------------------------------------

#: A program that prints what a tracker has stored: rows by step and name, the configuration, and how it ended.
READERS = {
    "wandb": """
import glob, json, struct, sys
from wandb.proto import wandb_internal_pb2 as pb
rows, ends, config = [], [], {}

def records(data, at=7, whole=b""):  # LevelDB's log
    while at + 7 <= len(data):
        at += 32768 - at % 32768 if 32768 - at % 32768 < 7 else 0
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the only part of a record, or its last one
            yield whole
            whole = b""

for path in sorted(glob.glob(sys.argv[1] + "/wandb/offline-run-*/*.wandb")):
    for data in records(open(path, "rb").read()):
        record = pb.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            rows += [[row["global_step"], k, v] for k, v in row.items() if k[0] != "_" and k != "global_step"]
        if record.HasField("run"):
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("exit"):
            ends.append(record.exit.exit_code)
""",
    "mlflow": """
import sys
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}/mlflow.db")
[run] = client.search_runs([client.get_experiment_by_name("sb3_ppo_notes").experiment_id])
rows = [[m.step, m.key, m.value] for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)]
ends, config = [run.info.status], {"rule": run.data.params["rule.policy_objective.ClippedSurrogate.clip_range"]}
""",
    "trackio": """
import os, sys
os.environ["TRACKIO_DIR"] = sys.argv[1] + "/trackio"
from trackio.sqlite_storage import SQLiteStorage
logs = SQLiteStorage.get_logs("sb3_ppo_notes", "run")
rows = [[log["step"], k, v] for log in logs for k, v in log.items() if k not in ("step", "timestamp")]
ends, config = [], SQLiteStorage.get_run_config("sb3_ppo_notes", "run")
""",
    "aim": """
import sys
from aim import Repo
from aim.sdk.index_manager import RepoIndexManager
repo = Repo.from_path(sys.argv[1])
RepoIndexManager.get_index_manager(repo).index(*repo.list_all_runs())  # as aim up does
repo.container_pool.clear()
[run] = repo.iter_runs()
rows = [
    [step, metric.name, value]
    for metric in run.metrics()
    for step, value in zip(metric.data.indices_list(), metric.data.view("val").values_list()[0])
]
ends, config = [run["outcome"], run.active], run["config"]
""",
}
ENDS = {
    "wandb": {"finished": [0], "interrupted": [1]},
    "mlflow": {"finished": ["FINISHED"], "interrupted": ["KILLED"]},
    "trackio": {"finished": [], "interrupted": []},
    "aim": {"finished": ["finished", False], "interrupted": ["interrupted", False]},
}


def python(*arguments, **options):
    keep = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    environment = keep | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, *arguments], env=environment, text=True, **options)


def stored(name, folder):
    program = READERS[name] + "\nimport json; print(json.dumps([rows, ends, config]))"
    reader = python("-c", program, str(folder), stdout=subprocess.PIPE)
    out, _ = reader.communicate(timeout=300)
    assert reader.returncode == 0
    rows, ends, config = json.loads(out.splitlines()[-1])
    return sorted(rows), ends, config


def numbers_of(folder, name=None):
    numbers = [(int(row["time/total_timesteps"]), key, value) for row in rows_of(folder) for key, value in row.items()]
    if name == "aim":  # has one number a step, the last one
        numbers = [(*at, value) for at, value in {(step, key): value for step, key, value in numbers}.items()]
    return sorted(map(list, numbers))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
def test_the_package_itself_has_the_numbers_of_the_csv(name, tmp_path):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    plain = train(tmp_path / "plain")
    file = tmp_path / "plain.yaml"
    command = [
        "-m",
        "sb3_ppo_notes",
        "train",
        "--config",
        str(file),
        "--outdir",
        str(tmp_path / "run"),
        "--track",
        name,
    ]
    assert python(*command, stdout=subprocess.DEVNULL).wait(300) == 0
    assert_same_weights(tmp_path / "run", plain)
    rows, ends, config = stored(name, tmp_path / "run")
    assert rows == numbers_of(tmp_path / "run", name)
    assert ends == ENDS[name]["finished"]
    assert "clip_range" in json.dumps(config["rule"]) or config["rule"] == "0.2"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
def test_the_package_itself_is_closed_after_sigterm_and_goes_on(name, tmp_path):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    folder = tmp_path / "run"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(yaml.safe_load(CONFIG.format(env="CartPole-v1", steps=10**6))))
    run = python(
        "-m", "sb3_ppo_notes", "train", "--config", str(tmp_path / "run.yaml"), "--outdir", str(folder), "--track", name
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not ((folder / "progress.csv").is_file() and len(rows_of(folder)) > 3):
        time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 143
    rows, ends, _ = stored(name, folder)
    assert rows == numbers_of(folder, name)
    assert ends == ENDS[name]["interrupted"]
    n_before, cut_at = len(rows), rows[-1][0]
    resumed = python("-m", "sb3_ppo_notes", "train", "--resume", str(folder))
    while time.monotonic() < deadline and len(numbers_of(folder)) < n_before + 100:
        time.sleep(0.2)
    resumed.send_signal(signal.SIGTERM)
    assert resumed.wait(120) == 143
    rows, _, _ = stored(name, folder)
    missing = {tuple(row) for row in numbers_of(folder, name)} - {tuple(row) for row in rows}
    # A run that is cut logs its last update at once, and Aim has one number a step.
    assert {step for step, _, _ in missing} <= ({cut_at} if name == "aim" else set())
