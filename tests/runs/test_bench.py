"""``bench``: the numbers and where they come from, the programs it starts, how it fails. No test asserts a real speed."""

import itertools
import json
import os
import shlex
import signal
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes._atomic import write_whole
from sb3_ppo_notes.runs.bench import command as bench
from sb3_ppo_notes.runs.bench import process as bench_process
from sb3_ppo_notes.runs.bench.arms import HYPERPARAMETERS, Arm, peer_arm
from sb3_ppo_notes.runs.bench.process import WorkerError, start_workers
from sb3_ppo_notes.runs.bench.report import bench_table, draw_bars, footnotes
from sb3_ppo_notes.runs.bench.results import train_all
from sb3_ppo_notes.runs.bench.rounds import Round, Summary, measure, summarize

TINY = ["--n-envs", "2", "--n-steps", "16", "--batch-size", "16", "--n-epochs", "1", "--total-timesteps", "60"]
TINY += ["--rounds", "3", "--n-eval-episodes", "2", "--ours", "notes"]

# CartPole that prints, with Python and behind Python's back, and breaks after BREAKS_AFTER steps.
#: What the command tells every program of an environment and a model.
COMMON = {
    **{"env": "CartPole-v1", "n_envs": 2, "policy": "MlpPolicy", "seed": 0, "device": "cpu"},
    **{"imports": [], "env_kwargs": {}, "env_wrapper": []},
}
ENVIRONMENTS = """
import os
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Chatty(CartPoleEnv):
    def __init__(self, breaks_after=10**9, render_mode=None):
        super().__init__()
        self.left = breaks_after
    def step(self, action):
        print('{"seconds": 1, "steps": 1}')
        os.write(1, b"not json at all\\n")
        assert "" == input_of_nobody(), "standard input must be empty"
        self.left -= 1
        if not self.left:
            raise RuntimeError("the pole broke\\nin two")
        return super().step(action)

def input_of_nobody():
    return os.read(0, 1).decode()

gym.register("Chatty-v0", entry_point=Chatty, max_episode_steps=20)
gym.register("Breaking-v0", entry_point=Chatty, kwargs=dict(breaks_after=20))
"""


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environments")
    (folder / "chatty_environments.py").write_text(ENVIRONMENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        yield


@pytest.fixture(scope="module")
def benchmark(environments, tmp_path_factory):
    """One benchmark of two arms on an environment that prints: exit code, folder, what was printed, the document."""
    outdir = tmp_path_factory.mktemp("out") / "bench"
    with pytest.MonkeyPatch.context() as patch:
        printed = outdir.parent / "printed"
        with printed.open("w") as file:
            patch.setattr(sys, "stdout", file)
            code = main(["bench", "--env", "chatty_environments:Chatty-v0", *TINY, "--outdir", str(outdir)])
    return code, outdir, printed.read_text(), json.loads((outdir / "bench.json").read_text())


def test_every_arm_and_round_is_in_the_file(benchmark):
    code, outdir, _, document = benchmark
    assert code == 0
    assert sorted(path.name for path in outdir.iterdir()) == ["bench.json", "bench.png"]
    assert (outdir / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert list(document["arms"]) == ["sb3", "notes"]
    assert document["reference"] == "sb3"
    assert sorted((turn["arm"], turn["number"]) for turn in document["rounds"]) == [
        (arm, number) for arm in ("notes", "sb3") for number in range(4)
    ]
    # 60 steps asked for are two whole rollouts of 16 steps of 2 environments.
    assert {turn["steps"] for turn in document["rounds"]} == {64}
    for arm in document["arms"].values():
        assert arm["summary"]["total_steps"] == 256
        assert arm["threads"]["torch"] == 1
        assert arm["threads"]["OMP_NUM_THREADS"] == arm["threads"]["NPROC"] == "1"
        assert arm["versions"]["stable_baselines3"]
        assert arm["build_seconds"] > 0
        assert arm["evaluation"]["episodes"] == 2
    assert [arm["summary"]["ran_as"] for arm in document["arms"].values()] == [None, "eager"]
    assert all("fewer than" in turn["report"] for turn in document["rounds"] if turn["arm"] == "notes")
    assert document["hyperparameters"] == {"n_steps": 16, "batch_size": 16, "n_epochs": 1}
    assert document["machine"]["usable_processors"] >= 1


def test_both_arms_learn_the_same_so_that_only_the_speed_differs(benchmark):
    *_, document = benchmark
    assert document["arms"]["sb3"]["evaluation"] == document["arms"]["notes"]["evaluation"]


def test_arms_take_turns_and_never_overlap(benchmark):
    *_, document = benchmark
    turns = document["rounds"]
    assert [turn["arm"] for turn in turns] == ["sb3", "notes", "notes", "sb3", "sb3", "notes", "notes", "sb3"]
    for turn, following in itertools.pairwise(turns):
        assert turn["started"] < turn["ended"] <= following["started"]
        assert turn["seconds"] < turn["ended"] - turn["started"]


def test_numbers_of_the_file_follow_from_its_rounds(benchmark):
    *_, document = benchmark
    speeds = {
        arm: [turn["steps"] / turn["seconds"] for turn in document["rounds"] if turn["arm"] == arm and turn["number"]]
        for arm in document["arms"]
    }
    for arm, entry in document["arms"].items():
        summary = entry["summary"]
        median = statistics.median(speeds[arm])
        assert summary["steps_per_second"] == pytest.approx(median)
        assert summary["ratio"] == pytest.approx(median / statistics.median(speeds["sb3"]))
        assert summary["floor_steps_per_second"] > summary["steps_per_second"] > 0


@pytest.mark.slow
def test_two_processes_are_a_row_of_their_own_and_their_exchange_is_shown(tmp_path, capsys):
    options = [*TINY, "--processes", "1,2", "--peers", "sb3", "--outdir", str(tmp_path)]
    assert main(["bench", "--env", "CartPole-v1", *options]) == 0
    document = json.loads((tmp_path / "bench.json").read_text())
    assert list(document["arms"]) == ["sb3", "notes", "notes ×2"]
    assert "notes ×2:" in capsys.readouterr().out
    of_two = [each for each in document["rounds"] if each["arm"] == "notes ×2"]
    assert {each["steps"] for each in of_two} == {64}  # as many as one process makes
    assert all(0 < each["exchange_seconds"] < each["seconds"] for each in of_two)
    assert {each["exchange_seconds"] for each in document["rounds"] if each["arm"] != "notes ×2"} == {None}


def test_the_table_fits_and_the_command_is_complete(benchmark):
    _, outdir, printed, document = benchmark
    assert all(len(line) <= 100 for line in printed.splitlines() if "written" not in line)
    assert "not json at all" not in printed
    words = shlex.split(document["command"])
    assert words[:4] == ["python", "-m", "sb3_ppo_notes", "bench"]
    assert words[words.index("--outdir") + 1] == str(outdir)
    assert {"--seed", "--ours", "--peers", "--policy", "--algo", "--no-cold-compile"} <= set(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (64, "sb3: env 'Breaking-v0': RuntimeError: the pole broke in two (chatty_environments.py:16, in step)"),
        ("many", "sb3: TypeError: "),
    ],
)
def test_an_environments_error_is_one_line_and_any_other_shows_its_traceback(steps, said, environments):
    common = COMMON | {"env": "chatty_environments:Breaking-v0", "n_envs": 1, "arguments": {"n_steps": 64}}
    arm = peer_arm("sb3", "ppo", None, common)
    with start_workers([arm], {}) as workers:
        workers["sb3"].receive()
        workers["sb3"].ask("build")
        with pytest.raises(WorkerError) as raised:
            workers["sb3"].ask("learn", steps=steps)
    assert str(raised.value).startswith(said)
    assert ("Traceback (most recent call last)" in str(raised.value)) == (steps == "many")


def test_an_arm_that_fails_is_exit_code_2_and_writes_nothing(tmp_path, capsys, monkeypatch):
    def failing(*arguments):
        raise WorkerError("sb3: RuntimeError: the pole broke")

    monkeypatch.setattr(bench, "train_all", failing)
    assert main(["bench", "--outdir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: sb3: RuntimeError: the pole broke\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_compiles_is_trained_with_an_empty_cache_and_again_from_it(tmp_path, monkeypatch):
    (tmp_path / "pretended_library.py").write_text(
        "import os, time, pathlib\n"
        "from types import SimpleNamespace as Of\n"
        "from stable_baselines3 import PPO as StockPPO\n"
        "class PPO(StockPPO):\n"
        "    def __init__(self, *args, compile, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        self.engine = Of(report=lambda: Of(steps={'both': Of(name='compiled')}))\n"
        "    def learn(self, *args, **kwargs):\n"
        "        code = pathlib.Path(os.environ['TORCHINDUCTOR_CACHE_DIR'], 'code')\n"
        "        if not code.exists():\n"
        "            code.mkdir(parents=True)\n"
        "            time.sleep(3)\n"
        "        return super().learn(*args, **kwargs)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    arguments = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "compile": True}
    common = COMMON | {"arguments": arguments}
    spec = {"module": "pretended_library", "class": "PPO", "vec_env": "dummy", "import_from": None, **common}
    arm = Arm("pretended", sys.executable, spec)
    assert arm.compiles
    results = train_all([arm], 1, 32, {"episodes": 1, "seed": 1}, True, lambda arm, number: None)
    assert results.cold["pretended"]["seconds"] > 3 > results.rounds[0].seconds
    summary = results.summaries()["pretended"]
    assert summary.cold_compile_seconds > summary.compile_seconds
    assert results.document()["arms"]["pretended"]["cold_warm_up"]["steps"] == 32
    assert summary.ran_as == "compiled"


# --- numbers ----------------------------------------------------------------------------------------------------------


def turn(arm, number, seconds, steps=100, floor=1000.0, ran_as=None):
    return Round(number, arm, 0.0, 1.0, steps, seconds, 0.5 * seconds, floor, ran_as)


def test_summary_by_hand():
    ours = [turn("ours", 0, 9.0), turn("ours", 1, 1.0), turn("ours", 2, 0.5), turn("ours", 3, 2.0)]
    peer = [turn("peer", 0, 4.0), turn("peer", 1, 4.0), turn("peer", 2, 5.0), turn("peer", 3, 2.0)]
    summary = summarize(ours + peer, "ours", "peer", cold_seconds=21.0)
    assert summary.steps_per_second == 100.0  # the median of 100, 200, 50
    assert summary.ratio == 4.0  # over the median of 25, 20, 50
    assert (summary.lowest_ratio, summary.highest_ratio) == (1.0, 10.0)  # 100/25, 200/20, 50/50
    assert summary.share_of_floor == 0.1
    assert summary.compile_seconds == 8.0  # 9 s, of which 100 steps at 100 steps/s are 1 s
    assert summary.cold_compile_seconds == 20.0
    assert summary.total_steps == 400
    assert summary.seconds_to_total == 12.0  # 9 s and 300 steps at 100 steps/s
    assert summary.cold_seconds_to_total == 24.0
    assert summary.cores == 0.5
    assert summary.share_of_exchange is None
    exchanging = [replace(each, exchange_seconds=each.seconds * 0.1 * each.number) for each in ours]
    assert summarize(exchanging + peer, "ours", "peer").share_of_exchange == pytest.approx(0.2)  # of 0.1, 0.2 and 0.3
    of_peer = summarize(ours + peer, "peer", "peer")
    assert (of_peer.ratio, of_peer.lowest_ratio, of_peer.highest_ratio) == (1.0, 1.0, 1.0)
    assert of_peer.cold_compile_seconds is None


@pytest.mark.parametrize(
    ("ran_as", "shown"),
    [
        (("eager", "recorded", "recorded"), "eager, recorded"),  # the first round began with the warm-up's executor
        (("recorded", "recorded", "recorded"), "recorded"),
        (("recorded", "eager", "recorded"), "recorded, eager"),
        (("recorded/eager", "recorded/eager", "recorded/eager"), "recorded/eager"),  # actor and critic of their own
        ((None, None, None), None),
    ],
)
def test_a_row_is_called_recorded_only_if_all_of_it_was(ran_as, shown):
    rounds = [turn("notes", number, 1.0, ran_as=name) for number, name in enumerate(ran_as)]
    assert summarize(rounds, "notes", "notes").ran_as == shown


class Pretended:
    """Trains at a given speed, without training."""

    def __init__(self, steps_per_second, warm_up_seconds=0.0, ran_as=None):
        self.steps_per_second, self.extra, self.asked = steps_per_second, warm_up_seconds, []
        self.ran_as = ran_as

    def ask(self, command, steps):
        self.asked.append((command, steps))
        seconds = steps / self.steps_per_second
        if command == "floor":
            return {"steps": steps, "seconds": seconds / 10}
        seconds, self.extra = seconds + self.extra, 0.0
        told = {"ran_as": self.ran_as, "report": f"steps {self.ran_as} (a reason)"}
        return {"steps": steps, "seconds": seconds, "cpu_seconds": seconds, **told}


def test_an_arm_three_times_slower_shows_a_third():
    workers = {"fast": Pretended(600.0), "slow": Pretended(200.0, warm_up_seconds=5.0), "middle": Pretended(300.0)}
    told = []
    rounds = measure(workers, rounds=3, steps=100_000, tell=lambda arm, number: told.append((number, arm)))
    slow = summarize(rounds, "slow", "fast")
    assert slow.ratio == pytest.approx(1 / 3)
    assert slow.lowest_ratio == slow.highest_ratio == pytest.approx(1 / 3)
    assert slow.share_of_floor == pytest.approx(0.1)
    assert slow.compile_seconds == pytest.approx(5.0)
    # Each round, another one begins; the environments alone are measured right before the training.
    assert [arm for number, arm in told if number < 3] == [
        *("fast", "slow", "middle"),
        *("slow", "middle", "fast"),
        *("middle", "fast", "slow"),
    ]
    assert workers["slow"].asked == 4 * [("floor", 16_384), ("learn", 100_000)]


@pytest.mark.parametrize("ran_as", ["eager", "recorded", "compiled/eager", None])
def test_a_row_that_did_not_run_as_it_is_called_is_refused_after_the_warm_up(ran_as):
    workers = {"sb3": Pretended(100.0), "notes+compile": Pretended(300.0, ran_as=ran_as)}
    with pytest.raises(ValueError, match=f"got 'notes.compile', which is not compiled here: steps {ran_as} "):
        measure(workers, 3, 100, lambda arm, number: None, promises={"notes+compile": "compiled"})
    assert len(workers["notes+compile"].asked) == 2
    workers["notes+compile"].ran_as = "compiled"
    rounds = measure(workers, 1, 100, lambda arm, number: None, promises={"notes+compile": "compiled"})
    assert summarize(rounds, "notes+compile", "sb3").ran_as == "compiled"


@pytest.mark.slow
def test_what_cannot_be_compiled_is_no_row_of_a_benchmark_and_writes_nothing(tmp_path, capsys):
    small = [*TINY[:-2], "--policy", "MlpLstmPolicy", "--peers", "sb3-contrib", "--outdir", str(tmp_path / "out")]
    assert main(["bench", *small, "--ours", "notes+compile"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ours must run as it is called, got 'notes+compile', which is not compiled here: ")
    assert "a policy with memory" in line
    assert not (tmp_path / "out").exists()
    assert main(["bench", *small]) == 0
    document = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert list(document["arms"]) == ["sb3-contrib", "notes"]
    assert document["arms"]["notes"]["summary"]["ran_as"] == "eager"
    assert document["arms"]["sb3-contrib"]["summary"]["ran_as"] is None


def test_footnotes_say_what_differs_and_what_cannot_be_trusted():
    rounds = [turn("sbx", number, 1.0) for number in range(3)]
    summaries = {"sbx": summarize(rounds, "sbx", "sbx")}
    text = "\n".join(footnotes(summaries, rounds=2, n_eval_episodes=20, load=3.0))
    assert "no orthogonal initialisation" in text
    assert "sbx got 0.50 of a core" in text
    assert "not idle" in text
    assert "instead of DummyVecEnv" not in text
    busy = {"sbx": replace(summaries["sbx"], cores=1.9)}
    busy["notes+vector+compile"] = busy["sbx"]
    text = "\n".join(footnotes(busy, rounds=2, n_eval_episodes=20, load=None))
    assert "notes+vector+compile steps Gymnasium's own vector environment instead of DummyVecEnv." in text
    assert "1.90 cores busy" in text
    shared = {"notes ×2": replace(summaries["sbx"], share_of_exchange=0.4)}
    text = "\n".join(footnotes(shared, rounds=2, n_eval_episodes=20, load=None))
    assert "40 % of its time its first process exchanged" in text
    assert "of a core" not in text  # it waits for the others


@pytest.mark.parametrize("floor", [30_000.0, 296_700.0])
def test_wide_numbers_fit_and_are_drawn(floor, tmp_path):
    from rich.console import Console

    summary = Summary(25_000.0, 11.9, 11.5, 12.4, floor, 0.8, 1.9, 1_572_864, 1564.8, 1.0, 21.7, 1584.6, "compiled")
    summaries = {"sb3": summary, "notes+vector+compile": summary}
    table = bench_table(summaries, {arm: {"mean": -1234.5, "std": 234.5} for arm in summaries}, "a title")
    console = Console(width=100, record=True, file=(tmp_path / "printed").open("w"))
    with console.file:
        console.print(table)
    lines = console.export_text().splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert any(
        "compiled" in line and "21.7/1.9" in line and "1584.6" in line and "-1234.5 ±234.5" in line for line in lines
    )
    draw_bars(summaries, "a title", tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text("old")

    def write_half(beside):
        beside.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, write_half)
    assert path.read_text() == "old"
    write_whole(path, lambda beside: beside.write_text("new"))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("bench.json", "new")]


# --- programs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Makes the worker program one that does what a test says."""

    def become(program):
        (tmp_path / "program.py").write_text(program)
        monkeypatch.setattr(bench_process.bench_worker, "__file__", str(tmp_path / "program.py"))
        monkeypatch.setattr(bench_process, "SECONDS_TO_END", 0.2)
        return Arm("pretended", sys.executable, {})

    return become


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_program_that_dies_is_reported_with_its_last_words(pretend):
    arm = pretend("import sys; sys.stdin.readline(); print('out of memory', file=sys.stderr); sys.exit(3)")
    with pytest.raises(WorkerError) as raised, start_workers([arm], {}) as workers:
        workers["pretended"].receive()
    assert str(raised.value) == "pretended ended with exit code 3 at 'load'; the last it said:\n  out of memory"


def test_a_killed_program_is_reported(pretend):
    arm = pretend("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with start_workers([arm], {}) as workers:
        time.sleep(0.2)
        with pytest.raises(WorkerError, match="pretended was ended by signal 9 at 'load'"):
            workers["pretended"].receive()
        # It is gone, and asking it for more is no other error.
        with pytest.raises(WorkerError, match="at 'learn'"):
            workers["pretended"].ask("learn", steps=1)


def test_an_error_is_one_line_where_building_fails_and_has_a_traceback_later(pretend):
    arm = pretend(
        "import sys, json\n"
        "print('Traceback of it', file=sys.stderr, flush=True)\n"
        "for line in sys.stdin: print(json.dumps({'error': 'ValueError: no such\\nthing'}), flush=True)"
    )
    with start_workers([arm], {}) as workers:
        with pytest.raises(WorkerError, match=r"^pretended: ValueError: no such$"):
            workers["pretended"].receive()
        # Where training breaks, the message may not be enough.
        with pytest.raises(
            WorkerError, match=r"^pretended: ValueError: no such; the last it said:\n  Traceback of it$"
        ):
            workers["pretended"].ask("learn", steps=1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_nothing_is_left_running_after_an_interrupt(pretend):
    arm = pretend(
        "import json, os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print(json.dumps({'pids': [os.getpid(), child.pid]}), flush=True)\n"
        "time.sleep(600)"
    )
    pids = []

    def interrupted():
        with start_workers([arm, replace(arm, name="second")], {}) as workers:
            pids.extend(pid for worker in workers.values() for pid in worker.receive()["pids"])
            assert all(is_running(pid) for pid in pids)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 4
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in pids if is_running(pid)]


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_write_nothing_and_say_so(end, code, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "train_all", lambda *_: os.kill(os.getpid(), end))
    assert main(["bench", "--outdir", str(tmp_path / "out")]) == code
    assert capsys.readouterr().err.startswith("interrupted")
    assert not (tmp_path / "out").exists()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--rounds", "0"], "rounds must be an int >= 1, got 0"),
        (["--n-envs", "0"], "n_envs must be an int >= 1, got 0"),
        (["--n-eval-episodes", "0"], "n_eval_episodes must be an int >= 1, got 0"),
        (["--seed", "-1"], "seed must be an int >= 0, got -1"),
        (["--device", "gpu"], "device must be cpu, or a GPU of this machine, got 'gpu': Expected one of cpu"),
        (["--device", "meta"], "device must be cpu, or a GPU of this machine, got 'meta': it holds no numbers"),
        (["--device", "cuda:77"], "device must be cpu, or a GPU of this machine, got 'cuda:77': "),
        (["--env", "CartPoel-v1"], "env must be the id of a registered environment, got 'CartPoel-v1'"),
        (
            ["--env", "CartPole-v7"],
            "env must be the id of a registered environment, got 'CartPole-v7': Environment version",
        ),
        (["--env", "nowhere:Some-v0"], "env 'nowhere:Some-v0': ModuleNotFoundError: No module named 'nowhere'"),
        (["--policy", "Mlp"], "policy must be a class or one of MlpPolicy"),
        (["--peers", "sb3,sbz"], "peers must be one of 'sb3', 'sb3-contrib', 'sbx', got 'sbz'"),
        (["--peers", ","], "peers must be names separated by commas out of sb3, sb3-contrib, sbx, got ','"),
        (["--ours", "fast"], "ours must be one of 'notes', 'notes+compile'"),
        (["--peers", "sb3-contrib"], "peers must be one of 'sb3', 'sbx' for ppo with MlpPolicy, got 'sb3-contrib'"),
        (["--algo", "a2c", "--peers", "sbx"], "peers must be one of 'sb3' for a2c with MlpPolicy, got 'sbx'"),
        (["--policy", "MlpLstmPolicy"], "peers must be one of 'sb3-contrib' for recurrent ppo"),
        (["--policy", "MlpLstmPolicy", "--algo", "a2c"], "policy must be one without memory (no peer has recurrent"),
        (["--total-timesteps", "100"], "total_timesteps must be an int >= 16384 (one rollout: 2048 steps of 8"),
        (["--n-steps", "4"], "batch_size must be at most the rollout of n_steps * n_envs = 32 steps, got 64"),
        (["--processes", "0,2"], "processes must be numbers separated by commas, got '0,2'"),
        (["--processes", "3"], "n_envs must be a multiple of 3 processes, got 8"),
        (["--batch-size", "0"], "batch_size must be an int >= 1, got 0"),
        (["--algo", "a2c", "--n-epochs", "2"], "n_epochs must not be given with algo a2c, which has none, got 2"),
        (["--peer-python", "/nowhere/python"], "peer_python must be a Python interpreter, got /nowhere/python"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "train_all", None)  # nothing may be started
    assert main(["bench", *arguments, "--outdir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_peer_says_which_option_helps(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sbx", None)  # as not installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "--peers", "sbx"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: peers: sbx needs the package sbx-rl")
    assert "--peer-python" in error
    # An interpreter that has it neither; it stands in for one with its own packages.
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    assert main(["bench", "--peers", "sbx", "--peer-python", str(tmp_path / "python")]) == 2
    assert capsys.readouterr().err.startswith("error: peer_python must be an interpreter that has the package sbx-rl")


def test_outdir_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("keep me")
    for outdir in (tmp_path / "file", tmp_path / "file" / "inside"):
        assert main(["bench", "--outdir", str(outdir)]) == 2
        assert capsys.readouterr().err.startswith("error: outdir must be a folder to write to, got")
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 65_536),  # 4 rollouts of 2048 steps of 8 environments
        ({"n_envs": 1}, 8_192),
        ({"algo": "a2c"}, 8_200),  # 205 rollouts of 40
        ({"policy": "MlpLstmPolicy"}, 8_192),
        ({"total_timesteps": 16_385}, 32_768),
    ],
)
def test_a_round_is_whole_rollouts(options, steps):
    assert bench.Bench(**options)._steps() == steps


def test_every_arm_is_given_the_defaults_of_the_peers_by_name():
    import inspect

    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import A2C, PPO

    for kind, algorithm in (("ppo", PPO), ("a2c", A2C), ("recurrent ppo", RecurrentPPO)):
        parameters = inspect.signature(algorithm.__init__).parameters
        assert HYPERPARAMETERS[kind] == {name: parameters[name].default for name in HYPERPARAMETERS[kind]}
        # What is left out is the same for ours: NotesPPO's and NotesA2C's defaults are stock's.
        assert {"n_steps", "batch_size", "n_epochs"} & set(parameters) == set(HYPERPARAMETERS[kind])
