"""What callbacks need to watch without leaving a trace: environments of their own, and random generators put back."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError

#: An id, a function that makes one environment, or a VecEnv.
Environment = str | Callable[[], gym.Env] | VecEnv


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Give Python's, NumPy's and torch's global generators back as they were.

    An environment may draw from them, and SB3 seeds a VecEnv without a seed from NumPy's: the next minibatches of the
    training would then be others.

    :return: a context.
    """
    put_back = generators_put_back()
    try:
        yield
    finally:
        put_back()


def generators_put_back() -> Callable[[], None]:
    """Remember where Python's, NumPy's and torch's global generators are.

    :return: when called, they are there again.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the generator that SB3 uses)
    cpu, cuda = th.get_rng_state(), th.cuda.get_rng_state_all() if th.cuda.is_initialized() else []  # type: ignore[no-untyped-call]

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        th.set_rng_state(cpu)
        th.cuda.set_rng_state_all(cuda)

    return put_back


def own_environment(env: Environment, training_env: VecEnv, seed: int) -> VecEnv:
    """An environment beside those of the training, which shows the policy what it saw there.

    Frames are stacked and images transposed as in training. Observations are normalised by copies of the training's
    statistics (see :func:`synchronize_normalizers`), which do not learn here; rewards are left as they are. Other
    wrappers of the training's VecEnv are left out: they are taken to change rewards only.

    :param env: an id or a function that makes one environment; or a VecEnv, which is taken as it is, except that its
        normalisers stop learning, and that the training's are put around it if it has none.
    :param training_env: those of the training.
    :param seed: of the environment; never drawn from a global generator.
    :return: a VecEnv.
    :raises TypeError: if it is none of these.
    :raises ValueError: if the policy would see something else there than in training.
    """
    if isinstance(env, VecEnv):
        own = _frozen(env, training_env)
    elif isinstance(env, str) or callable(env):
        with untouched_generators():
            made = gym.make(env) if isinstance(env, str) else env()
        # The Monitor belongs under wrappers that change rewards; whoever gives a function may have put it there.
        monitored = made if is_wrapped(made, Monitor) else Monitor(made)
        own = _wrapped_like(DummyVecEnv([lambda: monitored]), training_env)
    else:
        raise InvalidTypeError(f"env must be an id, a function that makes an environment, or a VecEnv, got {env!r}")
    if own.observation_space != training_env.observation_space or own.action_space != training_env.action_space:
        raise InvalidValueError(
            f"env must have the spaces of the training environments, {training_env.observation_space} and "
            f"{training_env.action_space}, got {own.observation_space} and {own.action_space}"
        )
    own.seed(seed)
    synchronize_normalizers(training_env, own)
    return own


def with_frozen_normalizers(env: VecEnv, training_env: VecEnv | None) -> VecEnv:
    """Fresh environments that see what the policy saw in training; rewards are left as they are.

    :param env: without a normaliser.
    :param training_env: whose normalisers' settings and statistics are copied; ``None`` for none.
    :return: the fresh ones behind normalisers that no longer learn.
    """
    if training_env is None:
        return env
    for wrapper in _normalizers(training_env):
        env = _frozen_copy(wrapper, env)
    synchronize_normalizers(training_env, env)
    return env


def synchronize_normalizers(training_env: VecEnv, env: VecEnv) -> None:
    """Copy the present statistics of the training's normalisers.

    :param training_env: where they are learned; left as it is.
    :param env: an :func:`own_environment`.
    """
    for theirs, own in zip(_normalizers(training_env), _normalizers(env), strict=True):
        if isinstance(theirs, StreamingNormalize) and isinstance(own, StreamingNormalize):
            # Moments are replaced there, never changed in place.
            own.observation_moments, own.reward_moments = theirs.observation_moments, theirs.reward_moments
        elif isinstance(theirs, VecNormalize) and isinstance(own, VecNormalize):
            own.ret_rms = deepcopy(theirs.ret_rms)
            if hasattr(theirs, "obs_rms"):
                own.obs_rms = deepcopy(theirs.obs_rms)


class FinishedEpisodes:
    """Returns of the episodes that end, as the environments pay: a ``Monitor``'s where there is one.

    Without a ``Monitor`` the rewards are summed as they arrive, normalised if they arrive so.

    :param env: the environments to follow, from a reset on.
    """

    def __init__(self, env: VecEnv):
        self._is_monitored = is_vecenv_wrapped(env, VecMonitor) or env.env_is_wrapped(Monitor)[0]
        self._sums = np.zeros(env.num_envs)

    def get_state(self) -> np.ndarray:
        """What a checkpoint keeps.

        :return: ``[B]``, sums of rewards since each episode began.
        """
        return self._sums

    def set_state(self, state: np.ndarray) -> None:
        """Go on in the middle of episodes.

        :param state: of :meth:`get_state`.
        """
        self._sums = np.array(state)

    def step(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take note of one step.

        :param rewards: ``[B]``.
        :param dones: ``[B]``, where an episode ended; for a Monitor the loss of a life is no end.
        :param infos: of every environment.
        :return: returns so far ``[B]``, and where they are an episode's ``[B]``.
        """
        self._sums += rewards
        returns, finished = self._sums.copy(), np.asarray(dones, dtype=bool)
        if self._is_monitored:
            finished = np.array(["episode" in info for info in infos])
            for index in np.flatnonzero(finished):
                returns[index] = infos[index]["episode"]["r"]
        self._sums[finished] = 0.0
        return returns, finished


def _normalizers(env: VecEnv) -> list[VecNormalize | StreamingNormalize]:
    """From the inside to the outside."""
    return [wrapper for wrapper in _wrappers(env) if isinstance(wrapper, VecNormalize | StreamingNormalize)]


def _wrappers(env: VecEnv) -> list[VecEnvWrapper]:
    wrappers = []
    while isinstance(env, VecEnvWrapper):
        wrappers.append(env)
        env = env.venv
    return wrappers[::-1]


def _wrapped_like(env: VecEnv, training_env: VecEnv) -> VecEnv:
    """The wrappers that shape observations, in the training's order. Those of rewards are left out: raw returns."""
    for wrapper in _wrappers(training_env):
        if isinstance(wrapper, VecNormalize | StreamingNormalize):
            env = _frozen_copy(wrapper, env)
        elif isinstance(wrapper, VecFrameStack):
            env = VecFrameStack(env, wrapper.stacked_obs.n_stack, _channels_order(wrapper.stacked_obs))
        elif isinstance(wrapper, VecTransposeImage):
            env = VecTransposeImage(env)
    return env


def _channels_order(stacked: StackedObservations[Any]) -> Any:
    if isinstance(stacked.observation_space, spaces.Dict):
        return {key: _channels_order(part) for key, part in stacked.sub_stacked_observations.items()}
    return "first" if stacked.channels_first else "last"


def _frozen(env: VecEnv, training_env: VecEnv) -> VecEnv:
    theirs = _normalizers(training_env)
    if not _normalizers(env):
        env = with_frozen_normalizers(env, training_env)
    own = _normalizers(env)
    if [type(wrapper) for wrapper in own] != [type(wrapper) for wrapper in theirs]:
        names = [[type(wrapper).__name__ for wrapper in wrappers] for wrappers in (theirs, own)]
        raise InvalidValueError(f"env must have the normalisers of the training, {names[0]}, got {names[1]}")
    for wrapper in own:
        wrapper.training = False
        if isinstance(wrapper, VecNormalize):
            wrapper.norm_reward = False
    is_transposed = is_vecenv_wrapped(training_env, VecTransposeImage) and not is_vecenv_wrapped(env, VecTransposeImage)
    return VecTransposeImage(env) if is_transposed else env


def _frozen_copy(wrapper: VecNormalize | StreamingNormalize, env: VecEnv) -> VecEnv:
    if isinstance(wrapper, StreamingNormalize):
        return StreamingNormalize(env, wrapper.clip_observation, wrapper.clip_reward, training=False)
    return VecNormalize(
        env,
        training=False,
        norm_obs=wrapper.norm_obs,
        norm_reward=False,
        clip_obs=wrapper.clip_obs,
        gamma=wrapper.gamma,
        epsilon=wrapper.epsilon,
        norm_obs_keys=wrapper.norm_obs_keys,
    )
