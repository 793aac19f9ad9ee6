"""The command line: what it prints, what it writes, how it fails."""

import csv
import json
import os
import signal

import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.runs.charts import episodes_of
from sb3_ppo_notes.runs.compare import command, parity
from sb3_ppo_notes.runs.compare.arms import NAMED

FAST = ["--total-timesteps", "600", "--seeds", "2", "--n-envs", "2", "--n-eval-episodes", "2"]


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_compare_shows_equality_and_writes_its_files(algo, tmp_path, capsys):
    outdir = tmp_path / "out"
    assert main(["compare", "--algo", algo, *FAST, "--outdir", str(outdir)]) == 0
    printed = capsys.readouterr().out
    assert "parameters equal on every seed: yes" in printed
    assert all(len(line) <= 80 for line in printed.splitlines() if "written" not in line)
    document = json.loads((outdir / "comparison.json").read_text())
    assert [result["seed"] for result in document["results"]] == [0, 1]
    for result in document["results"]:
        assert result["parameters_equal"] is True
        assert result["stock_return"] == result["notes_return"]
        assert result["ratio"] == pytest.approx(result["notes_steps_per_second"] / result["stock_steps_per_second"])
    assert document["options"]["algo"] == algo
    assert (outdir / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((outdir / "learning_curves.csv").read_text().splitlines()))
    by_arm = {
        arm: [(row["seed"], row["timesteps"], row["episode_return"]) for row in rows if row["arm"] == arm]
        for arm in ("stock", "notes")
    }
    assert sorted(by_arm["stock"]) == sorted(by_arm["notes"]) != []


class Broken(NotesPPO):
    def train(self):
        super().train()
        self.policy.value_net.bias.data += 1e-7


def test_broken_parity_is_reported_and_exits_with_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(NAMED, "notes-ppo", f"{__name__}:Broken")
    assert main(["compare", *FAST, "--outdir", str(tmp_path)]) == 1
    assert "parameters equal on every seed: NO" in capsys.readouterr().out


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_write_nothing_and_say_so(end, code, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parity, "train", lambda *_, **__: os.kill(os.getpid(), end))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["compare", *FAST, "--outdir", str(tmp_path / "out")]) == code
    assert capsys.readouterr().err == "interrupted: nothing of it is kept\n"
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_before_the_first_run_is_no_traceback(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "make_plan", lambda **_: os.kill(os.getpid(), signal.SIGINT))
    assert main(["compare", "--arms", "sb3,notes", "--outdir", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "interrupted: nothing of it is kept\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--env", "CartPoel-v1"], "error: env must be the id of a registered environment, got 'CartPoel-v1'"),
        (["--seeds", "0"], "error: seeds must be an int >= 1, got 0"),
        (["--total-timesteps", "-5"], "error: total_timesteps must be an int >= 1, got -5"),
        (["--n-envs", "0"], "error: n_envs must be an int >= 1, got 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, line, tmp_path, capsys):
    assert main(["compare", *arguments, "--outdir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_outdir_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("keep me")
    assert main(["compare", "--outdir", str(tmp_path / "file")]) == 2
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.parametrize("arguments", [["compare", "--algo", "dqn"], ["compare", "--bogus", "1"], ["nonsense"]])
def test_unknown_words_exit_with_2(arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


def test_episodes_are_in_the_order_of_time():
    env = make_vec_env("CartPole-v1", n_envs=2, seed=0)
    NotesPPO("MlpPolicy", env, n_steps=128, seed=0, device="cpu").learn(256)
    timesteps, returns = episodes_of(env)
    assert (timesteps[1:] >= timesteps[:-1]).all()
    assert len(timesteps) == len(returns) > 3
    assert timesteps[-1] <= 256
