"""An environment's own process: it answers one command after the other, and never outlives its parent."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from sb3_ppo_notes.envs.errors import message_of
from sb3_ppo_notes.envs.rewards import check_reward

#: First words of a message to the parent.
DONE, RAISED, RESETTING = "done", "raised", "resetting"
PR_SET_PDEATHSIG = 1
#: Seconds between two looks at whether the parent is still there.
WATCH_INTERVAL = 1.0


def serve(
    connection: Connection,
    env_fn: CloudpickleWrapper,
    inherited: Sequence[Connection],
    dies_with_thread: bool,
    parent_pid: int | None,
) -> None:
    """Build an environment, then obey until told to close or the parent is gone.

    :param inherited: the parent's ends of connections, which a forked process holds too; closed here, since a
        connection whose other end is open somewhere never reports an end.
    :param dies_with_thread: the system may kill this process with the *thread* that started it.
    :param parent_pid: of the process that started this one; ``None`` if that is the fork server.
    """
    for other in inherited:
        other.close()
    _stay_with_parent(dies_with_thread, parent_pid or os.getppid())
    try:
        env = _patch_env(env_fn.var())
        answer = DONE, (env.observation_space, env.action_space)
    except BaseException as error:
        _tell(connection, _description(error))
        return
    if not _tell(connection, answer):
        return
    _obey(connection, env)


def _obey(connection: Connection, env: gym.Env) -> None:
    reset_info: dict[str, Any] = {}
    while True:
        try:
            command, data = connection.recv()
        except (EOFError, OSError):
            return
        if command == "close":
            env.close()
            return
        try:
            if command == "step":
                answer, reset_info = _step(connection, env, data, reset_info)
            else:
                answer = COMMANDS[command](env, data)
                if command == "reset":
                    reset_info = answer[1]
        except BaseException as error:
            # sys.exit() in an environment ends no training either.
            is_there = _tell(connection, _description(error))
        else:
            is_there = _tell(connection, (DONE, answer))
        if not is_there:
            return


def _step(connection: Connection, env: gym.Env, action: Any, reset_info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    observation, reward, terminated, truncated, info = env.step(action)
    check_reward(reward)
    done = terminated or truncated
    info["TimeLimit.truncated"] = truncated and not terminated
    if done:
        info["terminal_observation"] = observation
        # A reset may take long and has a time limit of its own.
        connection.send((RESETTING, None))
        observation, reset_info = env.reset()
    return (observation, reward, done, info, reset_info), reset_info


def _reset(env: gym.Env, data: Any) -> Any:
    seed, options = data
    return env.reset(seed=seed, **({"options": options} if options else {}))


def _has_attr(env: gym.Env, name: str) -> bool:
    try:
        env.get_wrapper_attr(name)
    except AttributeError:
        return False
    return True


def _env_method(env: gym.Env, data: Any) -> Any:
    name, args, kwargs = data
    return env.get_wrapper_attr(name)(*args, **kwargs)


#: As SB3's workers answer the same words.
COMMANDS: dict[str, Callable[[gym.Env, Any], Any]] = {
    "reset": _reset,
    "render": lambda env, data: env.render(),
    "env_method": _env_method,
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "has_attr": _has_attr,
    "set_attr": lambda env, data: setattr(env, *data),
    "is_wrapped": is_wrapped,
}


def _tell(connection: Connection, message: Any) -> bool:
    """Send a message; ``False`` if nobody is there any more to send to."""
    try:
        connection.send(message)
    except (BrokenPipeError, ConnectionResetError):
        return False
    except Exception as error:
        # Pickled before a byte is sent: what cannot be pickled has not left yet.
        connection.send(_description(error))
    return True


def _description(error: BaseException) -> tuple[str, tuple[str, str, str]]:
    # As text: the exception itself might not be picklable, or not importable over there.
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return RAISED, (type(error).__name__, message_of(error), text)


def _stay_with_parent(dies_with_thread: bool, parent_pid: int) -> None:
    """End with the parent, however that ends, and not before it."""
    parent = multiprocessing.parent_process()
    for name in ("SIGINT", "SIGTERM"):
        # Ctrl-C and schedulers signal the whole group. What is to happen is the parent's decision: it may want to
        # finish the step and save. A function, because programs that the environment starts would inherit SIG_IGN.
        signal.signal(getattr(signal, name), _leave_it_to_the_parent)
    if hasattr(os, "setpgid"):
        # A group of its own, so that programs the environment has started can be killed with it.
        os.setpgid(0, 0)
    if dies_with_thread and sys.platform.startswith("linux"):
        # The only way that also ends a process which hangs in C code and lets no other thread run.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sentinel = None if parent is None else parent.sentinel
    threading.Thread(target=_watch, args=(parent_pid, sentinel), name="parent-watch", daemon=True).start()


def _watch(parent_pid: int, sentinel: Any) -> None:
    # The sentinel ends with the process that holds its other end; a forked sibling may hold it too, and then the
    # changed parent tells.
    while os.getppid() == parent_pid:
        if sentinel is None:
            threading.Event().wait(WATCH_INTERVAL)
        elif wait([sentinel], WATCH_INTERVAL):
            break
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _leave_it_to_the_parent(number: int, frame: Any) -> None:
    """Do nothing."""
