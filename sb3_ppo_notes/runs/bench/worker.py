"""One arm of a benchmark: a program that builds a model and trains it when it is told to.

It is run by its path, by an interpreter that need not know this package, so it imports only the standard library until
it is told what to measure. Requests and answers are JSON objects, one a line, on the standard input and output that it
was started with; whatever a library prints goes to the standard error.
"""

import importlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from typing import Any, TextIO

#: Batches of actions drawn before the clock starts.
DRAWN_ACTIONS = 256
#: Time to end for a program that trains for nobody any more.
SECONDS_TO_END = 1.0
#: What several processes do together.
TOGETHER = ("build", "floor", "learn")
VERSIONED = ("sb3_ppo_notes", "stable_baselines3", "sb3_contrib", "sbx", "torch", "jax", "gymnasium", "numpy", "mujoco")
PINNED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC", "XLA_FLAGS")


class TimedGroup:
    """A group of processes, and the seconds that this one has spent in exchanges: waiting for the others included."""

    def __init__(self, group: Any):
        self.group, self.rank, self.size, self.seconds = group, group.rank, group.size, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.group, name)

    def gather_vectors(self, vector: Any) -> Any:
        """The group's own."""
        return self._time(self.group.gather_vectors, vector)

    def gather(self, value: Any) -> Any:
        """The group's own."""
        return self._time(self.group.gather, value)

    def _time(self, function: Any, argument: Any) -> Any:
        started = time.perf_counter()
        result = function(argument)
        self.seconds += time.perf_counter() - started
        return result


class Subject:
    """An algorithm with its environments, to be measured.

    :param spec: ``module`` and ``class`` of the algorithm, its ``policy`` and further ``arguments``, ``env``,
        ``n_envs``, ``vec_env`` (``"dummy"``, ``"lean"`` or ``"vector"``), ``seed``, ``device``, ``import_from``: a
        folder to find packages in, or ``None``; ``imports``, ``env_kwargs`` and ``env_wrapper`` as in configurations;
        and ``processes``, which train it together.
    """

    def __init__(self, spec: dict[str, Any]):
        self.spec = spec
        self.model: Any = None
        self.floor_env: Any = None
        self.drawn_actions: list[Any] = []
        self.group: TimedGroup | None = None
        self.n_envs = spec["n_envs"] // spec.get("processes", 1)

    def load(self) -> dict[str, Any]:
        """Import the libraries, with one thread; their versions, and what says that there is one thread."""
        if self.spec["import_from"]:
            sys.path.insert(0, self.spec["import_from"])
        import torch

        torch.set_num_threads(1)
        for module in (self.spec["module"], *self.spec["imports"]):
            importlib.import_module(module)
        if self.spec.get("processes", 1) > 1:
            self._join()
        versions = {"python": sys.version.split()[0]}
        for name in VERSIONED:
            if name in sys.modules:
                versions[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
        threads = {name: os.environ.get(name) for name in PINNED}
        return {"versions": versions, "threads": {"torch": torch.get_num_threads(), **threads}}

    def _join(self) -> None:
        """Become one of several processes; the first starts the others."""
        import socket

        if "RANK" not in os.environ:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            size = str(self.spec["processes"])
            os.environ |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "RANK": "0"}
            os.environ["MASTER_PORT"] = port
            for rank in range(1, int(size)):
                command = [sys.executable, os.path.realpath(__file__), json.dumps(self.spec)]
                subprocess.Popen(command, env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        self.group = TimedGroup(importlib.import_module("sb3_ppo_notes.processes").join_group("auto"))

    def together(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Call a method in all processes, or in the only one."""
        if self.group is not None and command in TOGETHER:
            self.group.gather((command, arguments))
        return getattr(self, command)(**arguments)  # type: ignore[no-any-return]

    def follow(self) -> None:
        """Do what the first process is told to, for as long as there is one."""
        while self.group is not None:
            command, arguments = self.group.gather(None)[0]
            getattr(self, command)(**arguments)

    def build(self) -> dict[str, Any]:
        """Make the model, and the environments that the floor is measured with; seconds for the first of them."""
        import numpy as np

        started = time.perf_counter()
        algorithm = getattr(importlib.import_module(self.spec["module"]), self.spec["class"])
        arguments = {"seed": self.spec["seed"], "device": self.spec["device"], **self.spec["arguments"]}
        if self.group is not None:
            arguments["processes"] = self.group
        self.model = algorithm(self.spec["policy"], self._environments(), **arguments)
        seconds = time.perf_counter() - started
        self.floor_env = self._environments()
        space = self.floor_env.action_space
        space.seed(self.spec["seed"])
        for _ in range(DRAWN_ACTIONS):
            self.drawn_actions.append(np.array([space.sample() for _ in range(self.n_envs)]))
        self.floor_env.reset()
        return {"seconds": seconds}

    def floor(self, steps: int) -> dict[str, Any]:
        """Step environments of the same kind with random actions and do nothing else."""
        n = -(-steps // self.spec["n_envs"])
        started = time.perf_counter()
        for i in range(n):
            self.floor_env.step(self.drawn_actions[i % DRAWN_ACTIONS])
        return {"steps": n * self.spec["n_envs"], "seconds": time.perf_counter() - started}

    def learn(self, steps: int) -> dict[str, Any]:
        """Train on: steps, seconds on the clock, seconds of all threads' processor time, and what ran."""
        if self.group is not None:
            self.group.seconds = 0.0
        steps_before, cpu_before, started = self.model.num_timesteps, time.process_time(), time.perf_counter()
        self.model.learn(steps, reset_num_timesteps=False)
        return {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu_before,
            "steps": self.model.num_timesteps - steps_before,
            "exchange_seconds": None if self.group is None else self.group.seconds,
            **self._execution(),
        }

    def _execution(self) -> dict[str, str | None]:
        """The executor of the last update's steps, and the engine's report; of a peer nothing is known."""
        engine = getattr(self.model, "engine", None)
        if engine is None:
            return {"ran_as": None, "report": None}
        report = engine.report()
        names = dict.fromkeys(execution.name for execution in report.steps.values())
        return {"ran_as": "/".join(names), "report": str(report)}

    def evaluate(self, episodes: int, seed: int) -> dict[str, Any]:
        """Mean and deviation of the return of deterministic episodes in a fresh environment."""
        import numpy as np

        from sb3_ppo_notes.callbacks.evaluation import play_episodes

        env = self._environments(n_envs=1, seed=seed, vec_env="dummy")
        returns, _ = play_episodes(self.model, env, episodes)
        env.close()
        return {"mean": float(np.mean(returns)), "std": float(np.std(returns)), "episodes": episodes}

    def _environments(self, **others: Any) -> Any:
        from stable_baselines3.common.env_util import make_vec_env

        spec = {**self.spec, "n_envs": self.n_envs, **others}
        env, n_envs, seed, env_kwargs = spec["env"], spec["n_envs"], spec["seed"], spec["env_kwargs"]
        if spec["vec_env"] == "vector":
            module = importlib.import_module("sb3_ppo_notes.envs.vector_env")
            return module.make_gymnasium_vec(env, n_envs, seed, **env_kwargs)
        options = {"wrapper_class": self._wrap, "env_kwargs": env_kwargs}
        if spec["vec_env"] == "lean":
            options["vec_env_cls"] = importlib.import_module("sb3_ppo_notes.envs.lean_vec_env").LeanVecEnv
        return make_vec_env(env, n_envs=n_envs, seed=seed, **options)

    def _wrap(self, env: Any) -> Any:
        for item in self.spec["env_wrapper"]:
            [(path, kwargs)] = item.items() if isinstance(item, dict) else [(item, {})]
            module, _, name = path.rpartition(".")
            env = getattr(importlib.import_module(module), name)(env, **kwargs)
        return env


def main() -> None:
    """Answer requests until there are no more; or follow a process that does."""
    # As ``python -m`` has it. The folder of this file must go: its modules would be taken for libraries of their names.
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [os.getcwd(), *(path for path in sys.path if os.path.realpath(path) != here)]
    if len(sys.argv) > 1:
        follower = Subject(json.loads(sys.argv[1]))
        follower.load()
        follower.follow()
    requests, answers = _private_streams()
    pending: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, pending), daemon=True).start()
    arm: Any = None
    for line in iter(pending.get, ""):
        request = json.loads(line)
        command = request.pop("command")
        try:
            if command == "load":
                arm = Subject(request.pop("spec"))
            answer = arm.load() if command == "load" else arm.together(command, **request)
        except Exception as error:
            traceback.print_exc()
            of_environment = _environment_error(error)
            answer = {
                "error": of_environment or f"{type(error).__name__}: {error}",
                "by_environment": of_environment is not None,
            }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _environment_error(error: Exception) -> str | None:
    """The environment's own error in one line, ``None`` if it is none of an environment's."""
    path = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "envs", "errors.py")
    spec = importlib.util.spec_from_file_location("environment_errors", path)
    module: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    line: str | None = module.environment_error(error)
    return line


def _private_streams() -> tuple[TextIO, TextIO]:
    """Keep the pipes for the protocol; give libraries an empty input, and the error stream to print to."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return requests, answers


def _read(requests: TextIO, pending: "queue.SimpleQueue[str]") -> None:
    """Pass requests on. When there are no more, nobody waits for an answer: the program ends, even amid training."""
    for line in requests:
        pending.put(line)
    pending.put("")
    time.sleep(SECONDS_TO_END)
    os._exit(1)


if __name__ == "__main__":
    main()
