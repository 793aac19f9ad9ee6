"""Runs pytest in copies of the project, each in a fork of one process that has imported what takes long to import.

    python -m tests.fork_server    # a JSON line in, {"folder": ..., "tests": [...]}, a JSON line out, {"code": ..., "output": ...}

Started by ``test_mutants.py``. Nothing of the project is imported before the fork: a copy's modules are its own.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback

#: What the tests import of other projects. One that is not installed is imported by no test either.
SLOW_TO_IMPORT = (
    "hypothesis",
    "imageio_ffmpeg",
    "matplotlib.pyplot",
    "optuna",
    "pytest",
    "rich.progress",
    "safetensors.torch",
    "sb3_contrib",
    "scipy.stats",
    "stable_baselines3.common.env_checker",
    "stable_baselines3.common.env_util",
    "tensorboard.backend.event_processing.event_accumulator",
    "torch.fx.experimental.proxy_tensor",
    "torch.utils.tensorboard",
    "tyro",
    "yaml",
)
SECONDS = 300
#: pytest would like to rewrite the asserts of its plugins, which are imported already.
OPTIONS = (
    *("-q", "-x", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


def run(folder, tests):
    """Run tests in a fork.

    :param folder: of the copy.
    :param tests: as pytest takes them.
    :return: pytest's exit code, -signal for a death, and what was printed.
    """
    with tempfile.TemporaryFile("w+") as printed:
        child = os.fork()
        if child == 0:
            _run_here(folder, tests, printed)
        _, status = os.waitpid(child, 0)
        printed.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "output": printed.read()}


def _run_here(folder, tests, printed):
    code = 70
    try:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        faulthandler.dump_traceback_later(SECONDS - 5)
        signal.alarm(SECONDS)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = folder
        sys.path[:] = [folder, *(entry for entry in sys.path if entry not in ("", os.getcwd()))]
        import pytest

        code = int(pytest.main([*OPTIONS, *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: what the parent has registered for its own end is not the child's to do.
        os._exit(code)


def main():
    """Serve until an empty line: the input itself may never end, a process that was forked meanwhile holds it open."""
    for name in SLOW_TO_IMPORT:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    mine = [name for name in sys.modules if name.split(".")[0] in ("sb3_ppo_notes", "tuning", "tests")]
    for name in mine:
        # The package this file lies in: a copy has a ``tests`` of its own.
        del sys.modules[name]
    for line in sys.stdin:
        if not line.strip():
            break
        request = json.loads(line)
        print(json.dumps(run(request["folder"], request["tests"])), flush=True)


if __name__ == "__main__":
    main()
