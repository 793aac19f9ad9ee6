"""What vectorised environments do to observations before the policy sees them, as modules; and the frames that a
caller has to stack.

A file takes observations as the environment itself gives them: statistics and the order of an image's axes are inside.
Only frames are stacked outside, because a file remembers nothing: it takes them as they are, side by side.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)
from torch import nn

from sb3_ppo_notes.envs.sharded_vec_env import wrappers_around
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.formulas.normalization import streaming_std

#: Of an observation that is no dictionary.
OBSERVATION = "observation"


class Frames(NamedTuple):
    """Frames side by side: n of them along an axis of the batch, the newest last.

    :param before: what stands for the frames before an episode's first; one frame, or one number.
    """

    n: int
    axis: int
    before: np.ndarray


class Observation(NamedTuple):
    """One input of a policy: an observation, or one entry of a dictionary of them.

    :param space: of what the environment itself gives.
    :param shape: of the input without its batch: the space's, of all frames.
    :param steps: from the input to what the policy saw in training.
    """

    name: str
    space: spaces.Space[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    frames: Frames | None
    steps: nn.Sequential


class Transpose(nn.Module):
    """Images ``[N, height, width, channels]`` as ``[N, channels, height, width]``."""

    def forward(self, images: th.Tensor) -> th.Tensor:
        return images.permute(0, 3, 1, 2)


class Normalize(nn.Module):
    """Observations in standard deviations from the mean, clipped; computed in float64, as NumPy does.

    :param missing: is normalised to zero, the mean as exactly as the observation's own type can tell it; ``None`` where
        no frames are stacked.
    """

    mean: th.Tensor
    std: th.Tensor
    missing: th.Tensor | None

    def __init__(self, mean: np.ndarray, std: np.ndarray, clip: float, missing: np.ndarray | None):
        super().__init__()
        self.register_buffer("mean", th.as_tensor(mean, dtype=th.float64))
        self.register_buffer("std", th.as_tensor(std, dtype=th.float64))
        self.register_buffer("missing", None if missing is None else th.as_tensor(missing))
        self.clip = clip

    def forward(self, observations: th.Tensor) -> th.Tensor:
        centred = observations.double() - self.mean
        if self.missing is not None:
            centred = centred.masked_fill(observations == self.missing, 0.0)
        return (centred / self.std).clamp(-self.clip, self.clip).float()


def observations_of(env: VecEnv) -> list[Observation]:
    """The inputs of a policy that learned in these environments."""
    wrappers = wrappers_around(env)[::-1]  # from the inside to the outside
    for wrapper in wrappers:
        is_known = isinstance(wrapper, VecTransposeImage | VecNormalize | StreamingNormalize | VecFrameStack)
        if not is_known and wrapper.observation_space != wrapper.venv.observation_space:
            raise InvalidValueError(
                "model must have environments whose observations are changed by VecNormalize, StreamingNormalize, "
                f"VecFrameStack and VecTransposeImage only, to be exported; got {type(wrapper).__name__}"
            )
    if sum(isinstance(wrapper, VecFrameStack) for wrapper in wrappers) > 1:
        raise InvalidValueError("model must have environments with one VecFrameStack at most to be exported, got two")
    space = wrappers[0].venv.observation_space if wrappers else env.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    return [_observation(name, part, wrappers) for name, part in parts.items()]


def _observation(name: str, space: spaces.Space[Any], wrappers: list[VecEnvWrapper]) -> Observation:
    stack: Any = next((wrapper for wrapper in wrappers if isinstance(wrapper, VecFrameStack)), None)
    stacked = None if stack is None else stack.stacked_obs
    stacked = getattr(stacked, "sub_stacked_observations", {name: stacked})[name]
    n = 1 if stacked is None else stacked.n_stack
    is_stacked = [wrapper is stack for wrapper in wrappers]
    is_first_of_stack = _is_transposed(name, wrappers[: is_stacked.index(True)]) if stack is not None else False

    def axis(is_transposed: bool) -> int:
        """Of the frames: an image that is transposed on its way to the stack has its channels last before."""
        if stacked is None or is_transposed != is_first_of_stack:
            return -1
        return 1 if stacked.channels_first else -1

    dtype, before = np.dtype(space.dtype or np.float32), np.zeros((), space.dtype)
    steps: list[nn.Module] = []
    for index, wrapper in enumerate(wrappers):
        is_transposed = _is_transposed(name, wrappers[:index])
        statistics = _statistics(name, wrapper)
        if statistics is not None and stack is not None and not any(is_stacked[:index]):
            # Statistics of one frame, for all that lie side by side.
            if any(isinstance(step, Normalize) for step in steps):
                raise InvalidValueError("model must have one normaliser at most before its frames are stacked")
            dtype = dtype if dtype.kind == "f" else np.dtype(np.float32)
            mean, std, clip = statistics
            before = (mean.transpose(1, 2, 0) if is_transposed else mean).astype(dtype)
            mean, std = (np.concatenate([part] * n, axis=_of_frame(axis(is_transposed))) for part in (mean, std))
            steps.append(Normalize(mean, std, clip, mean.astype(dtype)))
        elif statistics is not None:
            steps.append(Normalize(*statistics, None))
        elif _is_transposed(name, [wrapper]):
            steps.append(Transpose())
    shape = list(space.shape or ())
    frames = None if stacked is None else Frames(n, axis(False), before)
    if frames is not None:
        shape[_of_frame(frames.axis)] *= n
    return Observation(name, space, tuple(shape), dtype, frames, nn.Sequential(*steps))


def _of_frame(axis: int) -> int:
    """An axis of a batch as one of a frame."""
    return axis if axis < 0 else axis - 1


def _is_transposed(name: str, wrappers: Iterable[VecEnvWrapper]) -> bool:
    transposing = [wrapper for wrapper in wrappers if isinstance(wrapper, VecTransposeImage) and not wrapper.skip]
    return any(name in getattr(wrapper, "image_space_keys", (name,)) for wrapper in transposing)


def _statistics(name: str, wrapper: VecEnvWrapper) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Mean, deviation and clip of a normaliser, ``None`` where it leaves this observation as it is."""
    if isinstance(wrapper, StreamingNormalize):
        moments = wrapper.observation_moments
        return np.asarray(moments.mean), np.asarray(streaming_std(moments)), wrapper.clip_observation
    if not isinstance(wrapper, VecNormalize) or not wrapper.norm_obs:
        return None
    statistics = wrapper.obs_rms.get(name) if isinstance(wrapper.obs_rms, dict) else wrapper.obs_rms
    if statistics is None:
        return None
    return statistics.mean, np.sqrt(statistics.var + wrapper.epsilon), wrapper.clip_obs


class FrameBuffer:
    """The last frames of each environment, as a file wants them."""

    def __init__(self, observation: Observation, n_envs: int):
        self.frames = observation.frames
        self.dtype = observation.dtype
        self.shape = (n_envs, *observation.shape)
        self.stacked = np.zeros(self.shape, self.dtype)

    def push(self, observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The input after one more observation of each environment; where an episode starts there are none before."""
        if self.frames is None:
            return observations.astype(self.dtype).reshape(self.shape)
        n, axis, before = self.frames
        missing = before if before.ndim == 0 else np.concatenate([before] * n, axis=_of_frame(axis))
        before_now = self.stacked.copy()  # the caller may keep what he got
        before_now[starts] = missing
        kept = np.split(before_now, [observations.shape[axis]], axis=axis)[1]
        self.stacked = np.concatenate([kept, observations.astype(self.dtype)], axis=axis)
        return self.stacked
