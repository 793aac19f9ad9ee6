"""Environments that break for real: they raise, exit, are killed, hang, or lie about their observations."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv


class MuteError(Exception):
    """Fails again when it is asked what it says."""

    def __str__(self):
        return self.args[0]


def fail(mode):
    if mode == "raise":
        raise ValueError("boom\nand more")
    if mode == "mute":
        raise MuteError
    if mode == "exit":
        os._exit(7)
    if mode == "sys.exit":
        sys.exit(3)
    if mode == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode == "hang":
        time.sleep(1e6)
    if mode == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)


class FaultyEnv(gym.Env):
    """Counts its steps up to 10 and breaks at one of them, in a reset, in its constructor or in its end.

    :param mode: what happens.
    :param at: number of the step, or "constructor", "reset", "close", "method".
    :param once: a file that is written before it breaks; it does not break again when the file is there.
    """

    observation_space = spaces.Box(0, 100, (2,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, mode="nothing", at=5, once=None):
        self.mode, self.at, self.once = mode, at, once
        self.count, self.colour = 0, "none"
        self.break_at("constructor")

    def break_at(self, place):
        if place != self.at:
            return
        if self.once is not None:
            if Path(self.once).exists():
                return
            Path(self.once).touch()
        fail(self.mode)

    def observation(self):
        return np.array([self.count, os.getpid() % 100], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.break_at("reset")
        self.count = 0
        return self.observation(), {"seed": seed, "options": options}

    def step(self, action):
        self.count += 1
        self.break_at(self.count)
        observation, reward, info = self.observation(), 1.0, {}
        if self.count == self.at:
            observation = {"shape": observation[:1], "nan": observation * np.nan}.get(self.mode, observation)
            reward = {"none": None, "text": "1"}.get(self.mode, reward)
            info = {"unpicklable": {"lock": threading.Lock()}}.get(self.mode, info)
        return observation, reward, False, self.count >= 10, info

    def close(self):
        self.break_at("close")

    def work(self):
        self.break_at("method")
        return os.getpid()

    def refuse(self):
        raise KeyError("not here")

    def action_masks(self):
        self.break_at("masks")
        return np.ones(2, dtype=bool)


class CrashingCartPole(CartPoleEnv):
    """CartPole whose process dies now and then.

    :param p_crash: probability that a step is the last.
    """

    def __init__(self, p_crash=5e-4):
        super().__init__()
        self.p_crash = p_crash
        self.dice = np.random.default_rng()

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            # Given by the seed, so that a whole run can be repeated, faults included.
            self.dice = np.random.default_rng(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self.dice.random() < self.p_crash:
            fail(self.dice.choice(["raise", "exit", "sigkill"]))
        return super().step(action)


class MotherEnv(FaultyEnv):
    """Starts a program of its own, as simulators do."""

    def __init__(self, mode="nothing", at=5):
        import subprocess

        self.program = subprocess.Popen(["sleep", "1000"])
        super().__init__(mode, at)

    def pid_of_program(self):
        return self.program.pid


def is_alive(pid):
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
