"""The other end of ``worker.py``: starts the programs, asks them, and ends them whatever happens."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_ppo_notes.runs.bench import worker as bench_worker
from sb3_ppo_notes.runs.bench.arms import Arm

# NPROC is what sizes XLA's thread pool; its flags alone leave jax 0.10 with a thread a processor.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
ERROR_TAIL = 20
SECONDS_TO_END = 5.0


class WorkerError(ChildProcessError):
    """An arm that could not do what it was asked to."""


class Worker:
    """A running program that trains one arm; ``cache``: folder of torch's compiled code, ``None`` for the user's."""

    def __init__(self, arm: Arm, cache: Path | None = None):
        self.arm = arm
        self._asked: list[str] = []
        # A file and not a pipe: nobody reads while it runs, and a full pipe would stop it.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        environment = os.environ | ONE_THREAD | ({} if cache is None else {"TORCHINDUCTOR_CACHE_DIR": str(cache)})
        self._process = subprocess.Popen(
            [arm.interpreter, bench_worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            encoding="utf-8",
            # A group of its own: Ctrl-C reaches us alone, and we end it with all that it has started.
            start_new_session=True,
        )

    def send(self, command: str, **arguments: Any) -> None:
        """Call a method of ``worker.Subject`` without waiting for the answer."""
        self._asked.append(command)
        # A program that has gone cannot take it; receive() says so.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def receive(self) -> dict[str, Any]:
        """Wait for the answer to the oldest request that has none yet.

        :raises WorkerError: if the program failed, with what it wrote to the standard error, or has gone.
        """
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        command = self._asked.pop(0)
        if not line:
            code = self._process.wait()
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise WorkerError(f"{self.arm.name} {how} at {command!r}; the last it said:\n{self._tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            # What cannot be built was asked for wrongly, and the message says how, as does an environment's own error.
            # Where training broke, the traceback.
            message = str(answer["error"]).partition("\n")[0]
            says_all = command in ("load", "build") or answer.get("by_environment")
            tail = "" if says_all else f"; the last it said:\n{self._tail()}"
            raise WorkerError(f"{self.arm.name}: {message}{tail}")
        return answer

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of ``worker.Subject`` and wait for its answer."""
        self.send(command, **arguments)
        return self.receive()

    def dismiss(self) -> None:
        """Tell it that there are no more requests; it then ends by itself, and soon if it is at work."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def end(self) -> None:
        """Give it the time to end by itself, then end it and everything it has started."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SECONDS_TO_END)
        self._process.kill()
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._errors.close()

    def _tail(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-ERROR_TAIL:]) or "  (nothing)"


@contextlib.contextmanager
def start_workers(arms: Sequence[Arm], caches: Mapping[str, Path]) -> Iterator[dict[str, Worker]]:
    """Programs by the names of their arms, for as long as the block runs; all load their libraries at once.

    Each still owes the answer to ``load``. ``caches`` are folders for torch's compiled code, for the arms that shall
    not use the user's own.
    """
    workers: dict[str, Worker] = {}
    try:
        for arm in arms:
            workers[arm.name] = Worker(arm, caches.get(arm.name))
            workers[arm.name].send("load", spec=arm.spec)
        yield workers
    finally:
        for worker in workers.values():
            worker.dismiss()
        for worker in workers.values():
            worker.end()
