"""Videos of the deterministic policy, made without the training noticing, none over another."""

import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes._atomic import replaced
from sb3_ppo_notes.callbacks.evaluation import (
    MAX_EPISODE_STEPS,
    own_environment,
    predictor,
    preserve_generators,
    synchronize_normalizers,
)
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_integer


@dataclass(frozen=True)
class Episode:
    """One episode that was filmed.

    :param path: the mp4; one frame before the first step and one after each.
    :param episode_return: sum of the raw rewards; reward units.
    :param length: steps of the policy: where a wrapper repeats actions, fewer than the environment's.
    :param is_cut: it was ended by the longest length that was asked for.
    """

    path: Path
    episode_return: float
    length: int
    is_cut: bool


class VideoCallback(BaseCallback):
    """Films the deterministic policy every so many steps.

    It has an environment of its own, with copies of the training's normalisers, and gives all random generators back as
    they were: the weights are, bit for bit, those of a training without it. Files are called
    ``RUN-ENVIRONMENT-step-000010000-episode-1.mp4``, and no file is ever overwritten. Return and length of the last
    episode are logged as ``notes/video/return`` and ``notes/video/length``.

    A film that cannot be written (a full disk) is warned of; the training goes on. A signal waits for its end.

    :param env: id of an environment, or a function that makes one whose ``render_mode`` is ``"rgb_array"``.
    :param folder: for the files; made when the first one is.
    :param every: environment steps of the training, of all environments together, between two films.
    :param n_episodes: episodes filmed each time, a file each.
    :param run: the run's name, first word of the files' names; ``None`` for the time and the process.
    :param seed: of the first episode each time, so that the films are of the same beginnings; the next ones count up.
    :param max_steps: an episode is cut after so many.
    :param verbose: 1 prints the names of the files.
    """

    #: Of several processes the first has it alone.
    is_of_one_process = True

    def __init__(
        self,
        env: str | Callable[[], gym.Env],
        folder: str | Path,
        every: int,
        *,
        n_episodes: int = 1,
        run: str | None = None,
        seed: int = 0,
        max_steps: int = MAX_EPISODE_STEPS,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        for name, value in (("every", every), ("n_episodes", n_episodes), ("max_steps", max_steps)):
            check_integer(name, value, minimum=1)
        check_integer("seed", seed, minimum=0)
        if not (isinstance(env, str) or callable(env)):
            raise InvalidTypeError(f"env must be an id or a function that makes an environment, got {env!r}")
        self.folder = Path(folder)
        self.every = every
        self.n_episodes = n_episodes
        self.max_steps = max_steps
        self.run = run or f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
        #: Films so far, the oldest first.
        self.episodes: list[Episode] = []
        self._env, self._seed = env, seed
        self._stage: Stage | None = None

    def _on_training_start(self) -> None:
        if self._stage is None:
            self._stage = Stage(self._env, self.training_env, self._seed)
        self._last_count = self.num_timesteps // self.every

    def _on_step(self) -> bool:
        if self.num_timesteps // self.every > self._last_count:
            self._last_count = self.num_timesteps // self.every
            try:
                self._film()
            except OSError as error:
                warnings.warn(f"no video at step {self.num_timesteps}: {error}", stacklevel=2)
        return True

    def close(self) -> None:
        """Close its environment, after the last training."""
        if self._stage is not None:
            self._stage.env.close()

    def _film(self) -> None:
        assert self._stage is not None  # since training started
        self.folder.mkdir(parents=True, exist_ok=True)
        synchronize_normalizers(self.training_env, self._stage.env)
        for number in range(self.n_episodes):
            stem = f"{self.run}-{self._stage.name}-step-{self.num_timesteps:09d}-episode-{number + 1}"
            path = unused_path(self.folder / f"{file_name(stem)}.mp4")
            episode = self._stage.film(self.model, path, self._seed + number, self.max_steps)
            self.episodes.append(episode)
            self.logger.record("notes/video/return", episode.episode_return)
            self.logger.record("notes/video/length", episode.length)
            if self.verbose >= 1:
                print(f"video: {path} (return {episode.episode_return:.1f}, {episode.length} steps)")


class Stage:
    """An environment to film in, beside those of the training; what shapes their observations shapes them here.

    :param env: id of an environment, or a function that makes one whose ``render_mode`` is ``"rgb_array"``.
    :raises ValueError: if the environment cannot be rendered.
    """

    def __init__(self, env: str | Callable[[], gym.Env], training_env: VecEnv, seed: int):
        render_headless()
        self._make, self._training_env, self._seed = env, training_env, seed
        self._set_up()
        spec = self._filmed.spec
        #: The environment's id, or the name of its class.
        self.name: str = spec.id if spec is not None else type(self._filmed.unwrapped).__name__
        self.fps = float(self._filmed.metadata.get("render_fps") or 30)
        with preserve_generators():
            self.env.reset()
            self._filmed.picture()  # to find out now whether it can

    def _set_up(self) -> None:
        self.env = own_environment(self._make_env, self._training_env, self._seed)

    def _make_env(self) -> gym.Env:
        make = self._make
        made = gym.make(make, render_mode="rgb_array") if isinstance(make, str) else make()
        if made.render_mode != "rgb_array":
            raise InvalidValueError(f"env must have the render_mode 'rgb_array' to be filmed, got {made.render_mode!r}")
        self._filmed = _Filmed(made)
        return self._filmed

    def film(self, model: BaseAlgorithm, path: Path, seed: int, max_steps: int = MAX_EPISODE_STEPS) -> Episode:
        """Film one episode of the deterministic policy, cut after ``max_steps``; nothing of the model changes."""
        with preserve_generators(), video_file(path, self.fps) as add_frame:
            episode = self._play(model, path, seed, max_steps, add_frame)
        if episode.is_cut:
            # Atari's wrapper goes on with an unfinished game after a reset; a new environment does not.
            self.env.close()
            self._set_up()
        return episode

    def _play(
        self, model: BaseAlgorithm, path: Path, seed: int, max_steps: int, add_frame: Callable[[np.ndarray], None]
    ) -> Episode:
        env, acting, filmed = self.env, predictor(model, self.env), self._filmed
        env.seed(seed)
        observations, states = env.reset(), None
        starts = np.ones(1, dtype=bool)
        add_frame(filmed.picture())
        # The camera is within the environment: the VecEnv has begun the next episode when its step returns.
        filmed.camera = add_frame
        try:
            for length in range(1, max_steps + 1):
                actions, states = acting.predict(observations, states, starts, deterministic=True)
                observations, _, starts, infos = env.step(actions)
                # A Monitor's word counts: the loss of a life ends no game.
                if "episode" in infos[0]:
                    return Episode(path, float(infos[0]["episode"]["r"]), length, is_cut=False)
        finally:
            filmed.camera = None
        return Episode(path, float(np.sum(env.get_attr("rewards")[0])), length, is_cut=True)  # the Monitor's


class _Filmed(gym.Wrapper):
    """Hands a picture to the camera after each step."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.camera: Callable[[np.ndarray], None] | None = None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        if self.camera is not None:
            self.camera(self.picture())
        return result

    def picture(self) -> np.ndarray:
        rendered = self.env.render()
        if not (isinstance(rendered, np.ndarray) and rendered.ndim == 3 and rendered.shape[2] == 3):
            raise InvalidValueError(f"env must render pictures [height, width, 3] to be filmed, got {type(rendered)}")
        return rendered


@contextmanager
def video_file(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """An mp4 (H.264) that is there once it is complete, from a function of frames ``[height, width, 3]``, 0 to 255."""
    writer: Any = None
    n_frames = 0

    with replaced(path) as beside:

        def add_frame(frame: np.ndarray) -> None:
            nonlocal writer, n_frames
            height, width = frame.shape[0] % 2, frame.shape[1] % 2
            if height or width:  # H.264 wants even sides
                frame = np.pad(frame, [(0, height), (0, width), (0, 0)], mode="edge")
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = imageio_ffmpeg.write_frames(str(beside), size, fps=fps, macro_block_size=2, quality=7)
                writer.send(None)
            writer.send(np.ascontiguousarray(frame, dtype=np.uint8))
            n_frames += 1

        try:
            yield add_frame
        finally:
            if writer is not None:
                writer.close()
        _check_complete(beside, n_frames)


def _check_complete(path: Path, n_frames: int) -> None:
    """Count the frames: ffmpeg says nothing when it cannot write to the end, as on a full disk."""
    try:
        count = imageio_ffmpeg.count_frames_and_secs(str(path))[0] if n_frames else 0
    except RuntimeError:
        count = 0
    if count != n_frames or not n_frames:
        raise OSError(f"the video could not be written: {count} of {n_frames} frames are there")


def unused_path(path: Path) -> Path:
    """The path, or where there is a file the first one with a number after its stem, from 2 on, where there is none."""
    number, unused = 2, path
    while unused.exists():
        unused = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return unused


def file_name(text: str) -> str:
    """Text as a part of a file's name: one ``-`` for each run of other characters than letters, digits and ``._-``.

    >>> file_name("ALE/Pong-v5")
    'ALE-Pong-v5'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "unnamed"


def render_headless() -> None:
    """Let pygame and MuJoCo render where there is no display, unless the user has said how.

    Both read the process's environment variables when an environment is made.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")
