"""The fault matrix: each test injects a fault for real. Rows are those of ``fault_matrix.py``."""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.files import write_text
from sb3_ppo_notes.kernels import lstm
from sb3_ppo_notes.persistence import (
    CheckpointCorruptError,
    CheckpointVersionError,
    ExactCheckpoint,
    load_checkpoint,
    save_checkpoint,
)
from sb3_ppo_notes.persistence.storage import _digest_of_fields, checkpoints_in, read_checkpoint
from tests.persistence.cases import NET, SMALL, TOTAL, assert_equal, cart_poles, resumed, run_to
from tests.persistence.trainer import EVERY, digest, forked, new_model, train

FILES = ["state.json", "arrays.safetensors", "manifest.json"]


def model_of(**settings):
    return NotesPPO("MlpPolicy", cart_poles(), **SMALL | NET | settings)


@contextlib.contextmanager
def full_disk(size):
    """No file of this process may become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_row_21_an_attribute_that_cannot_be_pickled_leaves_the_old_file(tmp_path):
    model = model_of()
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    model.guard = threading.Lock()
    with pytest.raises(TypeError, match=r"^guard must be something that can be pickled .* exclude=\['guard'\]"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert os.listdir(tmp_path) == ["model.zip"]
    model.save(tmp_path / "model", exclude=["guard"])
    NotesPPO.load(tmp_path / "model")


def test_row_21_a_checkpoint_names_the_attribute_that_it_cannot_hold(tmp_path):
    model = model_of()
    model.guard = threading.Lock()
    save_checkpoint(model, tmp_path)
    assert any(
        "model['guard']: _thread.lock" in line
        for line in load_checkpoint(tmp_path, cart_poles()).resume_report.not_exact
    )


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpPolicy"])
def test_who_ran_an_lstm_is_part_of_what_is_exact(policy, tmp_path, monkeypatch):
    kwargs = dict(lstm_hidden_size=64) if policy == "MlpLstmPolicy" else {}
    save_checkpoint(NotesPPO(policy, cart_poles(), **SMALL, policy_kwargs=kwargs), tmp_path)
    here = lstm.in_use()
    assert not any("LSTM" in line for line in load_checkpoint(tmp_path, cart_poles()).resume_report.not_exact)
    monkeypatch.setattr(lstm, "in_use", lambda: "another machine's")
    lines = [line for line in load_checkpoint(tmp_path, cart_poles()).resume_report.not_exact if "LSTM" in line]
    assert lines == ([f"LSTM by: {here} then, another machine's now"] if policy == "MlpLstmPolicy" else [])


def test_row_22_a_full_disk_leaves_the_old_model_file(tmp_path):
    model = model_of()
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    with full_disk(4096), pytest.raises(OSError, match="File too large"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert os.listdir(tmp_path) == ["model.zip"]


def test_row_22_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    model = model_of()
    first = save_checkpoint(model, tmp_path)
    with full_disk(4096), pytest.raises(OSError, match="File too large"):
        save_checkpoint(model, tmp_path)
    assert checkpoints_in(tmp_path) == [first]
    assert not list(tmp_path.glob(".tmp-*"))
    read_checkpoint(tmp_path)


class FillDisk(BaseCallback):
    def _on_training_start(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def _on_step(self):
        if self.num_timesteps == 100:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, self.before[1]))
        if self.num_timesteps == 200:
            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        return True


def test_row_22_training_goes_on_with_a_warning_and_the_last_checkpoint(tmp_path):
    model, keeping = model_of(), ExactCheckpoint(50, keep=9, path=tmp_path)
    with pytest.warns(UserWarning, match="was not written .* the last checkpoint is .*step-50") as warned:
        model.learn(TOTAL, [FillDisk(), keeping])
    steps = [int(path.name.rsplit("-", 1)[1]) for path in checkpoints_in(tmp_path)]
    assert steps == [50, 200, 250, 300, 320]
    assert keeping.failures == len(warned) == 2
    assert not list(tmp_path.glob(".tmp-*"))
    assert_equal(model, model_of().learn(TOTAL))


def test_row_22_any_other_file_is_whole_or_as_before(tmp_path):
    write_text(tmp_path / "file", "old")
    with full_disk(4096), pytest.raises(OSError, match="File too large"):
        write_text(tmp_path / "file", "x" * 10_000)
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.slow
def test_row_23_sixty_kills_over_training_and_saving(tmp_path):
    """SIGKILL at random moments: every file that was there is whole, and the runs end as one that was never killed."""
    command = [sys.executable, "-m", "tests.persistence.trainer", str(tmp_path), "60", "20261121"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    print(found)
    assert found["kills"] >= 60
    assert found["while_writing"] >= 5
    assert found["checkpoints_checked"] >= 40
    assert found["models_checked"] >= 40
    assert found["runs"] >= 1
    assert [found[name] for name in ("damaged", "wrong_results", "steps_lost", "bytes_lost")] == [0, 0, 0, 0]


def test_row_23_what_a_killed_process_left_behind_is_removed(tmp_path):
    model = model_of()
    save_checkpoint(model, tmp_path)
    child = forked(lambda: 0)
    os.waitpid(child, 0)
    (tmp_path / f".tmp-{child}-abcd").mkdir()
    (tmp_path / f".tmp-{child}-abcd" / "state.json").write_text("{")
    (tmp_path / f".model.zip.tmp-{child}-abcd").write_text("half")
    mine = tmp_path / f".model.zip.tmp-{os.getpid()}-abcd"
    mine.write_text("another thread is writing")
    model.save(tmp_path / "model.zip")
    save_checkpoint(model, tmp_path)
    assert [path.name for path in tmp_path.glob(".*tmp-*")] == [mine.name]


def damage(path, how):
    content = path.read_bytes()
    if isinstance(how, float):
        path.write_bytes(content[: int(len(content) * how)])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    else:
        position = int(len(content) * int(how.split()[1]) / 100)
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    model_of().learn(TOTAL, ExactCheckpoint(200, path=folder))
    return folder


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", [0.25, 0.5, 0.75, "flip 25", "flip 50", "flip 75", "empty", "missing"])
def test_row_24_a_damaged_checkpoint_is_skipped_for_the_one_before(file, how, two_checkpoints, tmp_path):
    import shutil

    folder = shutil.copytree(two_checkpoints, tmp_path / "copy")
    older, newer = checkpoints_in(folder)
    damage(newer / file, how)
    with pytest.warns(UserWarning, match=f"^a newer checkpoint was skipped: {newer.name}/{file} "):
        model = load_checkpoint(folder, cart_poles(), device="cpu")
    assert model.resume_report.path == older
    assert newer.name in model.resume_report.skipped[0]
    assert f"skipped: {newer.name}" in str(model.resume_report)
    damage(older / file, how)
    with pytest.raises(CheckpointCorruptError, match=f"no checkpoint that is whole: {newer.name}.*{older.name}"):
        load_checkpoint(folder, cart_poles())
    with pytest.raises(CheckpointCorruptError, match=f"{older.name}/{file}"):
        load_checkpoint(older, cart_poles())


def test_row_24_two_hundred_flipped_bits_are_all_noticed(two_checkpoints, tmp_path):
    import shutil

    folder = shutil.copytree(two_checkpoints, tmp_path / "copy")
    older, newer = checkpoints_in(folder)
    generator = random.Random(24)
    for _ in range(200):
        path = newer / generator.choice(FILES)
        content = path.read_bytes()
        position = generator.randrange(len(content))
        path.write_bytes(
            content[:position] + bytes([content[position] ^ (1 << generator.randrange(8))]) + content[position + 1 :]
        )
        assert read_checkpoint(folder).path == older, (path.name, position)
        path.write_bytes(content)
    assert read_checkpoint(folder).path == newer


def test_row_24_no_checkpoint_at_all_is_said_plainly(tmp_path):
    with pytest.raises(ValueError, match="^path must be a folder with checkpoints, got"):
        load_checkpoint(tmp_path / "nothing", cart_poles())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_rows_26_and_27_a_signal_at_a_random_moment(number, code, tmp_path):
    """The program saves and ends with the code that shells know; gone on with, it ends as one that was never stopped."""
    expected = digest(new_model().learn(32 * 2 * 12))
    generator = random.Random(int(number))
    codes = []
    while not (tmp_path / "digest").exists():
        child = forked(lambda: train(tmp_path))
        time.sleep(generator.uniform(0.05, 0.3))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert len(codes) < 200
    # A signal that comes before the handler is set, or after it is gone, ends the program as it always did.
    assert set(codes) <= {code, 0, -number, 1, 99}, codes
    assert codes.count(code) >= 1, codes
    assert (tmp_path / "digest").read_text() == expected


@pytest.mark.slow
def test_row_27_a_second_learner_finds_nothing_locked(tmp_path):
    """A process that was killed holds no lock."""
    child = forked(lambda: train(tmp_path))
    while not list(tmp_path.glob("*-step-*")):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert train(tmp_path) == 0


class Scripted(gym.Env):
    """Pays what its list says; evaluation by script."""

    observation_space, action_space = spaces.Box(-9, 9, (4,)), spaces.Discrete(2)

    def __init__(self, payments):
        self.payments = list(payments)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(4, dtype=np.float32), {}

    def step(self, action):
        return np.zeros(4, dtype=np.float32), float(self.payments.pop(0)), True, False, {}


def test_row_31_a_better_model_is_not_overwritten_after_a_resume(tmp_path):
    def evaluation(payments):
        env = DummyVecEnv([lambda: Monitor(Scripted(payments))])
        return EvalCallback(
            env, n_eval_episodes=1, eval_freq=40, best_model_save_path=str(tmp_path), log_path=str(tmp_path), verbose=0
        )

    first = evaluation([5.0, 100.0, 7.0, 6.0])
    run_to(model_of(), 200, tmp_path / "run", callbacks=[first])
    assert first.best_mean_reward == 100.0
    before = (tmp_path / "best_model.zip").read_bytes()
    model = load_checkpoint(tmp_path / "run", cart_poles(), device="cpu")
    second = evaluation([])
    model.learn(model.resume_report.remaining_timesteps, second, reset_num_timesteps=False)
    assert second.best_mean_reward == 100.0
    assert (tmp_path / "best_model.zip").read_bytes() == before
    # What was evaluated before the cut is still in the file, and the script went on where it was.
    results = np.load(tmp_path / "evaluations.npz")
    assert results["timesteps"].tolist() == [80, 160, 240, 320]
    assert results["results"].ravel().tolist() == [5.0, 100.0, 7.0, 6.0]


class Raises(BaseCallback):
    def _on_step(self):
        if self.num_timesteps == 150:
            raise RuntimeError("my own mistake")
        return True


def test_row_32_a_callback_that_raises_leaves_its_error_and_the_last_checkpoint(tmp_path):
    keeping = ExactCheckpoint(50, path=tmp_path)
    model = model_of()
    with pytest.raises(RuntimeError, match="^my own mistake$"):
        model.learn(TOTAL, [Raises(), keeping])
    assert keeping.last_path.name.endswith("step-100")
    with pytest.raises(ValueError, match="^model must be between two steps"):
        save_checkpoint(model, tmp_path / "other")
    again = load_checkpoint(tmp_path, cart_poles(), device="cpu")
    again.learn(again.resume_report.remaining_timesteps, reset_num_timesteps=False)
    assert_equal(again, model_of().learn(TOTAL))


class Broken(KVWriter):
    def __init__(self):
        self.calls = 0

    def write(self, key_values, key_excluded, step=0):
        self.calls += 1
        if self.calls == 2:
            raise ConnectionError("the tracking server is down")

    def close(self):
        pass


def test_row_33_a_sink_that_fails_is_left_out_after_one_warning():
    broken, whole = Broken(), Broken()
    whole.calls = 10
    model = model_of()
    model.set_logger(Logger(None, [broken, whole]))
    with pytest.warns(UserWarning, match="^Broken failed and is left out .*tracking server is down") as warned:
        model.learn(TOTAL)
    assert len(warned) == 1
    assert broken.calls == 2
    assert whole.calls == 10 + TOTAL // 64 + 1
    assert_equal(model, model_of().learn(TOTAL))


def test_row_43_a_clock_that_jumps_backwards_changes_nothing(tmp_path, monkeypatch):
    hours = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: next(hours) * 3600.0)
    monkeypatch.setattr(time, "time_ns", lambda: next(hours) * 3600 * 10**9)
    model_of().learn(TOTAL, ExactCheckpoint(100, keep=9, path=tmp_path))
    paths = checkpoints_in(tmp_path)
    for age, path in enumerate(paths):
        os.utime(path, (10**6 - age, 10**6 - age))
    assert read_checkpoint(tmp_path).path == paths[-1]
    again = load_checkpoint(paths[0], cart_poles(), device="cpu")
    again.learn(again.resume_report.remaining_timesteps, reset_num_timesteps=False)
    assert_equal(again, model_of().learn(TOTAL))


def test_row_44_two_processes_do_not_write_to_one_folder(tmp_path):
    class Other(BaseCallback):
        def _on_step(self):
            if self.n_calls == 5:
                self.code = os.waitstatus_to_exitcode(os.waitpid(forked(self._in_child), 0)[1])
            return True

        def _in_child(self):
            try:
                model_of().learn(64, ExactCheckpoint(50, path=tmp_path))
            except ValueError as error:
                return 7 if str(error).startswith("path must be a folder that no other process writes to") else 8
            return 9

    other = Other()
    model_of().learn(64, [ExactCheckpoint(EVERY, path=tmp_path), other])
    assert other.code == 7


def test_row_44_another_run_does_not_replace_the_checkpoints_of_the_last(tmp_path):
    model_of().learn(64, ExactCheckpoint(50, path=tmp_path))
    before = checkpoints_in(tmp_path)
    with pytest.raises(ValueError, match="^path must be a folder without another run's checkpoints"):
        model_of().learn(64, ExactCheckpoint(50, path=tmp_path))
    save_checkpoint(model_of(), tmp_path, keep=1)
    assert checkpoints_in(tmp_path)[:-1] == before


def test_row_45_a_checkpoint_of_a_later_release_is_said_to_be_one(tmp_path):
    path = save_checkpoint(model_of(), tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    fields = {name: value for name, value in manifest.items() if name != "sha256"} | {"version": 3}
    (path / "manifest.json").write_text(json.dumps(fields | {"sha256": _digest_of_fields(fields)}))
    with pytest.raises(CheckpointVersionError, match="format 3, this release reads formats up to 2: update"):
        load_checkpoint(tmp_path, cart_poles())


GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("checkpoint-*")), ids=lambda path: path.name)
def test_row_45_checkpoints_of_every_release_load_and_predict_the_same(folder):
    expected = json.loads((folder / "expected.json").read_text())
    model = load_checkpoint(folder, cart_poles(), device="cpu")
    assert model.num_timesteps == expected["num_timesteps"]
    assert "barren_updates" not in vars(model)
    observations = np.array(expected["observations"], dtype=np.float32)
    assert model.predict(observations, deterministic=True)[0].tolist() == expected["actions"]
    values = model.policy.predict_values(model.policy.obs_to_tensor(observations)[0])
    np.testing.assert_allclose(values.detach().numpy().ravel(), expected["values"], rtol=1e-5)
    model.learn(model.resume_report.remaining_timesteps, reset_num_timesteps=False)
    assert model.num_timesteps == expected["total_timesteps"]


def test_row_45_there_is_a_golden_checkpoint_of_this_format():
    assert [path for path in GOLDEN.glob("checkpoint-*") if (path / "expected.json").exists()]


def test_saving_within_a_step_is_refused(tmp_path):
    class Eager(BaseCallback):
        def _on_step(self):
            save_checkpoint(self.model, tmp_path)
            return True

    with pytest.raises(ValueError, match="^model must be between two steps to be resumed exactly"):
        model_of().learn(64, Eager())
    assert not tmp_path.joinpath("000001").exists()


def test_checkpoints_change_nothing_and_the_last_ones_are_kept(tmp_path):
    keeping = ExactCheckpoint(30, keep=3, path=tmp_path)
    assert_equal(model_of().learn(TOTAL, keeping), model_of().learn(TOTAL))
    assert [path.name for path in checkpoints_in(tmp_path)] == [
        "000009-step-270",
        "000010-step-300",
        "000011-step-320",
    ]


def test_a_second_learn_goes_on_in_the_same_folder(tmp_path):
    model = model_of()
    model.learn(64, ExactCheckpoint(50, keep=9, path=tmp_path))
    model.learn(64, ExactCheckpoint(50, keep=9, path=tmp_path), reset_num_timesteps=False)
    assert [path.name.rsplit("-", 1)[1] for path in checkpoints_in(tmp_path)] == ["50", "64", "100", "128"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "lstm", "masked", "normalize", "gsde", "kl_penalty", "a2c", "cnn"])
def test_row_29_resumed_twice_at_ten_random_pairs_of_steps(name, tmp_path):
    from tests.persistence.cases import CASES

    expected = CASES[name]().learn(TOTAL)
    generator = random.Random(name)
    for number in range(10 if name != "cnn" else 3):
        first, second = sorted(generator.sample(range(1, TOTAL), 2))
        folder = tmp_path / str(number)
        run_to(CASES[name](), first, folder)
        run_to(resumed(name, folder), second, folder)
        model = resumed(name, folder)
        assert model.resume_report.is_exact, model.resume_report
        model.learn(model.resume_report.remaining_timesteps, reset_num_timesteps=False)
        assert_equal(model, expected)


@pytest.mark.slow
def test_row_29_a_compiled_run_equals_the_straight_run(tmp_path):
    from tests.persistence.cases import CASES

    expected = CASES["compiled"]().learn(TOTAL)
    run_to(CASES["compiled"](), 100, tmp_path)
    model = resumed("compiled", tmp_path)
    model.learn(model.resume_report.remaining_timesteps, reset_num_timesteps=False)
    assert model.engine.compiler.reason is None
    assert_equal(model, expected)


def test_a_run_that_was_loaded_and_not_gone_on_with_is_not_saved_again(tmp_path):
    save_checkpoint(model_of(), tmp_path)
    model = load_checkpoint(tmp_path, cart_poles())
    with pytest.raises(ValueError, match="^model must have gone on with its run before it is saved again"):
        save_checkpoint(model, tmp_path)


def test_a_finished_run_is_saved_and_goes_on(tmp_path):
    straight = model_of().learn(128)
    straight.learn(64, reset_num_timesteps=False)
    model = model_of().learn(128)
    path = save_checkpoint(model, tmp_path)
    assert model.last_checkpoint_path == path
    again = load_checkpoint(tmp_path, cart_poles(), device="cpu")
    assert again.resume_report.remaining_timesteps == 0
    assert_equal(again.learn(64, reset_num_timesteps=False), straight)
