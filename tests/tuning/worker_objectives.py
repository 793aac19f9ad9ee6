"""Objectives that cost nothing, for tests of what is around them. In a module, so that other processes find them."""

import hashlib
import math
import os
import signal
import time
from pathlib import Path

from sb3_ppo_notes.formulas.checks import NonFiniteError
from tuning.selection import Protocol
from tuning.space import Dimension, Space
from tuning.space.setup import baseline_setup
from tuning.worker.checkpoints import Progress
from tuning.worker.objective import PreemptedError, TrainingRun, train
from tuning.worker.settings import Settings

BEST = 1e-3


def learning_rate(run: TrainingRun) -> float:
    return float(str(run.setup.arguments.get("learning_rate", 3e-4)).removeprefix("lin_"))


def value_at(run: TrainingRun, mark: int) -> float:
    """Best at a learning rate of 1e-3, rising with the steps, a little luck in every seed."""
    digest = hashlib.sha256(f"{run.seed}/{run.eval_seed}/{learning_rate(run)}".encode()).digest()
    luck = int.from_bytes(digest[:4], "big") / 2**32
    return 100.0 - 20.0 * abs(math.log10(learning_rate(run) / BEST)) + 10.0 * mark / run.total_timesteps + luck


def cheap(run, control):
    control.resume(Progress())
    for mark in run.marks:
        if control.is_stopping():
            raise PreemptedError("asked to")
        control.count(mark)
        control.report(mark, value_at(run, mark))


def slow(run, control):
    def report(step, value, tell=control.report):
        time.sleep(0.05)
        tell(step, value)

    control.report = report
    cheap(run, control)


def broken(run, control):
    raise AssertionError("the environment has a bug")


def diverges_above_the_best(run, control):
    cheap_until = run.marks[4] if learning_rate(run) > BEST else None
    control.resume(Progress())
    for mark in run.marks:
        control.count(mark)
        if mark == cheap_until:
            raise NonFiniteError("policy_loss must be finite, got nan")
        control.report(mark, value_at(run, mark))


def wants_torchs_error(run, control):
    import torch as th

    if learning_rate(run) > BEST:
        th.distributions.Normal(th.tensor(float("nan")), 1.0)
    cheap(run, control)


class Once:
    """The first caller, of all processes, gets True."""

    def __init__(self, flag: str):
        self.flag = os.environ[flag]

    def __bool__(self) -> bool:
        try:
            Path(self.flag).open("x").close()
        except FileExistsError:
            return False
        return True


def killed_once(run, control):
    """A real training, whose process is killed from outside at the sixth mark of one trial."""

    def report(step, value, tell=control.report):
        tell(step, value)
        if step == run.marks[5] and control.trial.number >= 2 and Once("KILL_FLAG"):
            os.kill(os.getpid(), signal.SIGKILL)

    control.report = report
    train(run, control)


def small_space(**more) -> Space:
    return Space("notes_ppo", (Dimension("learning_rate", "float", 1e-5, 1e-1, log=True),))


def made_settings(tmp_path, **changes) -> Settings:
    """A study of 1,000 steps a trial, without a worker process."""
    protocol = Protocol(
        finalist_seeds=(1, 2),
        test_seeds=(100, 101, 102),
        n_finalists=2,
        n_startup=3,
    )
    values = dict(
        study="s",
        storage=str(tmp_path / "s.journal"),
        folder=tmp_path / "checkpoints",
        env_id="CartPole-v1",
        algo="notes_ppo",
        space=small_space(),
        base={"n_envs": 1, "n_steps": 100, "batch_size": 50},
        protocol=protocol,
        total_timesteps=1000,
        budget=20_000,
        sampler="tpe",
        n_eval_episodes=2,
        compile="off",
        baselines=(baseline_setup("SB3 defaults", "notes_ppo", {}),),
        heartbeat=60,
        poll_seconds=0.05,
        checkpoint_seconds=1e9,
        objective=cheap,
    )
    return Settings(**{**values, **changes})
