"""``train`` on several processes: what a user types, sees, stops and takes up again."""

import csv
import io
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import gymnasium as gym
import pytest
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.algorithms.processes import digest_of
from sb3_ppo_notes.callbacks import StopWhenAllSucceeded
from sb3_ppo_notes.configs.build import build_model
from sb3_ppo_notes.configs.run_config import RunConfig
from sb3_ppo_notes.envs.sharded_vec_env import shards_of
from sb3_ppo_notes.persistence.storage import checkpoints_in, read_checkpoint
from sb3_ppo_notes.processes import Alone
from sb3_ppo_notes.runs.train import command
from sb3_ppo_notes.runs.train.together import with_shards
from tests.processes.forked import values
from tests.processes.launch import free_port

ROOT = Path(__file__).parents[2]
#: Of torchrun, which a test must not inherit.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SETTINGS = {"n_steps": 64, "batch_size": 64, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}}
RUN = {"env": "CartPole-v1", "normalize": True, "n_envs": 4, "n_eval_episodes": 1, "hyperparameters": SETTINGS}


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def config_file(folder, **changes):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(RUN | {"total_timesteps": 1024, "checkpoint_every": 256} | changes))
    return str(path)


def weights_of(folder):
    return digest_of(NotesPPO.load(folder / "model", device="cpu").policy)


def assert_same_end(one, other):
    assert weights_of(one) == weights_of(other)
    for name in ("normalizer.json", "evaluations.csv"):
        assert (one / name).read_text() == (other / name).read_text(), name
    rows = [_rows(each) for each in (one, other)]
    assert rows[0] == rows[1]


def _rows(folder):
    """Everything that is logged, but for the clock and the number of processes."""
    left_out = ("time/fps", "time/time_elapsed", "notes/processes")
    with (folder / "progress.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in left_out} for row in csv.DictReader(file)]


# -- on one process ----------------------------------------------------------------------------------------------------


def environments_of(group):
    config = with_shards(RunConfig(name="x", n_envs=8, shards=4, seed=5), group)
    model = build_model(config, group)
    model.env.reset()
    model.env.seed(5 + 2 * model._shards.own.start)
    return model.env.reset().tolist(), len(shards_of(model.env)), model.n_envs


def test_each_process_builds_its_share_of_the_environments():
    (everything, n_shards, n_envs), *_ = values(environments_of, 1)
    assert (n_shards, n_envs) == (4, 8)
    first, second = values(environments_of, 2)
    assert (first[1:], second[1:]) == ((2, 4), (2, 4))
    assert first[0] + second[0] == everything


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--shards", "3"],
            "n_envs must be a multiple of the number of shards, which is 3 (one a process unless --shards or",
        ),
        (["--shards", "0"], "shards must be"),
        (["--shards", "4", "--n-envs", "12"], None),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_is_written(options, line, tmp_path, capsys):
    outdir = tmp_path / "run"
    code = main(["train", "--config", config_file(tmp_path), "--outdir", str(outdir), *options])
    if line is None:
        assert code == 0
        assert yaml.safe_load((outdir / "config.yaml").read_text())["shards"] == 4
        return
    assert code == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")
    assert not outdir.exists()


def test_a_minibatch_that_cannot_be_divided_is_refused(tmp_path, capsys):
    file = config_file(tmp_path, hyperparameters=SETTINGS | {"batch_size": 63})
    assert main(["train", "--config", file, "--outdir", str(tmp_path / "run"), "--shards", "2"]) == 2
    assert "batch_size must be a multiple of the number of shards, which is 2 (one a process" in capsys.readouterr().err


def test_a_run_without_shards_says_nothing_of_them(tmp_path):
    assert main(["train", "--config", config_file(tmp_path), "--outdir", str(tmp_path / "run")]) == 0
    assert "shards" not in yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())


class StopAt(BaseCallback):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def _on_step(self):
        if self.num_timesteps == self.at:
            signal.raise_signal(signal.SIGTERM)
        return True


def test_resume_or_begin_begins_goes_on_and_is_done(tmp_path, capsys, monkeypatch):
    file = config_file(tmp_path)
    assert main(["train", "--config", file, "--outdir", str(tmp_path / "straight"), "--shards", "2"]) == 0
    words = ["train", "--config", file, "--shards", "2", "--resume-or-begin", str(tmp_path / "run")]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)  # left by a process that died before its first
    (tmp_path / "run" / "config.yaml").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(command, "_optional_callbacks", lambda *_: [StopAt(600)])
        assert main(words) == 143
    assert read_checkpoint(tmp_path / "run" / "checkpoints").document["num_timesteps"] == 768
    assert main(words) == 0
    assert "exact: everything" in capsys.readouterr().out
    assert_same_end(tmp_path / "run", tmp_path / "straight")
    assert main(words) == 0
    assert "note: resume must be a run that is not finished" in capsys.readouterr().out


def test_resume_or_begin_takes_no_other_folder(tmp_path, capsys):
    assert main(["train", "--resume-or-begin", str(tmp_path), "--outdir", str(tmp_path / "x")]) == 2
    assert "resume_or_begin must be given without resume and outdir" in capsys.readouterr().err
    (tmp_path / "somebody's").touch()
    assert main(["train", "--resume-or-begin", str(tmp_path)]) == 2
    assert "outdir must be a new or an empty folder" in capsys.readouterr().err


def test_a_recipe_wraps_the_environments_of_each_shard():
    config = RunConfig(name="x", env="Pendulum-v1", recipe="batch_ppo", n_envs=4, shards=2)
    model = build_model(config, Alone())
    assert [type(shard).__name__ for shard in shards_of(model.env)] == ["StreamingNormalize"] * 2
    alone = build_model(RunConfig(name="x", env="Pendulum-v1", recipe="batch_ppo", n_envs=4))
    assert (model.batch_size, alone.batch_size) == (132, 133)


def trained(group, file, folder, stopped):
    """The command in one of several processes, of which one hears a signal."""
    command.joined_group = lambda: nullcontext(group)
    command._optional_callbacks = lambda *_: [StopAt(600)] if group.rank == stopped else []
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = main(["train", "--config", file, "--shards", "2", "--outdir", str(folder)])
    return code, printed.getvalue()


def test_a_signal_that_one_process_hears_ends_all_with_its_code(tmp_path):
    file = config_file(tmp_path)
    first, second = values(trained, 2, file, tmp_path / "run", 1)
    assert (first[0], second) == (143, (143, ""))
    assert f"interrupted after 768 steps, go on with: train --resume {tmp_path / 'run'}" in first[1]
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    ((code, _),) = values(trained, 1, file, tmp_path / "straight", None)
    assert code == 0
    assert_same_end(tmp_path / "run", tmp_path / "straight")


class Succeeds(gym.Wrapper):
    """Short episodes, successful from one of them on."""

    def __init__(self, env, first):
        super().__init__(env)
        self.first, self.episodes = first, 0

    def step(self, action):
        observation, reward, _, _, info = self.env.step(action)
        self.episodes += 1
        return observation, reward, True, False, info | {"is_success": self.episodes >= self.first}


def until_all_succeed(group):
    first = 10 if group.rank == 0 else 200
    env = make_vec_env("CartPole-v1", 2, wrapper_class=lambda env: Succeeds(env, first))
    model = NotesPPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu", processes=group)
    return model.learn(10_000, StopWhenAllSucceeded(verbose=1)).num_timesteps


def test_all_have_succeeded_where_those_of_all_processes_have():
    # After 200 steps of each, and then at the end of that rollout: the next one is left after its 64 steps.
    assert values(until_all_succeed, 2) == [5 * 64 * 4] * 2


# -- under torchrun ----------------------------------------------------------------------------------------------------


def torchrun(words, size=2, *options, **kwargs):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), *options]
    launch += ["--master-port", str(free_port()), "-m", "sb3_ppo_notes", "train", *words]
    return subprocess.Popen(
        launch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )


def ended(process, seconds=200):
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


def children_of(process):
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process.pid and fields[0] != "Z":
            children.append(int(path.parent.name))
    return sorted(children)


def wait_for_checkpoint(folder, process, number=1):
    end = time.monotonic() + 150
    while len(checkpoints_in(folder / "checkpoints")) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves_and_one_of_them_speaks(tmp_path):
    file = config_file(tmp_path, eval_every=300, video_every=None)
    words = ["--config", file, "--shards", "2", "--outdir"]
    code, out, err = ended(torchrun([*words, str(tmp_path / "two")]))
    assert code == 0, err
    assert [out.count(each) for each in ("weights", "after 1,024 steps: return", "written: ")] == [1, 1, 1]
    assert main(["train", *words, str(tmp_path / "one")]) == 0
    assert_same_end(tmp_path / "two", tmp_path / "one")
    assert len(list((tmp_path / "two").glob("events.*"))) == 1
    assert "notes/processes" in (tmp_path / "two" / "progress.csv").read_text()


LONG = {"total_timesteps": 16_384, "checkpoint_every": 512}


@pytest.mark.slow
def test_sigterm_of_torchrun_is_a_checkpoint_of_all(tmp_path):
    file = config_file(tmp_path, **LONG)
    folder = tmp_path / "run"
    process = torchrun(["--config", file, "--shards", "2", "--outdir", str(folder)])
    wait_for_checkpoint(folder, process)
    ranks = children_of(process)
    process.send_signal(signal.SIGTERM)
    code, out, err = ended(process)
    assert code == 1  # torchrun's own
    stored = read_checkpoint(folder / "checkpoints")
    assert f"interrupted after {stored.document['num_timesteps']:,} steps, go on with: train --resume" in out, err
    assert out.count("interrupted after") == 1
    assert len(ranks) == 2
    assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]
    assert stored.document["num_timesteps"] < 16_384
    assert main(["train", "--resume", str(folder)]) == 0
    assert main(["train", "--config", file, "--shards", "2", "--outdir", str(tmp_path / "straight")]) == 0
    assert_same_end(folder, tmp_path / "straight")


@pytest.mark.slow
def test_a_killed_rank_costs_the_time_since_the_last_checkpoint(tmp_path):
    file = config_file(tmp_path, **LONG)
    folder = tmp_path / "run"
    words = ["--config", file, "--shards", "2", "--resume-or-begin", str(folder)]
    process = torchrun(words, 2, "--max-restarts", "2")
    wait_for_checkpoint(folder, process, 2)
    os.kill(children_of(process)[1], signal.SIGKILL)
    code, out, err = ended(process, 300)
    assert code == 0, err
    assert out.count("exact: everything") == 1
    assert main(["train", "--config", file, "--shards", "2", "--outdir", str(tmp_path / "straight")]) == 0
    assert_same_end(folder, tmp_path / "straight")


@pytest.mark.slow
def test_a_run_of_one_process_is_not_resumed_under_torchrun(tmp_path):
    folder = tmp_path / "run"
    assert main(["train", "--config", config_file(tmp_path), "--outdir", str(folder)]) == 0
    code, _, err = ended(torchrun(["--resume", str(folder), "--total-timesteps", "2048"]))
    assert code == 1
    line = "error: resume must be a run of several shards under torchrun, got config, which was begun in one process"
    assert err.count(line) == 1, err


@pytest.mark.slow
def test_without_torchrun_nothing_of_several_processes_is_imported(tmp_path):
    code = (
        "import sys; from sb3_ppo_notes.__main__ import main\n"
        f"assert main(['train', '--config', {config_file(tmp_path)!r}, '--outdir', {str(tmp_path / 'run')!r}]) == 0\n"
        "ours = [name for name in sys.modules if name.startswith('sb3_ppo_notes.processes.')]\n"
        "print(ours); import torch; print(torch.distributed.is_initialized())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=200
    ).stdout.splitlines()
    assert not {"sb3_ppo_notes.processes.distributed", "sb3_ppo_notes.processes.shared_memory"} & set(eval(out[-2]))
    assert out[-1] == "False"


def test_only_the_groups_themselves_import_torch_distributed():
    files = [path for path in (ROOT / "sb3_ppo_notes").rglob("*.py") if "import torch.distributed" in path.read_text()]
    files += [path for path in (ROOT / "sb3_ppo_notes").rglob("*.py") if "from torch.distributed" in path.read_text()]
    assert {path.relative_to(ROOT / "sb3_ppo_notes").parts[0] for path in files} <= {"processes", "docs"}
