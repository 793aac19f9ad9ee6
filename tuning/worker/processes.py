"""Worker processes of this machine: started, watched, stopped; and the one line that says how the study goes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess

import optuna
from optuna.exceptions import StorageInternalError

from sb3_ppo_notes.allocator import keep_freed_memory
from sb3_ppo_notes.rollouts import environment_error
from tuning.storage import Address
from tuning.storage.database import close_databases
from tuning.worker.queues import StudyStoppedError
from tuning.worker.settings import Settings
from tuning.worker.signals import StopSignals
from tuning.worker.worker import STAGES, Worker

STOPPED, BAD_INPUT = 1, 2
#: Of a worker whose trials fail by an error of the environment's own, which the process that started it tells.
ENVIRONMENT_FAILED = 3
FAILURES = (STOPPED, BAD_INPUT, ENVIRONMENT_FAILED)
#: Times a worker that was killed from outside is started again, all workers together.
MOST_RESTARTS = 3
#: Seconds that a worker may take to end its rollout and write its checkpoint.
GRACE_SECONDS = 120.0


def silence_optuna() -> None:
    """Keep Optuna's own log to what is wrong: it repeats what we say, and each trial's parameters."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def worker_main(settings: Settings, stages: Sequence[str]) -> None:
    """A worker process, from its start to its exit code."""
    silence_optuna()
    keep_freed_memory()
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C reaches the parent only, which passes it on once
    parent = multiprocessing.parent_process()
    hide = Address(settings.storage).hide
    with StopSignals() as signals:
        try:
            Worker(settings, signals, lambda: parent is not None and not parent.is_alive()).work(stages)
        except StudyStoppedError as error:
            if error.by_environment:
                sys.exit(ENVIRONMENT_FAILED)
            print(f"{error}\nstudy {settings.study!r} stopped: its trials fail", file=sys.stderr, flush=True)
            sys.exit(STOPPED)
        except KeyboardInterrupt:
            signals.stop(signal.SIGINT)
        except Exception as error:
            # Optuna's own words for a failed request guess at its reason; the database's give it.
            cause = error.__cause__ if isinstance(error, StorageInternalError) else None
            line = environment_error(error)
            print(f"error: {hide(line or str(cause or error)) or type(error).__name__}", file=sys.stderr, flush=True)
            sys.exit(BAD_INPUT if line or isinstance(error, ValueError | TypeError) else STOPPED)
        finally:
            close_databases()
        sys.exit(signals.exit_code)


def run_workers(
    settings: Settings, n_workers: int, show: Callable[[], None], stages: Sequence[str] = STAGES, every: float = 0.5
) -> int:
    """Let workers of this machine finish a study; ``show`` is called now and then, to draw how it goes.

    Returns 0, 1 if the study was stopped or no worker is left, :data:`ENVIRONMENT_FAILED`, 130 or 143 after a signal.
    """
    context = multiprocessing.get_context("spawn")

    def start() -> BaseProcess:
        process = context.Process(target=worker_main, args=(settings, tuple(stages)))
        process.start()
        return process

    with StopSignals() as signals:
        workers = [start() for _ in range(n_workers)]
        try:
            return _watch(workers, start, signals, show, every)
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
                worker.join()


def _watch(
    workers: list[BaseProcess],
    start: Callable[[], BaseProcess],
    signals: StopSignals,
    show: Callable[[], None],
    every: float,
) -> int:
    restarts, code, stop_time = 0, 0, None
    while any(worker.is_alive() for worker in workers):
        for place, worker in enumerate(workers):
            if worker.exitcode is None or worker.exitcode == 0:
                continue
            if worker.exitcode < 0 and not signals.is_stopping() and restarts < MOST_RESTARTS and code == 0:
                restarts += 1
                print(
                    f"worker {worker.pid} was killed (signal {-worker.exitcode}); another one starts", file=sys.stderr
                )
                workers[place] = start()
            elif worker.exitcode in FAILURES:
                code = code or worker.exitcode
        if (signals.is_stopping() or code) and stop_time is None:
            stop_time = time.monotonic()
            for worker in workers:
                if worker.is_alive() and worker.pid is not None:
                    # As the parent was told, so that the exit code is the same.
                    os.kill(worker.pid, signal.SIGINT if signals.exit_code == 130 else signal.SIGTERM)
        if stop_time is not None and time.monotonic() - stop_time > GRACE_SECONDS:
            break
        show()
        time.sleep(every)
    show()
    codes = [worker.exitcode for worker in workers]
    if signals.is_stopping():
        return signals.exit_code
    failures = [one for one in codes if one in FAILURES]
    if failures:
        return int(failures[0] or STOPPED)
    return 0 if 0 in codes else STOPPED
