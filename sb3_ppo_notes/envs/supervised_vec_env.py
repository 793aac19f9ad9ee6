"""Environments in processes of their own that are watched: what breaks is named, ended, and begun again if wished."""

import multiprocessing
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.util import Finalize
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_ppo_notes.envs.restarts import RestartBudget
from sb3_ppo_notes.envs.stacking import stack_observations
from sb3_ppo_notes.envs.worker_errors import EnvWorkerError
from sb3_ppo_notes.envs.workers import Limits, Worker, stop
from sb3_ppo_notes.formulas.checks import (
    InvalidTypeError,
    InvalidValueError,
    check_choice,
    check_integer,
    check_positive,
)

#: Seconds to wait before building an environment again that has just failed to be built; doubled each time, at most so.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class SupervisedVecEnv(VecEnv):
    """SB3's ``SubprocVecEnv`` for runs that must not stop at 3 a.m.: the same values, and an answer to every fault.

    - An environment that raises, exits or is killed raises an :class:`EnvWorkerError` with its index, its own
      traceback, and the exit code or signal.
    - One that does not answer in time is killed, and named in an :class:`EnvWorkerTimeoutError`.
    - With ``restart="worker"`` it is built anew instead. What it was in the middle of is lost: the step that failed
      pays 0 and ends the episode as *truncated*, with the last observation it gave as ``terminal_observation``, so
      that the value of what would have come is bootstrapped and no false end is learned. The info says
      ``env_restarted``; the attribute :attr:`restarts` counts, NotesPPO and NotesA2C log it as
      ``notes/env_restarts``. Attributes given by ``set_attr`` are set again; what ``env_method`` changed is not.
    - What an environment raises in ``env_method`` and the like is raised here, and leaves it as it was.
    - After any other error all processes are ended. ``close()`` never raises, may be called again, and returns in time.
    - No process survives this one, however it ends. They ignore SIGINT and SIGTERM: what Ctrl-C ends is this process's
      decision.

    :param env_fns: functions that build one environment each.
    :param start_method: ``"fork"``, ``"forkserver"`` or ``"spawn"``; ``None`` for ``"forkserver"`` where there is one,
        else ``"spawn"``, as in SB3.
    :param step_timeout: seconds that a step may take, the reset at the end of an episode aside; ``None`` for ever.
    :param reset_timeout: seconds for building an environment, for a reset, and for every other call; ``None`` for ever.
    :param restart: ``"never"`` raises at the first fault, ``"worker"`` builds the environment anew.
    :param max_restarts: with ``"worker"``, how many restarts of all environments together are borne ...
    :param restart_window: ... within so many seconds; ``None`` for as long as this object lives.
    :param close_timeout: seconds that ``close()`` may take; environments that have not closed by then are killed.
    :raises EnvWorkerError: if an environment cannot be built; no process is left.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        start_method: str | None = None,
        *,
        step_timeout: float | None = 120.0,
        reset_timeout: float | None = 300.0,
        restart: str = "never",
        max_restarts: int = 20,
        restart_window: float | None = 600.0,
        close_timeout: float = 10.0,
    ):
        _check_env_fns(env_fns)
        methods = multiprocessing.get_all_start_methods()
        if start_method is None:
            start_method = "forkserver" if "forkserver" in methods else "spawn"
        check_choice("start_method", start_method, methods)
        for name in ("step_timeout", "reset_timeout", "restart_window"):
            if locals()[name] is not None:
                check_positive(name, locals()[name], words="> 0 and finite, or None")
        check_choice("restart", restart, ("never", "worker"))
        check_integer("max_restarts", max_restarts, minimum=0)
        check_positive("close_timeout", close_timeout)
        self.env_fns = list(env_fns)
        self.limits = Limits(step_timeout, reset_timeout)
        self.restart = restart
        self.budget = RestartBudget(max_restarts, restart_window)
        self.close_timeout = close_timeout
        self._context = multiprocessing.get_context(start_method)
        self._ended_by: str | None = None
        self.waiting = False
        self._workers: list[Worker] = []
        self._finalizer = Finalize(self, stop, args=(self._workers, close_timeout), exitpriority=100)
        n_envs = len(self.env_fns)
        self._set_attributes: list[dict[str, Any]] = [{} for _ in range(n_envs)]
        self._last_observations: list[Any] = [None] * n_envs
        self._first_seeds: list[int | None] = [None] * n_envs
        self._replacements: dict[int, tuple[Any, dict[str, Any], EnvWorkerError]] = {}
        try:
            for index in range(n_envs):
                self._workers.append(self._start_worker(index))
            (observation_space, action_space), *_ = [worker.receive() for worker in self._workers]
            super().__init__(n_envs, observation_space, action_space)
        except BaseException:
            self.close()
            raise

    def _start_worker(self, index: int) -> Worker:
        return Worker(self._context, index, self.env_fns[index], self.limits)

    def reset(self) -> VecEnvObs:
        self._check_open()
        broken = self._drop_step()
        for worker, seed, options in zip(self._workers, self._seeds, self._options, strict=True):
            worker.send("reset", (seed, options))
        results = []
        for index in range(self.num_envs):
            try:
                if index in broken:
                    raise broken[index]
                results.append(self._workers[index].receive())
            except EnvWorkerError as error:
                results.append(self._rebuild(index, error, self._seeds[index], self._options[index]))
        self._first_seeds = [
            new if new is not None else old for new, old in zip(self._seeds, self._first_seeds, strict=True)
        ]
        self._reset_seeds()
        self._reset_options()
        self._last_observations, self.reset_infos = [list(column) for column in zip(*results, strict=True)]
        return stack_observations(self._last_observations, self.observation_space)

    def _drop_step(self) -> dict[int, EnvWorkerError]:
        """Read the answers that nobody wants any more; what broke meanwhile, by environment."""
        broken = {}
        for worker in self._workers:
            # Ctrl-C may have come when some had answered and some had not.
            try:
                if worker.owes:
                    worker.receive()
            except EnvWorkerError as error:
                if error.kind is None:
                    broken[worker.index] = error
        self.waiting = False
        self._replacements.clear()
        return broken

    def step_async(self, actions: np.ndarray) -> None:
        self._check_open()
        if len(actions) != self.num_envs:
            raise InvalidValueError(f"actions must be one for each of {self.num_envs} environments, got {len(actions)}")
        for index, (worker, action) in enumerate(zip(self._workers, actions, strict=True)):
            # An environment that has just begun anew has nothing to do with an action for the lost one.
            if index not in self._replacements:
                worker.send("step", action)
        self.waiting = True

    def step_wait(self) -> VecEnvStepReturn:
        self._check_open()
        if not self.waiting:
            raise RuntimeError("step_wait must follow step_async, got no step that was begun")
        results = []
        for index in range(self.num_envs):
            try:
                if index not in self._replacements:
                    results.append(self._workers[index].receive())
                    continue
            except EnvWorkerError as error:
                self._replace(index, error)
            results.append(self._end_of_lost_episode(index))
        self.waiting = False
        observations, rewards, dones, infos, reset_infos = (list(column) for column in zip(*results, strict=True))
        self.reset_infos, self._last_observations = reset_infos, observations
        return stack_observations(observations, self.observation_space), np.stack(rewards), np.stack(dones), infos

    # -- what breaks ------------------------------------------------------------------------------------------

    def _replace(self, index: int, error: EnvWorkerError) -> None:
        """Replace a broken environment; its first observation is kept until the lost episode has been ended."""
        seed = self._first_seeds[index]
        if seed is not None:
            # Another one than the lost environment's: with the same it might run into the same fault for ever.
            seed = int(np.random.SeedSequence((seed, self.restarts + 1)).generate_state(1)[0])
        observation, info = self._rebuild(index, error, seed, {})
        self._replacements[index] = observation, info, error

    def _end_of_lost_episode(self, index: int) -> tuple[Any, float, bool, dict[str, Any], dict[str, Any]]:
        observation, reset_info, error = self._replacements.pop(index)
        info = {
            "env_restarted": True,
            "env_error": str(error),
            "TimeLimit.truncated": True,
            "terminal_observation": self._last_observations[index],
        }
        return observation, 0.0, True, info, reset_info

    def _rebuild(self, index: int, error: EnvWorkerError, seed: int | None, options: Any) -> Any:
        """First observation and info of an environment that takes a broken one's place."""
        pause = FIRST_PAUSE
        while True:
            self._spend_restart(index, error)
            self._workers[index].kill()
            try:
                worker = self._workers[index] = self._start_worker(index)
                worker.receive()
                for name, value in self._set_attributes[index].items():
                    worker.call("set_attr", (name, value))
                return worker.call("reset", (seed, options))
            except (EnvWorkerError, OSError) as failure:
                error = (
                    failure
                    if isinstance(failure, EnvWorkerError)
                    else EnvWorkerError(f"environment {index}: no process could be started: {failure}", index)
                )
            # A port or a lock file of the lost one may need a while to be free again.
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _spend_restart(self, index: int, error: EnvWorkerError) -> None:
        refusal = error if self.restart == "never" else self.budget.spend(index, error)
        if refusal is not None:
            self._end(refusal)

    @property
    def restarts(self) -> int:
        """Environments built anew so far."""
        return self.budget.total

    def _end(self, error: EnvWorkerError) -> NoReturn:
        """End everything: the other environments are in the middle of something nobody will wait for."""
        self.close()
        self._ended_by = str(error)
        raise error

    def _check_open(self) -> None:
        if not self._workers:
            why = "close() was called" if self._ended_by is None else self._ended_by
            raise EnvWorkerError(f"the environments are closed: {why}")

    def close(self) -> None:
        """End all processes within ``close_timeout``, by force if need be. Raises nothing; may be called again."""
        self.waiting = False
        stop(self._workers, self.close_timeout)
        self._workers.clear()

    # -- what is not a step -----------------------------------------------------------------------------------

    def _ask(self, command: str, data: Any, indices: Any) -> list[Any]:
        self._check_open()
        if self.waiting:
            raise RuntimeError(f"{command} must not come between step_async and step_wait, which is still to come")
        targets = list(self._get_indices(indices))
        for index in targets:
            self._workers[index].send(command, data)
        answers, failure = [], None
        for index in targets:
            try:
                answers.append(self._workers[index].receive())
            except EnvWorkerError as error:
                if error.kind is not None:
                    # The environment refused, and is as well as before. The others' answers are still to be read.
                    failure = failure or error
                    continue
                self._replace(index, error)
                answers.append(self._workers[index].call(command, data))
        if failure is not None:
            raise failure
        return answers

    def get_images(self) -> Sequence[np.ndarray | None]:
        if self.render_mode != "rgb_array":
            warnings.warn(f"the render mode must be 'rgb_array' for images, got {self.render_mode!r}", stacklevel=2)
            return [None] * self.num_envs
        return self._ask("render", None, None)

    def has_attr(self, attr_name: str) -> bool:
        return all(self._ask("has_attr", attr_name, None))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self._ask_by_name("get_attr", attr_name, attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._ask("set_attr", (attr_name, value), indices)
        # Also for those that will be built in their place.
        for index in self._get_indices(indices):
            self._set_attributes[index][attr_name] = value

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        return self._ask_by_name("env_method", method_name, (method_name, method_args, method_kwargs), indices)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        return self._ask("is_wrapped", wrapper_class, indices)

    def _ask_by_name(self, command: str, name: str, data: Any, indices: VecEnvIndices) -> list[Any]:
        try:
            return self._ask(command, data, indices)
        except EnvWorkerError as error:
            if error.kind == "AttributeError":
                raise AttributeError(f"{name}: {error}") from error
            raise


def _check_env_fns(env_fns: Any) -> None:
    if not isinstance(env_fns, Sequence) or not all(map(callable, env_fns)):
        raise InvalidTypeError(f"env_fns must be a list of functions that build one environment each, got {env_fns!r}")
    if not env_fns:
        raise InvalidValueError("env_fns must be at least one function, got an empty list")
