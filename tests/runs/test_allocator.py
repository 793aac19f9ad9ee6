"""Processes of our own commands keep the memory that they free; a user's program is left as it is."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
#: 200 MB, more than any tensor that glibc would keep by itself, are asked for and freed: does the heap stay as large?
PROBE = """
import contextlib, ctypes, io, sys, types
from sb3_ppo_notes.allocator import keep_freed_memory

def probe(*_):
    library = ctypes.CDLL(None)
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    library.free.argtypes, library.sbrk.argtypes = [ctypes.c_void_p], [ctypes.c_ssize_t]
    before = library.sbrk(0)
    library.free(library.malloc(ctypes.c_size_t(200_000_000)))
    with open("kept", "w") as file:
        file.write(str(library.sbrk(0) - before >= 100_000_000))
"""
COMMAND = """
from sb3_ppo_notes.__main__ import main
sys.argv = ["sb3_ppo_notes", "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main({arguments})
probe()
"""
COMPARE = """
from pathlib import Path
from sb3_ppo_notes.runs.compare import run
run.perform = lambda *_: probe() or {"status": run.FINISHED}
run.write_record = lambda *_: None
run.main(types.SimpleNamespace(path="run.json"), Path(), types.SimpleNamespace(send=None))
"""
STUDY = """
from tuning.worker import processes
processes.Worker = lambda *_: types.SimpleNamespace(work=probe)
with contextlib.suppress(SystemExit):
    processes.worker_main(types.SimpleNamespace(storage="sqlite:///study.db", study="study"), ())
"""
KEPT = {
    "asked for": "keep_freed_memory()\nprobe()",
    "a command": COMMAND.format(arguments=""),
    "a run of compare": COMPARE,
    "a worker of a study": STUDY,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library"),
]


def keeps_memory(program, folder, **environment):
    others = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    result = subprocess.run(
        [sys.executable, "-c", PROBE + program],
        cwd=folder,
        env=others | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return (folder / "kept").read_text() == "True"


@pytest.mark.parametrize("program", KEPT.values(), ids=KEPT)
def test_a_process_of_ours_keeps_what_it_frees(program, tmp_path):
    assert keeps_memory(program, tmp_path)


@pytest.mark.parametrize("program", ["probe()", COMMAND.format(arguments="['--help']")], ids=["plain", "a command"])
def test_a_users_process_is_left_as_it_is(program, tmp_path):
    assert not keeps_memory(program, tmp_path)


def test_what_the_user_has_set_stays(tmp_path):
    assert not keeps_memory(KEPT["asked for"], tmp_path, MALLOC_TRIM_THRESHOLD_="131072")
