"""Row 26 and 27 of the fault matrix: a signal is a request that is answered between two steps."""

import signal
import threading

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.persistence import GracefulStop, StopOnSignal

SETTINGS = dict(n_steps=32, batch_size=16, n_epochs=2, seed=0, device="cpu")


class SignalAt(BaseCallback):
    """Sends this process a signal at its n-th step."""

    def __init__(self, at, number):
        super().__init__()
        self.at, self.number = at, number

    def _on_step(self):
        if self.n_calls == self.at:
            signal.raise_signal(self.number)
        return True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_only_sets_a_flag_and_handlers_come_back(number, code):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with GracefulStop() as stop:
        assert stop.requested is None
        assert stop.exit_code == 0
        signal.raise_signal(number)
        assert stop.requested == number
        assert stop.exit_code == code
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_handlers_come_back_after_an_exception():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), GracefulStop():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_sigint_is_a_keyboard_interrupt(first):
    with GracefulStop() as stop:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.requested == first


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_program_that_keeps_what_it_has_is_interrupted_at_once(number, code):
    before = signal.getsignal(number)
    with GracefulStop(raises=True) as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert stop.exit_code == code
    assert signal.getsignal(number) is before


def test_a_second_sigterm_changes_nothing():
    with GracefulStop() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert stop.exit_code == 130


def test_in_another_thread_it_does_nothing():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def body():
        with GracefulStop() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with GracefulStop() as stop:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
        assert stop.requested is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_learning_stops_after_the_step_in_which_the_signal_came():
    with GracefulStop() as stop:
        model = NotesPPO("MlpPolicy", "CartPole-v1", **SETTINGS)
        model.learn(320, callback=[SignalAt(45, signal.SIGTERM), StopOnSignal(stop)])
    assert model.num_timesteps == 45
    assert model.rollout_buffer.pos == 45 - 32


def test_a_stopped_model_goes_on_as_if_it_had_not_been_stopped():
    straight = NotesPPO("MlpPolicy", "CartPole-v1", **SETTINGS).learn(320)
    with GracefulStop() as stop:
        model = NotesPPO("MlpPolicy", "CartPole-v1", **SETTINGS)
        model.learn(320, callback=[SignalAt(45, signal.SIGINT), StopOnSignal(stop)])
    model.learn(320 - model.num_timesteps, reset_num_timesteps=False)
    assert model.num_timesteps == straight.num_timesteps
    for mine, theirs in zip(model.policy.parameters(), straight.policy.parameters(), strict=True):
        np.testing.assert_array_equal(mine.detach(), theirs.detach())


def test_a_stopped_model_that_begins_anew_drops_the_rollout_it_left():
    with GracefulStop() as stop:
        model = NotesPPO("MlpPolicy", "CartPole-v1", **SETTINGS)
        model.learn(320, callback=[SignalAt(45, signal.SIGINT), StopOnSignal(stop)])
    model.learn(32)
    assert model.num_timesteps == 32


def test_it_stops_stock_ppo_too():
    with GracefulStop() as stop:
        model = PPO("MlpPolicy", "CartPole-v1", **SETTINGS)
        model.learn(320, callback=[SignalAt(45, signal.SIGTERM), StopOnSignal(stop)])
    assert model.num_timesteps == 45


def test_stop_must_be_a_graceful_stop():
    with pytest.raises(TypeError, match="^stop must be a GracefulStop, got None"):
        StopOnSignal(None)
