"""SupervisedVecEnv and environments that break: each fault for real, in a process of its own."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.rollouts import EnvWorkerError, EnvWorkerTimeoutError, SupervisedVecEnv
from tests.envs.faulty import FaultyEnv, MotherEnv, is_alive, wait_until

# Most of these wait until something has hung for long enough.
pytestmark = pytest.mark.slow

ACTIONS = np.zeros(3, dtype=int)


def broken(mode, at=5, once=None, env_class=FaultyEnv, **settings):
    """Three environments, of which the one in the middle breaks."""
    faulty = partial(env_class, mode, at, *([] if once is None else [once]))
    settings = dict(start_method="fork", close_timeout=8.0) | settings
    return SupervisedVecEnv([FaultyEnv, faulty, FaultyEnv], **settings)


def children():
    return len(multiprocessing.active_children())


def step_until_it_breaks(env, error=EnvWorkerError):
    env.reset()
    for _ in range(4):
        env.step(ACTIONS)
    pids = [worker.process.pid for worker in env._workers]
    with pytest.raises(error) as caught:
        env.step(ACTIONS)
    assert not any(map(is_alive, pids))
    return caught.value


# -- restart="never": the error says it all ---------------------------------------------------------------------


def test_an_environment_that_raises_is_named_with_its_own_traceback():
    error = step_until_it_breaks(broken("raise"))
    assert str(error) == "environment 1 raised ValueError in step: boom and more"
    assert (error.index, error.kind, error.exitcode) == (1, "ValueError", None)
    assert 'raise ValueError("boom\\nand more")' in error.traceback
    assert "faulty.py" in str(error.__cause__)


def test_an_exception_that_cannot_say_what_it_is_is_named_all_the_same():
    error = step_until_it_breaks(broken("mute"))
    assert str(error) == "environment 1 raised MuteError in step: it has no message, its __str__ raises IndexError"
    assert (error.index, error.kind, error.exitcode) == (1, "MuteError", None)


def test_an_environment_that_exits_is_named_with_its_code():
    error = step_until_it_breaks(broken("exit"))
    assert str(error) == "environment 1: its process exited with code 7 in step"
    assert (error.index, error.exitcode, error.signal) == (1, 7, None)


def test_an_environment_that_calls_sys_exit_is_named():
    error = step_until_it_breaks(broken("sys.exit"))
    assert str(error) == "environment 1 raised SystemExit in step: 3"


def test_an_environment_killed_by_the_system_is_named_with_the_signal_and_a_hint():
    error = step_until_it_breaks(broken("sigkill"))
    assert str(error).startswith(
        "environment 1: its process was killed by signal 9, SIGKILL (the system does that when"
    )
    assert "memory runs out" in str(error)
    assert (error.index, error.signal) == (1, signal.SIGKILL)


def test_an_environment_that_crashes_in_c_is_named_with_the_signal():
    error = step_until_it_breaks(broken("segfault"))
    assert str(error) == "environment 1: its process was killed by signal 11, SIGSEGV in step"


@pytest.mark.parametrize("mode", ["hang", "stop"])
def test_an_environment_that_hangs_is_named_and_killed(mode):
    error = step_until_it_breaks(broken(mode, step_timeout=1.0), EnvWorkerTimeoutError)
    assert str(error) == "environment 1 did not answer step within step_timeout=1 s; its process was killed"
    assert isinstance(error, TimeoutError)
    assert error.index == 1


def test_an_environment_that_dies_between_two_steps_is_named():
    env = broken("nothing")
    env.reset()
    os.kill(env._workers[2].process.pid, signal.SIGKILL)
    with pytest.raises(EnvWorkerError, match="^environment 2: its process was killed by signal 9"):
        env.step(ACTIONS)


def test_a_reset_that_hangs_is_named_and_killed():
    env = broken("hang", "reset", reset_timeout=1.0)
    with pytest.raises(
        EnvWorkerTimeoutError, match=r"^environment 1 did not answer reset within reset_timeout=1 s; its process was"
    ):
        env.reset()


class SlowResetEnv(FaultyEnv):
    def reset(self, *, seed=None, options=None):
        if self.count:
            time.sleep(2)
        return super().reset(seed=seed)


def test_the_reset_at_the_end_of_an_episode_has_the_time_of_a_reset():
    env = SupervisedVecEnv([SlowResetEnv], start_method="fork", step_timeout=1.0, reset_timeout=60)
    env.reset()
    dones = [env.step(ACTIONS[:1])[2][0] for _ in range(10)]
    assert dones == [False] * 9 + [True]
    env.close()


class HangsInSecondReset(SlowResetEnv):
    def reset(self, *, seed=None, options=None):
        if self.count:
            time.sleep(1e6)
        return super().reset(seed=seed)


def test_a_hanging_reset_at_the_end_of_an_episode_is_called_a_reset():
    env = SupervisedVecEnv([HangsInSecondReset], start_method="fork", step_timeout=60, reset_timeout=1.0)
    env.reset()
    for _ in range(9):
        env.step(ACTIONS[:1])
    with pytest.raises(EnvWorkerTimeoutError, match="^environment 0 did not answer reset within reset_timeout=1 s"):
        env.step(ACTIONS[:1])


def test_an_answer_that_is_there_is_taken_however_late_it_is_asked_for(monkeypatch):
    env = broken("nothing", step_timeout=60)
    env.reset()
    env.step_async(ACTIONS)
    assert all(worker._is_ready(60) for worker in env._workers)
    later = time.monotonic() + 1000
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert env.step_wait()[0][:, 0].tolist() == [1, 1, 1]
    monkeypatch.undo()
    env.close()


@pytest.mark.parametrize("mode", ["raise", "exit", "sigkill", "hang"])
def test_a_constructor_that_fails_is_named_and_leaves_no_process(mode):
    before = children()
    with pytest.raises(EnvWorkerError, match="^environment 1.* the constructor") as caught:
        broken(mode, "constructor", reset_timeout=None if mode != "hang" else 1.0)
    assert children() == before
    assert caught.value.index == 1
    if mode == "raise":
        assert "self.break_at" in caught.value.traceback


@pytest.mark.parametrize("mode", ["raise", "exit", "sigkill"])
def test_a_reset_that_fails_is_named_and_leaves_no_process(mode):
    before = children()
    env = broken(mode, "reset")
    with pytest.raises(EnvWorkerError, match="^environment 1.* in reset") as caught:
        env.reset()
    assert caught.value.index == 1
    assert children() == before


@pytest.mark.parametrize("mode", ["none", "text"])
def test_a_reward_that_is_no_number_is_named(mode):
    error = step_until_it_breaks(broken(mode))
    assert str(error).startswith("environment 1 raised TypeError in step: reward must be a number, got ")


def test_an_observation_of_the_wrong_shape_is_named_with_both_shapes():
    env = broken("shape")
    env.reset()
    for _ in range(4):
        env.step(ACTIONS)
    with pytest.raises(
        ValueError, match=r"^observation must have the shape \(2,\) of its space, got \(1,\) from environment 1"
    ):
        env.step(ACTIONS)
    env.close()


def test_an_info_that_cannot_be_sent_is_named():
    error = step_until_it_breaks(broken("unpicklable"))
    assert str(error).startswith("environment 1 raised TypeError in step: cannot pickle '_thread.lock' object")


def test_what_is_asked_after_an_error_says_what_ended_the_environments():
    env = broken("sigkill")
    step_until_it_breaks(env)
    for ask in (env.reset, partial(env.step, ACTIONS), partial(env.get_attr, "count")):
        with pytest.raises(EnvWorkerError, match="^the environments are closed: environment 1: its process was killed"):
            ask()
    env = broken("nothing")
    env.close()
    with pytest.raises(EnvWorkerError, match=r"^the environments are closed: close\(\) was called"):
        env.reset()


def test_a_step_that_was_interrupted_by_ctrl_c_is_dropped_by_the_next_reset(monkeypatch):
    env = broken("nothing")
    env.reset()
    with monkeypatch.context() as patch:
        patch.setattr(env._workers[1], "receive", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            env.step(ACTIONS)
    # The first has answered and been read, the other two have not.
    assert env.reset()[:, 0].tolist() == [0, 0, 0]
    assert env.step(ACTIONS)[0][:, 0].tolist() == [1, 1, 1]
    env.close()


@pytest.mark.parametrize("restart", ["never", "worker"])
def test_an_environment_that_hangs_in_a_dropped_step_is_named_for_that(restart, tmp_path):
    env = broken("hang", 1, tmp_path / "broke", restart=restart, step_timeout=1.0)
    env.reset()
    env.step_async(ACTIONS)
    if restart == "never":
        with pytest.raises(EnvWorkerTimeoutError, match="^environment 1 did not answer step within step_timeout=1 s"):
            env.reset()
        return
    assert env.reset()[:, 0].tolist() == [0, 0, 0]
    assert env.restarts == 1
    assert not env.step(ACTIONS)[2].any()
    env.close()


def test_an_error_in_a_dropped_step_is_dropped_too():
    env = broken("raise", 1)
    env.reset()
    env.step_async(ACTIONS)
    assert env.reset()[:, 0].tolist() == [0, 0, 0]
    env.close()


# -- close ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["raise", "exit", "sigkill", "hang", "stop"])
def test_close_after_a_fault_returns_and_may_be_called_again(mode):
    env = broken(mode, step_timeout=1.0)
    step_until_it_breaks(env)
    env.close()
    env.close()


@pytest.mark.parametrize("mode", ["raise", "exit", "sigkill", "hang", "stop"])
def test_a_close_that_fails_harms_nobody(mode, capfd):
    env = broken(mode, "close", close_timeout=1.5)
    env.reset()
    pids = [worker.process.pid for worker in env._workers]
    env.close()
    assert not any(map(is_alive, pids))
    if mode == "raise":
        assert "boom" in capfd.readouterr().err


def test_close_in_the_middle_of_a_step_that_hangs_returns():
    env = broken("hang", 1, close_timeout=1.0)
    env.reset()
    env.step_async(ACTIONS)
    pids = [worker.process.pid for worker in env._workers]
    # It hangs for 10 days, and its own limit is 2 minutes: only the force of close() can end it.
    env.close()
    assert not any(map(is_alive, pids))


def test_dropped_environments_leave_no_process():
    env = broken("nothing")
    pids = [worker.process.pid for worker in env._workers]
    del env
    assert wait_until(lambda: not any(map(is_alive, pids)), 20)


def test_programs_that_an_environment_started_are_killed_with_it():
    env = broken("hang", 1, env_class=MotherEnv, step_timeout=1.0)
    env.reset()
    program = env.env_method("pid_of_program", indices=1)[0]
    assert is_alive(program)
    with pytest.raises(EnvWorkerTimeoutError):
        env.step(ACTIONS)
    assert wait_until(lambda: not is_alive(program), 20)


def test_signals_to_the_whole_group_are_left_to_the_parent():
    env = broken("nothing")
    env.reset()
    for worker in env._workers:
        os.kill(worker.process.pid, signal.SIGINT)
        os.kill(worker.process.pid, signal.SIGTERM)
        # A terminal signals the group of the process in front.
        assert os.getpgid(worker.process.pid) != os.getpgid(0)
    assert env.step(ACTIONS)[0][:, 0].tolist() == [1, 1, 1]
    env.close()


def test_environments_outlive_the_thread_that_started_them():
    made = []
    thread = threading.Thread(target=lambda: made.append(broken("nothing")))
    thread.start()
    thread.join()
    time.sleep(0.2)  # a process that dies with the thread needs a moment for it
    made[0].reset()
    assert made[0].step(ACTIONS)[0][:, 0].tolist() == [1, 1, 1]
    made[0].close()


def test_time_is_measured_by_a_clock_that_nobody_sets(monkeypatch):
    now = time.time()
    jumps = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(time, "time", lambda: now - next(jumps))
    env = broken("hang", step_timeout=1.0, restart="worker", restart_window=1000, max_restarts=1)
    env.reset()
    for _ in range(5):
        env.step(ACTIONS)
    assert env.restarts == 1
    env.close()


# -- restart="worker" -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["raise", "exit", "sigkill", "hang", "none"])
def test_a_broken_environment_begins_anew_and_its_episode_ends_as_truncated(mode, tmp_path, caplog):
    once = None if mode == "none" else tmp_path / "broke"
    env = broken(mode, once=once, restart="worker", step_timeout=1.0)
    env.reset()
    for _ in range(4):
        last = env.step(ACTIONS)[0]
    pids = [worker.process.pid for worker in env._workers]
    with caplog.at_level(logging.WARNING, "sb3_ppo_notes"):
        observations, rewards, dones, infos = env.step(ACTIONS)
    assert observations[:, 0].tolist() == [5, 0, 5]
    assert rewards.tolist() == [1, 0, 1]
    assert dones.tolist() == [False, True, False]
    np.testing.assert_array_equal(infos[1]["terminal_observation"], last[1])
    assert infos[1]["TimeLimit.truncated"] is True
    assert infos[1]["env_restarted"] is True
    assert infos[1]["env_error"].startswith("environment 1")
    assert not any("env_restarted" in infos[index] for index in (0, 2))
    assert env.restarts == 1
    assert "restart 1 (max_restarts=20 within restart_window=600 s): environment 1" in caplog.text
    # The others are the same processes, and the new one goes on like any other.
    now = [worker.process.pid for worker in env._workers]
    assert (now[0], now[2]) == (pids[0], pids[2])
    assert not is_alive(pids[1])
    assert env.step(ACTIONS)[0][:, 0].tolist() == [6, 1, 6]
    env.close()


def test_an_environment_that_breaks_while_it_is_asked_for_masks_ends_its_episode_at_the_next_step(tmp_path):
    env = broken("sigkill", "masks", tmp_path / "broke", restart="worker")
    env.reset()
    last = env.step(ACTIONS)[0]
    masks = env.env_method("action_masks")
    assert np.array(masks).shape == (3, 2)
    assert env.restarts == 1
    observations, rewards, dones, infos = env.step(ACTIONS)
    assert observations[:, 0].tolist() == [2, 0, 2]
    assert (dones.tolist(), rewards.tolist()) == ([False, True, False], [1, 0, 1])
    np.testing.assert_array_equal(infos[1]["terminal_observation"], last[1])
    assert env.step(ACTIONS)[0][:, 0].tolist() == [3, 1, 3]
    env.close()


def test_an_environment_that_refuses_a_method_is_not_restarted():
    env = broken("nothing", restart="worker")
    env.reset()
    with pytest.raises(EnvWorkerError, match="raised KeyError"):
        env.env_method("refuse")
    assert env.restarts == 0
    env.close()


def test_a_reset_that_breaks_once_is_done_again_with_its_seed_and_options(tmp_path):
    env = broken("exit", "reset", tmp_path / "broke", restart="worker")
    env.seed(7)
    env.set_options({"level": 2})
    assert env.reset()[:, 0].tolist() == [0, 0, 0]
    assert env.reset_infos[1] == {"seed": 8, "options": {"level": 2}}
    assert env.restarts == 1
    assert not env.step(ACTIONS)[2].any()
    env.close()


def test_an_environment_that_begins_anew_has_a_seed_of_its_own_and_its_attributes(tmp_path):
    infos = []
    for number in range(2):
        env = broken("exit", once=tmp_path / f"broke {number}", restart="worker")
        env.seed(7)
        env.reset()
        env.set_attr("colour", "green", indices=[1])
        for _ in range(5):
            env.step(ACTIONS)
        infos.append(env.reset_infos[1])
        assert env.get_attr("colour") == ["none", "green", "none"]
        env.close()
    assert infos[0]["seed"] not in (7, 8, 9, None)
    # Given by the first seed: two runs with the same faults are the same.
    assert infos[0] == infos[1]


def test_a_crash_loop_ends_with_a_summary():
    env = broken("raise", 1, restart="worker", max_restarts=3)
    env.reset()
    for _ in range(3):
        env.step(ACTIONS)
    with pytest.raises(EnvWorkerError) as caught:
        env.step(ACTIONS)
    assert str(caught.value) == (
        "environment 1 raised ValueError in step: boom and more; it is not restarted, because max_restarts=3 within "
        "restart_window=600 s are used up (environment 1: 3)"
    )
    assert "faulty.py" in caught.value.traceback
    assert env.restarts == 3
    assert not env._workers


class BreaksWhenBuiltAgain(FaultyEnv):
    def __init__(self, folder):
        (folder / f"{time.monotonic_ns()}").touch()
        self.built = len(list(folder.iterdir()))
        super().__init__("exit", 3 if self.built == 1 else "constructor" if self.built < 4 else "never")


def test_an_environment_that_cannot_be_built_again_at_once_is_tried_again(tmp_path):
    env = SupervisedVecEnv([partial(BreaksWhenBuiltAgain, tmp_path)], start_method="fork", restart="worker")
    env.reset()
    for _ in range(3):
        observations, _, dones, _ = env.step(ACTIONS[:1])
    assert dones.tolist() == [True]
    assert observations[:, 0].tolist() == [0]
    assert env.restarts == 3
    env.close()


def test_restarts_leave_no_open_files():
    env = broken("exit", 1, restart="worker")
    env.reset()
    env.step(ACTIONS)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(8):
        env.step(ACTIONS)
    assert env.restarts == 9
    assert len(os.listdir("/proc/self/fd")) <= before
    env.close()


def test_restarts_outside_the_window_are_forgotten(tmp_path):
    env = broken("raise", 2, restart="worker", max_restarts=1, restart_window=0.2)
    env.reset()
    for _ in range(3):
        env.step(ACTIONS)
        env.step(ACTIONS)
        time.sleep(0.3)
    assert env.restarts == 3
    env.close()


def test_no_restarts_at_all_may_be_allowed():
    env = broken("raise", 1, restart="worker", max_restarts=0, restart_window=None)
    env.reset()
    with pytest.raises(EnvWorkerError, match=r"because max_restarts=0 are used up \(none is allowed\)"):
        env.step(ACTIONS)


# -- training ---------------------------------------------------------------------------------------------------

SIZES = dict(n_steps=16, device="cpu", seed=0)


def built(algorithm, env, **settings):
    sizes = {} if algorithm is NotesA2C else dict(batch_size=16, n_epochs=1)
    return algorithm("MlpPolicy", env, **SIZES, **sizes, **settings)


class Infos(BaseCallback):
    def __init__(self):
        super().__init__()
        self.restarted, self.rewards, self.logged = [], [], []

    def _on_step(self):
        self.restarted += [info["terminal_observation"] for info in self.locals["infos"] if "env_restarted" in info]
        return True

    def _on_rollout_end(self):
        self.rewards.append(self.model.rollout_buffer.rewards.copy())
        self.logged.append(self.model.logger.name_to_value.get("notes/env_restarts"))


@pytest.mark.parametrize("algorithm", [NotesPPO, NotesA2C, PPO])
def test_training_survives_a_crash_and_bootstraps_from_the_last_observation(algorithm, tmp_path):
    env = broken("sigkill", once=tmp_path / "broke", restart="worker")
    callback = Infos()
    model = built(algorithm, env).learn(96, callback=callback)
    assert model.num_timesteps == 96
    assert env.restarts == 1
    assert [observation[0] for observation in callback.restarted] == [4]
    # Row 4 is the 5th step: it paid nothing, and is worth γ·V of the last observation, by the weights of the beginning.
    value = built(algorithm, env).policy.predict_values(th.tensor(callback.restarted[0][None]))
    expected = model.gamma * value
    assert callback.rewards[0][4, 1] == pytest.approx(expected.item(), rel=1e-5)
    assert callback.rewards[0][3, 1] == 1
    if algorithm is not PPO:
        assert model.logger.name_to_value["notes/env_restarts"] == 1
    env.close()


def test_training_under_wrappers_survives_a_crash(tmp_path):
    env = VecNormalize(VecMonitor(broken("exit", once=tmp_path / "broke", restart="worker")))
    model = NotesPPO("MlpLstmPolicy", env, batch_size=16, n_epochs=1, action_masking=True, **SIZES).learn(96)
    assert model.logger.name_to_value["notes/env_restarts"] == 1
    # VecMonitor has seen the lost episode end after 5 steps.
    assert [episode["l"] for episode in model.ep_info_buffer][:2] == [5, 10]
    assert np.isfinite(env.obs_rms.mean).all()
    env.close()


def test_other_environments_log_no_restarts():
    model = NotesPPO("MlpPolicy", "CartPole-v1", batch_size=16, n_epochs=1, **SIZES).learn(16)
    assert "notes/env_restarts" not in model.logger.name_to_value


def test_a_fault_ends_training_and_leaves_no_process():
    before = children()
    env = broken("raise")
    with pytest.raises(EnvWorkerError, match="^environment 1 raised ValueError in step"):
        built(NotesPPO, VecNormalize(env)).learn(96)
    assert children() == before
