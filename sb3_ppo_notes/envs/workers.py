"""The parent's side of an environment in another process: ask, wait no longer than allowed, kill."""

import contextlib
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple
from weakref import WeakSet

import gymnasium as gym
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from sb3_ppo_notes.envs.worker_errors import (
    EnvWorkerError,
    death_error,
    exception_error,
    timeout_error,
    unreadable_error,
)
from sb3_ppo_notes.envs.worker_process import RAISED, RESETTING, serve

#: Seconds between two looks at whether a silent process is still alive.
PATROL = 1.0
#: This process's ends of all connections. A forked process has them too, and must close them.
OPEN: "WeakSet[Any]" = WeakSet()


class Limits(NamedTuple):
    """Seconds that a step, and everything else, may take; ``None`` for ever."""

    step_timeout: float | None
    reset_timeout: float | None

    def of(self, command: str) -> tuple[str, float | None]:
        """The argument's name and the seconds that limit a command."""
        return ("step_timeout", self.step_timeout) if command == "step" else ("reset_timeout", self.reset_timeout)


class Worker:
    """One environment in a process of its own."""

    def __init__(self, context: BaseContext, index: int, env_fn: Callable[[], gym.Env], limits: Limits):
        self.index = index
        self.limits = limits
        method = context.get_start_method()
        self.connection, theirs = context.Pipe()
        OPEN.add(self.connection)
        inherited = list(OPEN) if method == "fork" else []
        # The system counts the thread that started a process as its parent. A thread may end long before the training
        # does; the fork server has only one.
        dies_with_thread = method == "forkserver" or threading.current_thread() is threading.main_thread()
        parent_pid = None if method == "forkserver" else os.getpid()
        self.process = context.Process(  # type: ignore[attr-defined]
            target=serve,
            args=(theirs, CloudpickleWrapper(env_fn), inherited, dies_with_thread, parent_pid),
            name=f"environment-{index}",
            # What is left when this process ends is ended with it.
            daemon=True,
        )
        try:
            self.process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            # Held here as well, it would never report the end of the process; held by the next one to be forked
            # neither.
            theirs.close()
        #: Of the process, once it is known to have ended.
        self.exitcode: int | None = None
        self._is_ready = _readiness(self.connection)
        if limits.step_timeout is not None and limits.reset_timeout is not None:
            _limit_transfers(self.connection, max(limits.step_timeout, limits.reset_timeout))
        self._expect("the constructor", "build")

    def _expect(self, doing: str, command: str) -> None:
        #: An answer is still to come.
        self.owes = True
        self.doing = doing
        self.argument, self.seconds = self.limits.of(command)
        self._asked_at = time.monotonic()

    def send(self, command: str, data: Any = None) -> None:
        """Send one of ``worker_process.COMMANDS``, ``"step"`` or ``"close"``.

        A process that is gone is noticed by :meth:`receive`.
        """
        self._expect(f"{data[0]}()" if command == "env_method" else command, command)
        try:
            self.connection.send((command, data))
        except OSError:
            return
        except BaseException:
            # It could not be pickled, so nothing has left.
            self.owes = False
            raise

    def receive(self) -> Any:
        """The answer to the last command, or to being built.

        :raises EnvWorkerError: if the environment raised, or its process has ended or does not answer in time; one that
            does not answer is killed.
        """
        while True:
            self._wait()
            try:
                kind, value = self.connection.recv()
            except BlockingIOError:  # it went silent in the middle of its answer
                self._give_up()
            except (EOFError, OSError):
                raise self._death() from None
            except Exception as error:
                self.owes = False
                raise unreadable_error(self.index, self.doing, error) from error
            self.owes = kind == RESETTING
            if kind == RAISED:
                raise exception_error(self.index, self.doing, *value)
            if not self.owes:
                return value
            self._expect("reset", "reset")

    def call(self, command: str, data: Any = None) -> Any:
        """The answer to a command, waited for."""
        self.send(command, data)
        return self.receive()

    def _wait(self) -> None:
        while True:
            left = None if self.seconds is None else self._asked_at + self.seconds - time.monotonic()
            # What is there already is taken, however late this side looks.
            if self._is_ready(PATROL if left is None else max(0.0, min(PATROL, left))):
                return
            if left is not None and left <= 0:
                self._give_up()
            # Programs that the environment started may hold its end of the connection open after it.
            if not self.is_alive and not self._is_ready(0):
                raise self._death()

    def _give_up(self) -> None:
        self.kill()
        raise timeout_error(self.index, self.doing, self.seconds or 0.0, self.argument)

    def _death(self) -> EnvWorkerError:
        with contextlib.suppress(ValueError):
            self.process.join(PATROL)
            self.exitcode = self.process.exitcode
        self.kill()
        return death_error(self.index, self.doing, self.exitcode)

    @property
    def is_alive(self) -> bool:
        """``True`` while the process runs."""
        try:
            return self.process.is_alive()  # type: ignore[no-any-return]
        except ValueError:
            # Killed, and its files given back.
            return False

    def is_gone(self, until: float) -> bool:
        """Wait for the process to end until that ``time.monotonic()``, and throw away its answers."""
        # Unread, a large answer would keep it from ever reaching the order to close.
        with contextlib.suppress(EOFError, OSError):
            while self._is_ready(max(0.0, until - time.monotonic())):
                self.connection.recv_bytes()
        with contextlib.suppress(ValueError):
            self.process.join(max(0.0, until - time.monotonic()))
        return not self.is_alive

    def kill(self, wait: float = PATROL) -> None:
        """End the process, and the programs it has started, now."""
        with contextlib.suppress(OSError, ValueError):
            if self.is_alive and hasattr(os, "killpg") and os.getpgid(self.process.pid) == self.process.pid:
                os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError, ValueError):
            self.process.kill()
        with contextlib.suppress(ValueError):
            self.process.join(wait)
            self.exitcode = self.process.exitcode if self.exitcode is None else self.exitcode
            # Two files a process; refused while it is still running.
            self.process.close()
        self.connection.close()


def stop(workers: Sequence[Worker], seconds: float) -> None:
    """End processes: ask first, kill those that have not gone after three quarters of the time. Raises nothing."""
    begin = time.monotonic()
    for worker in workers:
        with contextlib.suppress(OSError, ValueError):
            # A process that reads nothing must not make this one wait.
            _limit_transfers(worker.connection, max(seconds / 4, 0.01))
            worker.connection.send(("close", None))
    left = [worker for worker in workers if not worker.is_gone(begin + 0.75 * seconds)]
    for worker in left:
        # All at once, then wait for all.
        worker.kill(0.0)
    for worker in left:
        with contextlib.suppress(ValueError):
            worker.process.join(max(0.0, begin + seconds - time.monotonic()))
    for worker in workers:
        with contextlib.suppress(OSError):
            worker.connection.close()


def _readiness(connection: Any) -> Callable[[float], bool]:
    """A function of seconds: ``True`` if there is something to read within them.

    ``Connection.poll`` builds a selector for each such question, which costs as much as a small environment's step.
    """
    if not hasattr(select, "poll"):
        return lambda seconds: not connection.closed and connection.poll(seconds)
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)

    def is_ready(seconds: float) -> bool:
        if connection.closed:
            return False
        return bool(poller.poll(seconds * 1000))

    return is_ready


def _limit_transfers(connection: Any, seconds: float) -> None:
    """Let no read and no write block longer than this: a process may be stopped in the middle of a message."""
    if os.name != "posix":
        return
    # 0 would mean for ever.
    duration = struct.pack("@ll", int(seconds), max(1, int(seconds % 1 * 1_000_000)))
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, duration)
    # A default timeout of the socket module would have made both non-blocking.
    os.set_blocking(connection.fileno(), True)
