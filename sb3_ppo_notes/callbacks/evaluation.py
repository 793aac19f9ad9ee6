"""Evaluation of a policy: whole episodes in environments of their own, seen as in training, and no trace left there.

The file is long because all that evaluates (the commands, the callbacks, the search) has to mean the same by it: which
environments, behind which normalisers, under which masks, when an episode is over, and what a signal does.
"""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.evaluation import evaluate_policy
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
    sync_envs_normalization,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_ppo_notes.envs.sharded_vec_env import shards_of, wrappers_of
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_integer
from sb3_ppo_notes.policies.masks import METHOD, collect_masks
from sb3_ppo_notes.rollouts.pausing import is_stopping

#: An id, a function that makes one environment, or a VecEnv.
Environment = str | Callable[[], gym.Env] | VecEnv
#: The commands evaluate on the training's seed plus this, so that training has never seen these episodes.
EVALUATION_SEED_OFFSET = 10_000
#: An episode of an evaluation is cut after so many steps, unless the environment has a time limit of its own.
MAX_EPISODE_STEPS = 10_000
#: Attributes of environments that have one: Gymnasium's TimeLimit, and ALE, which ends a game after 108,000 frames.
TIME_LIMITS = ("_max_episode_steps", "ale")
#: Said of an episode that was cut.
CUT = (
    f"cut after MAX_EPISODE_STEPS = {MAX_EPISODE_STEPS:,} steps (sb3_ppo_notes.callbacks): the environment has no time "
    "limit, and gets one by gymnasium.wrappers.TimeLimit, or by max_episode_steps where it is registered"
)


class EvaluationStoppedError(Exception):
    """The process was asked to stop while it evaluated; nothing is known of the policy."""


class Episodes(NamedTuple):
    """Episodes of an evaluation, in the order in which they ended.

    :param returns: of each; raw reward units.
    :param lengths: of each; environment steps.
    """

    returns: list[float]
    lengths: list[int]

    @property
    def mean_return(self) -> float:
        """Mean over episodes; reward units."""
        return float(np.mean(self.returns))

    @property
    def std_return(self) -> float:
        """Standard deviation over episodes; reward units."""
        return float(np.std(self.returns))


class Evaluator:
    """Measures a policy in environments of its own: the same starts every time, raw rewards, deterministic actions.

    Each evaluation takes over the present statistics of the training's normalisers. Nothing of the training changes, no
    random number of it is drawn.

    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> from sb3_ppo_notes import NotesPPO
    >>> model = NotesPPO("MlpPolicy", make_vec_env("CartPole-v1", 2), n_steps=8, batch_size=16, device="cpu")
    >>> evaluator = Evaluator("CartPole-v1", model.env, seed=1, n_episodes=3)
    >>> evaluator.evaluate(model) == evaluator.evaluate(model)
    True

    :param env: as of :func:`own_environment`.
    :param training_env: those of the training.
    :param seed: of the first environment.
    :param n_episodes: of each evaluation, at least 1.
    :param n_envs: environments side by side, if ``env`` is no VecEnv.
    :param masks: ask the environments for action masks where they have some and the model's ``predict`` takes them.
    """

    def __init__(
        self, env: Environment, training_env: VecEnv, *, seed: int, n_episodes: int, n_envs: int = 1, masks: bool = True
    ):
        check_integer("n_episodes", n_episodes, minimum=1)
        check_integer("n_envs", n_envs, minimum=1)
        self.env = own_environment(env, training_env, seed, n_envs)
        self.training_env = training_env
        self.seed = seed
        self.n_episodes = n_episodes
        self.masks = masks

    def evaluate(self, model: Any) -> Episodes:
        """Returns and lengths of the policy's episodes as it is now.

        :param model: any on-policy model.
        :return: ``n_episodes`` of them.
        :raises EvaluationStoppedError: if the process was asked to stop.
        """
        self.env.seed(self.seed)
        synchronize_normalizers(self.training_env, self.env)
        return evaluate_episodes(model, self.env, self.n_episodes, masks=self.masks)

    def close(self) -> None:
        """Close the environments."""
        self.env.close()


def evaluate_episodes(
    model: Any, env: VecEnv, n_episodes: int, is_stopping: Callable[[], bool] = is_stopping, *, masks: bool = True
) -> Episodes:
    """Returns and lengths of whole episodes of the deterministic policy; the training does not notice.

    :param model: any on-policy model.
    :param env: other environments than those of the training.
    :param n_episodes: at least 1.
    :param is_stopping: asked before every step; if not given, whether a signal came within a ``GracefulStop``.
    :param masks: ask the environments for action masks where they have some and the model's ``predict`` takes them.
    :return: ``n_episodes`` of them.
    :raises EvaluationStoppedError: if the process was asked to stop.
    """
    with preserve_generators():
        return play_episodes(predictor(model, env) if masks else model, env, n_episodes, is_stopping)


def play_episodes(model: Any, env: VecEnv, n_episodes: int, is_stopping: Callable[[], bool] = is_stopping) -> Episodes:
    """As :func:`evaluate_episodes` of whatever has SB3's ``predict``, without masks; draws from random generators."""
    bounded = env if isinstance(env, BoundedEpisodes) else BoundedEpisodes(env, is_stopping)
    returns, lengths = evaluate_policy(
        model, bounded, n_eval_episodes=n_episodes, return_episode_rewards=True, warn=False
    )
    return Episodes(list(map(float, returns)), list(map(int, lengths)))  # type: ignore[arg-type]


class MaskableEvalCallback(EvalCallback):
    """SB3's ``EvalCallback``; in environments with ``action_masks`` no forbidden action is ever taken.

    Its arguments are SB3's. An episode that does not end is cut. A signal within a ``GracefulStop`` ends the evaluation
    and the training; a resumed run begins with that evaluation, in other episodes.
    """

    #: A signal has ended an evaluation.
    _is_due: bool = False

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if hasattr(self.model, "between_steps"):
            self.model.between_steps.append(lambda: not self._is_due or self._on_step())

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq != 0:
            return super()._on_step()
        model, env = self.model, self.eval_env
        if model.get_vec_normalize_env() is not None:
            sync_envs_normalization(shards_of(self.training_env)[0], env)
        self.model, self.eval_env = _Synchronized(_with_masks(model, env)), BoundedEpisodes(env)  # type: ignore[assignment]
        restore = remember_generators()
        self._is_due = False
        try:
            return super()._on_step()
        except EvaluationStoppedError:
            # Only then: SB3's callback leaves the training other random numbers than without it.
            restore()
            self._is_due = True
            return False
        finally:
            self.model, self.eval_env = model, env

    def evaluate(self, model: Any) -> tuple[float, float]:
        """Mean and standard deviation of the return, outside of training.

        :param model: trained with or without masks.
        :return: both; reward units.
        """
        episodes = play_episodes(_with_masks(model, self.eval_env), self.eval_env, self.n_eval_episodes)
        return episodes.mean_return, episodes.std_return


def _with_masks(model: Any, env: VecEnv) -> Any:
    return MaskedPredictor(model, env) if env.has_attr(METHOD) else model


class _Synchronized:
    """A model for SB3's ``EvalCallback``, which would compare the environments' wrappers once more, and find ours."""

    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def get_vec_normalize_env(self) -> None:
        """None that had to be looked for."""


# -- masks, and episodes that end -------------------------------------------------------------------------------------


def predictor(model: Any, env: VecEnv) -> Any:
    """The model, or what asks the environments for masks before the model's ``predict``, where both know masks."""
    is_masked = "action_masks" in signature(model.predict).parameters and env.has_attr(METHOD)
    return MaskedPredictor(model, env) if is_masked else model


class MaskedPredictor:
    """A model that asks an environment for its masks before every prediction, for SB3's ``evaluate_policy``.

    :param model: a model that was trained with ``action_masking=True``. Everything but ``predict`` is the model's own.
    :param env: the environments it is evaluated in.
    """

    def __init__(self, model: Any, env: VecEnv):
        self._model = model
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        """Actions that the environments allow, and the next state of a recurrent policy.

        :param observation: of all environments.
        :param args: as the model's ``predict``.
        :param kwargs: as the model's ``predict``.
        :return: both.
        """
        masks = collect_masks(self._env)
        result: tuple[np.ndarray, Any] = self._model.predict(observation, *args, action_masks=masks, **kwargs)
        return result


class FinishedEpisodes:
    """Returns of the episodes that end, as the environments pay: a ``Monitor``'s where there is one.

    Without a ``Monitor`` the rewards are summed as they arrive, normalised if they arrive so.

    :param env: the environments to follow, from a reset on.
    """

    def __init__(self, env: VecEnv):
        self._is_monitored = is_vecenv_wrapped(env, VecMonitor) or env.env_is_wrapped(Monitor)[0]
        self._sums = np.zeros(env.num_envs)

    def get_state(self) -> np.ndarray:
        """Sums of rewards since each episode began, ``[B]``: what a checkpoint keeps."""
        return self._sums

    def set_state(self, state: np.ndarray) -> None:
        """Go on in the middle of episodes."""
        self._sums = np.array(state)

    def end(self, index: int) -> None:
        """Begin anew in one environment, whose episode ended unseen."""
        self._sums[index] = 0.0

    def step(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns so far ``[B]`` after one more step, and where they are an episode's ``[B]``.

        ``dones`` may lie: for a Monitor the loss of a life is no end.
        """
        self._sums += rewards
        returns, finished = self._sums.copy(), np.asarray(dones, dtype=bool)
        if self._is_monitored:
            finished = np.array(["episode" in info for info in infos])
            for index in np.flatnonzero(finished):
                returns[index] = infos[index]["episode"]["r"]
        self._sums[finished] = 0.0
        return returns, finished


class BoundedEpisodes(VecEnvWrapper):
    """Environments whose episodes end: where there is no time limit after ``MAX_EPISODE_STEPS``, and with a warning.

    A VecEnv cannot reset one of its environments alone: when an episode is cut all begin anew, and the unfinished
    episodes of the others do not count. The info of an episode that was cut is a Monitor's of one that ended.
    ``is_stopping`` is asked before every step, which then raises ``EvaluationStoppedError``.
    """

    def __init__(self, venv: VecEnv, is_stopping: Callable[[], bool] = is_stopping):
        super().__init__(venv)
        self._is_stopping = is_stopping
        self._has_limit = any(venv.has_attr(name) for name in TIME_LIMITS)
        self._is_monitored = venv.env_is_wrapped(Monitor)[0]
        #: Episodes that were cut.
        self.n_cut = 0
        self._begin()

    def _begin(self) -> None:
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._episodes = FinishedEpisodes(self.venv)

    def reset(self) -> Any:
        self._begin()
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        # Before and not after it: environments in other processes would be left with an answer that nobody takes.
        if self._is_stopping():
            raise EvaluationStoppedError("the process was asked to stop")
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        returns, finished = self._episodes.step(rewards, dones, infos)
        if self._is_monitored:
            infos = self._with_ends_of_wrappers(dones, finished, returns, infos)
        self._lengths = np.where(finished, 0, self._lengths + 1)
        cut = self._lengths >= MAX_EPISODE_STEPS
        if self._has_limit or not cut.any():
            return observations, rewards, dones, infos
        if not self.n_cut:
            warnings.warn(f"an episode of the evaluation was {CUT}", UserWarning, stacklevel=2)
        infos = list(infos)
        for index in map(int, np.flatnonzero(cut)):
            # A Monitor's sum, where there is one: wrappers around it may change rewards.
            paid = np.sum(self.venv.get_attr("rewards", [index])[0]) if self._is_monitored else returns[index]
            infos[index] = infos[index] | {"episode": {"r": float(paid), "l": MAX_EPISODE_STEPS}}
        self.n_cut += int(cut.sum())
        return self.reset(), rewards, np.ones_like(dones), infos

    def _with_ends_of_wrappers(self, dones: Any, finished: np.ndarray, returns: np.ndarray, infos: Any) -> Any:
        """Infos in which an episode that a wrapper around the Monitor has ended is one that ended.

        The Monitor itself only sees that it is reset, and an evaluation would wait for its word for ever.
        """
        infos = list(infos)
        for index in map(int, np.flatnonzero(np.asarray(dones) & ~finished)):
            if self.venv.get_attr("rewards", [index])[0]:
                continue  # not reset: the loss of a life
            infos[index] = infos[index] | {"episode": {"r": float(returns[index]), "l": int(self._lengths[index]) + 1}}
            self._episodes.end(index)
            finished[index] = True
        return infos


# -- random generators, environments and normalisers of its own -------------------------------------------------------


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Give Python's, NumPy's and torch's global generators back as they were.

    An environment may draw from them, and SB3 seeds a VecEnv without a seed from NumPy's: the next minibatches of the
    training would then be others.
    """
    restore = remember_generators()
    try:
        yield
    finally:
        restore()


def remember_generators() -> Callable[[], None]:
    """A function that puts Python's, NumPy's and torch's global generators back to where they are now."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the generator that SB3 uses)
    cpu, cuda = th.get_rng_state(), th.cuda.get_rng_state_all() if th.cuda.is_initialized() else []  # type: ignore[no-untyped-call]

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        th.set_rng_state(cpu)
        th.cuda.set_rng_state_all(cuda)

    return restore


def own_environment(env: Environment, training_env: VecEnv, seed: int, n_envs: int = 1) -> VecEnv:
    """Environments beside those of the training, which show the policy what it saw there.

    Frames are stacked and images transposed as in training. Observations are normalised by copies of the training's
    statistics (see :func:`synchronize_normalizers`), which do not learn here; rewards are left as they are. Other
    wrappers of the training's VecEnv are left out: they are taken to change rewards only.

    :param env: an id or a function that makes one environment; or a VecEnv, which is taken as it is, except that its
        normalisers stop learning, and that the training's are put around it if it has none.
    :param training_env: those of the training.
    :param seed: of the first environment; never drawn from a global generator.
    :param n_envs: how many to make of an id or a function.
    :return: a VecEnv.
    :raises TypeError: if it is none of these.
    :raises ValueError: if the policy would see something else there than in training.
    """
    if isinstance(env, VecEnv):
        own = _freeze(env, training_env)
    elif isinstance(env, str) or callable(env):
        with preserve_generators():
            own = _wrap_like(DummyVecEnv([lambda: _with_monitor(env)] * n_envs), training_env)
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
        env = _copy_frozen(wrapper, env)
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


def _with_monitor(env: str | Callable[[], gym.Env]) -> gym.Env:
    made = gym.make(env) if isinstance(env, str) else env()
    # The Monitor belongs under wrappers that change rewards; whoever gives a function may have put it there.
    return made if is_wrapped(made, Monitor) else Monitor(made)


def _normalizers(env: VecEnv) -> list[VecNormalize | StreamingNormalize]:
    """From the inside to the outside."""
    return [wrapper for wrapper in wrappers_of(env)[::-1] if isinstance(wrapper, VecNormalize | StreamingNormalize)]


def _wrap_like(env: VecEnv, training_env: VecEnv) -> VecEnv:
    """The wrappers that shape observations, in the training's order. Those of rewards are left out: raw returns."""
    for wrapper in wrappers_of(training_env)[::-1]:
        if isinstance(wrapper, VecNormalize | StreamingNormalize):
            env = _copy_frozen(wrapper, env)
        elif isinstance(wrapper, VecFrameStack):
            env = VecFrameStack(env, wrapper.stacked_obs.n_stack, _channels_order(wrapper.stacked_obs))
        elif isinstance(wrapper, VecTransposeImage):
            env = VecTransposeImage(env)
    return env


def _channels_order(stacked: StackedObservations[Any]) -> Any:
    if isinstance(stacked.observation_space, spaces.Dict):
        return {key: _channels_order(part) for key, part in stacked.sub_stacked_observations.items()}
    return "first" if stacked.channels_first else "last"


def _freeze(env: VecEnv, training_env: VecEnv) -> VecEnv:
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
    is_like_training = any(isinstance(wrapper, VecTransposeImage) for wrapper in wrappers_of(training_env))
    is_transposed = is_like_training and not is_vecenv_wrapped(env, VecTransposeImage)
    return VecTransposeImage(env) if is_transposed else env


def _copy_frozen(wrapper: VecNormalize | StreamingNormalize, env: VecEnv) -> VecEnv:
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
