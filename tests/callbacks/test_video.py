"""Videos: what is in them, that none is lost, and a training that does not notice being filmed."""

import itertools
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from matplotlib.image import imread
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import VideoCallback
from sb3_ppo_notes.callbacks import video as video_module
from sb3_ppo_notes.callbacks.video import Stage, unused_path, video_file
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from tests.callbacks.counting import CountingEnv, counting, equal_parameters

SIZES = dict(n_steps=8, batch_size=8, n_epochs=2, device="cpu", seed=3)


def filmed(**kwargs):
    return lambda: CountingEnv(render_mode="rgb_array", **kwargs)


def frames_of(path):
    """Every frame, decoded by ffmpeg."""
    with TemporaryDirectory() as folder:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-fps_mode", "passthrough"]
        subprocess.run([*command, f"{folder}/%06d.png"], check=True, stdin=subprocess.DEVNULL)
        return [np.round(255 * imread(png)).astype(int) for png in sorted(Path(folder).iterdir())]


def test_a_video_has_the_picture_before_the_first_step_and_after_each(tmp_path):
    callback = VideoCallback(filmed(length=6), tmp_path / "videos", every=16, run="red")
    PPO("MlpPolicy", counting(), **SIZES).learn(24, callback=callback)
    (path,) = (tmp_path / "videos").iterdir()
    assert path.name == "red-CountingEnv-step-000000016-episode-1.mp4"
    frames = frames_of(path)
    # The 7th is the last of the episode, not the first of the next; 33 x 47 is made even.
    assert [round(frame.mean() / 10) for frame in frames] == [0, 1, 2, 3, 4, 5, 6]
    assert frames[0].shape == (34, 48, 3)
    assert callback.episodes == [video_module.Episode(path, 6.0, 6, is_cut=False)]
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (7, pytest.approx(7 / 25))


@pytest.mark.parametrize(
    ("algorithm", "wrapper"),
    [(PPO, VecNormalize), (A2C, None), (NotesPPO, VecNormalize), (NotesPPO, StreamingNormalize), (NotesA2C, None)],
)
def test_the_training_does_not_notice_being_filmed(algorithm, wrapper, tmp_path):
    # Aggressive settings, noise that depends on the state, an environment that draws from the global generators.
    sizes = {name: SIZES[name] for name in ("n_steps", "device", "seed")} if "A2C" in algorithm.__name__ else SIZES
    settings = dict(sizes, learning_rate=1e-2, use_sde=True, sde_sample_freq=3)

    def learned(callback):
        env = counting(n_envs=2, continuous=True)
        return algorithm("MlpPolicy", wrapper(env) if wrapper else env, **settings).learn(64, callback=callback)

    callback = VideoCallback(filmed(continuous=True), tmp_path, every=30)
    alone, watched = learned(None), learned(callback)
    assert len(callback.episodes) == 2
    assert equal_parameters(alone, watched)
    if wrapper is VecNormalize:
        assert alone.get_env().obs_rms.count == watched.get_env().obs_rms.count
        assert np.array_equal(alone.get_env().obs_rms.mean, watched.get_env().obs_rms.mean)


def test_films_begin_alike_and_each_step_has_its_own_file(tmp_path):
    callback = VideoCallback("Pendulum-v1", tmp_path, every=8, n_episodes=2, run="run", max_steps=3, seed=5)
    NotesPPO("MlpPolicy", "Pendulum-v1", **SIZES).learn(16, callback=callback)
    names = [f"run-Pendulum-v1-step-{step:09d}-episode-{number}.mp4" for step in (8, 16) for number in (1, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    starts = {name: frames_of(tmp_path / name)[0] for name in names}
    assert np.array_equal(starts[names[0]], starts[names[2]])
    assert not np.array_equal(starts[names[0]], starts[names[1]])
    assert [(episode.length, episode.is_cut) for episode in callback.episodes] == [(3, True)] * 4
    assert all(episode.episode_return < 0 for episode in callback.episodes)
    assert len(frames_of(tmp_path / names[0])) == 4


def test_no_file_is_overwritten(tmp_path):
    for _ in range(2):
        callback = VideoCallback(filmed(), tmp_path, every=8, run="same")
        PPO("MlpPolicy", counting(), **SIZES).learn(8, callback=callback)
    stem = "same-CountingEnv-step-000000008-episode-1"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{stem}-2.mp4", f"{stem}.mp4"]
    assert unused_path(tmp_path / f"{stem}.mp4").name == f"{stem}-3.mp4"
    # Without a name of its own, a run is called after the time and the process.
    assert str(video_module.os.getpid()) in VideoCallback(filmed(), tmp_path, every=8).run


def test_an_environments_name_with_a_slash_makes_no_folder(tmp_path):
    gym.register("Space/Count-v0", entry_point=CountingEnv)
    try:
        callback = VideoCallback("Space/Count-v0", tmp_path, every=8, run="run")
        PPO("MlpPolicy", counting(), **SIZES).learn(8, callback=callback)
    finally:
        gym.registry.pop("Space/Count-v0")
    assert [path.name for path in tmp_path.iterdir()] == ["run-Space-Count-v0-step-000000008-episode-1.mp4"]


def test_a_life_that_ends_no_game_ends_no_video(tmp_path):
    class Lives(gym.Wrapper):
        """An end for the agent every second step; a reset goes on with the game, as Atari's wrapper does."""

        is_over = True

        def reset(self, **kwargs):
            return self.env.reset(**kwargs) if self.is_over else (np.zeros(2, np.float32), {})

        def step(self, action):
            observation, reward, self.is_over, truncated, info = self.env.step(action)
            return observation, 100 * reward, self.is_over or self.unwrapped.steps % 2 == 0, truncated, info

    from stable_baselines3.common.monitor import Monitor

    model = PPO("MlpPolicy", counting(), **SIZES)
    stage = Stage(lambda: Lives(Monitor(filmed(length=7)())), model.get_env(), seed=0)
    episode = stage.film(model, tmp_path / "game.mp4", seed=0)
    assert (episode.length, episode.episode_return, episode.is_cut) == (7, 7.0, False)
    assert len(frames_of(episode.path)) == 8
    # A game that was cut is not gone on with.
    cut, anew = (stage.film(model, tmp_path / f"{name}.mp4", 0, max_steps=3) for name in ("cut", "anew"))
    assert (cut.episode_return, anew.episode_return, anew.is_cut) == (3.0, 3.0, True)
    assert [round(frame.mean() / 10) for frame in frames_of(anew.path)] == [0, 1, 2, 3]


def test_return_and_length_are_logged(tmp_path, capsys):
    model = PPO("MlpPolicy", counting(), **SIZES)
    logged = {}
    callback = VideoCallback(filmed(), tmp_path, every=8, run="run", verbose=1)
    callback._on_rollout_end = lambda: logged.update(model.logger.name_to_value)
    model.learn(8, callback=callback)
    assert (logged["notes/video/return"], logged["notes/video/length"]) == (5.0, 5)
    assert "episode-1.mp4 (return 5.0, 5 steps)" in capsys.readouterr().out


def test_a_film_goes_on_after_the_steps_that_were_trained_before(tmp_path):
    model = PPO("MlpPolicy", counting(), **SIZES).learn(24)
    callback = VideoCallback(filmed(), tmp_path, every=20, run="run")
    model.learn(24, callback=callback, reset_num_timesteps=False)
    assert [path.name[:21] for path in tmp_path.iterdir()] == ["run-CountingEnv-step-"]
    assert "000000040" in next(tmp_path.iterdir()).name


# -- what can go wrong -----------------------------------------------------------------------------------------


def broken_after_a_frame(path, error=None):
    with video_file(path, 30) as add_frame:
        for _ in range(2):
            add_frame(np.zeros((16, 16, 3), np.uint8))
        assert not path.exists() or path.read_text() == "old"
        if error is not None:
            raise error


def test_a_video_is_complete_or_not_there(tmp_path):
    with pytest.raises(RuntimeError, match="the environment broke"):
        broken_after_a_frame(tmp_path / "half.mp4", RuntimeError("the environment broke"))
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_breaks_leaves_the_old_one_alone(tmp_path):
    (tmp_path / "old.mp4").write_text("old")
    with pytest.raises(RuntimeError, match="the environment broke"):
        broken_after_a_frame(tmp_path / "old.mp4", RuntimeError("the environment broke"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_video_that_ffmpeg_could_not_write_to_its_end_is_no_video(tmp_path, monkeypatch):
    real = imageio_ffmpeg.count_frames_and_secs
    monkeypatch.setattr(video_module.imageio_ffmpeg, "count_frames_and_secs", lambda path: (real(path)[0] - 1, 0.0))
    with pytest.raises(OSError, match="1 of 2 frames are there"):
        broken_after_a_frame(tmp_path / "cut.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    model = PPO("MlpPolicy", counting(), **SIZES)
    monkeypatch.setattr(video_module.imageio_ffmpeg, "write_frames", full)
    with pytest.warns(UserWarning, match=r"no video at step 16: .*No space left on device"):
        model.learn(24, callback=VideoCallback(filmed(), tmp_path, every=16))
    assert model.num_timesteps == 24
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (lambda: CountingEnv(), "env must have the render_mode 'rgb_array' to be filmed, got None"),
        (lambda: Blind(render_mode="rgb_array"), r"env must render pictures \[height, width, 3\] to be filmed"),
        ("Pendulum-v1", "env must have the spaces of the training environments"),
    ],
)
def test_what_cannot_be_filmed_is_refused_when_training_starts(env, words, tmp_path):
    model = PPO("MlpPolicy", counting(), **SIZES)
    with pytest.raises(ValueError, match=words):
        model.learn(8, callback=VideoCallback(env, tmp_path / "videos", every=8))
    assert not (tmp_path / "videos").exists()


class Blind(CountingEnv):
    def render(self):
        return None


@pytest.mark.parametrize("name", ["every", "n_episodes", "max_steps"])
def test_bad_numbers_are_refused(name, tmp_path):
    for bad, error in itertools.product([0, -1], [ValueError]):
        with pytest.raises(error, match=f"{name} must be an int >= 1, got {bad}"):
            VideoCallback("CartPole-v1", tmp_path, **{"every": 8} | {name: bad})
    with pytest.raises(TypeError, match="env must be an id or a function"):
        VideoCallback(counting(), tmp_path, every=8)
