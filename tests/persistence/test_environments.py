"""What environments remember, and what is said where they cannot be asked. Rows 29 and 30."""

import json
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import StopWhenAllSucceeded
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.persistence import Restorable, load_checkpoint
from sb3_ppo_notes.persistence.callback_state import capture_callbacks, restore_callbacks
from sb3_ppo_notes.persistence.environments import capture_environments, check_environments, restore_environments
from sb3_ppo_notes.persistence.revival import Revival
from sb3_ppo_notes.persistence.snapshot import Snapshot
from sb3_ppo_notes.rollouts import SupervisedVecEnv
from tests.persistence.cases import SMALL, TOTAL, assert_equal, cart_poles, run_to


class Piece:
    def __init__(self):
        self.position = np.zeros(2)


class Board(gym.Env):
    """Remembers in many ways: objects of its own, the same object twice, queues, an array that is a view."""

    observation_space, action_space = spaces.Box(-9, 9, (2,)), spaces.Discrete(2)

    def __init__(self):
        self.noise = np.random.RandomState(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pieces = [Piece(), Piece()]
        self.current = self.pieces[0]
        self.past = deque(maxlen=3)
        self.steps = 0
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action):
        self.steps += 1
        self.current.position += self.np_random.normal(size=2) + self.noise.rand()
        self.current = self.pieces[(self.pieces.index(self.current) + action) % 2]
        self.past.append(self.current.position.copy())
        observation = np.clip(np.mean(self.past, axis=0), -9, 9).astype(np.float32)
        return observation, float(observation.sum()), self.steps == 11, False, {}


class OwnWord(gym.Env):
    """Its state is in an object that nobody can look into; it says itself what it is."""

    observation_space, action_space = spaces.Box(0, 99, (1,)), spaces.Discrete(2)

    def __init__(self):
        self.hidden = iter(())

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        self.hidden = iter(range(20))
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.count = next(self.hidden)
        return np.array([self.count], dtype=np.float32), 1.0, self.count == 13, False, {}

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]
        self.hidden = iter(range(self.count + 1, 20))


class Speechless(OwnWord):
    get_state = None


def walk(env, n_steps, generator):
    rows = []
    for _ in range(n_steps):
        env_actions = np.array([generator.choice(4) % env.action_space.n for _ in range(env.num_envs)])
        observations, rewards, dones, _ = env.step(env_actions)
        rows.append((observations, rewards, dones))
    return rows


def halves(build, n_steps=40):
    """The second half of a walk, and the same in another environment that was told what the first remembers."""
    env = build()
    env.seed(5)
    env.reset()
    generator = np.random.default_rng(0)
    walk(env, n_steps, generator)
    snapshot = Snapshot()
    held = capture_environments(env, snapshot)
    state = generator.bit_generator.state
    expected = walk(env, n_steps, generator)
    other = build()
    other.reset()
    problems = restore_environments(other, held, Revival(snapshot.arrays), None)
    generator.bit_generator.state = state
    return expected, walk(other, n_steps, generator) if not problems else None, problems


def assert_same(walks):
    expected, found, problems = walks
    assert problems == []
    for row, other in zip(expected, found, strict=True):
        for one, two in zip(row, other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "build",
    [
        lambda: make_vec_env(Board, 2),
        lambda: make_vec_env(OwnWord, 2),
        lambda: DummyVecEnv([lambda: gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))] * 2),
        lambda: make_vec_env("Acrobot-v1", 2),
        lambda: make_vec_env("MountainCar-v0", 2),
        lambda: VecNormalize(VecFrameStack(make_vec_env("CartPole-v1", 2), 3)),
    ],
    ids=["objects", "own word", "statistics", "acrobot", "mountain car", "normalised stack"],
)
def test_a_walk_goes_on_as_it_would_have(build):
    assert_same(halves(build))


def test_a_class_of_this_package_may_have_moved_to_another_module_since():
    def build():
        env = StreamingNormalize(DummyVecEnv([Board] * 2))
        env.reset()
        return env

    def old(node):
        return json.loads(json.dumps(node).replace("sb3_ppo_notes.envs.wrappers", "sb3_ppo_notes.rollouts.wrappers"))

    env, snapshot = build(), Snapshot()
    env.step(np.zeros(2, dtype=int))
    captured = capture_environments(env, snapshot)
    assert old(captured) != captured
    check_environments(build(), old(captured))
    assert restore_environments(build(), old(captured), Revival(snapshot.arrays), None) == []
    callback = StopWhenAllSucceeded()
    callback.succeeded = np.array([True, False])
    (entry,) = capture_callbacks(callback, snapshot)
    entry["class"] = "sb3_ppo_notes.callbacks.elsewhere.StopWhenAllSucceeded"
    again = StopWhenAllSucceeded()
    assert restore_callbacks(again, [entry], Revival(snapshot.arrays)) == []
    assert again.succeeded.tolist() == [True, False]
    with pytest.raises(ValueError, match="env must be built as in the checkpoint to resume"):
        check_environments(VecNormalize(build().venv), captured)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SubprocVecEnv, SupervisedVecEnv])
def test_workers_with_restorable_go_on_as_they_would_have(kind):
    fork = {"start_method": "fork"}
    assert_same(
        halves(lambda: make_vec_env(OwnWord, 2, vec_env_cls=kind, vec_env_kwargs=fork, wrapper_class=Restorable))
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_atari_goes_on_as_it_would_have():
    ale_py = pytest.importorskip("ale_py")
    gym.register_envs(ale_py)
    assert_same(halves(lambda: make_vec_env("ALE/Pong-v5", 1, wrapper_class=AtariWrapper, env_kwargs={"frameskip": 1})))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_mujoco_goes_on_as_it_would_have(name, tmp_path, monkeypatch):
    """Ant's reward is computed from positions that lag by a substep: derived arrays have to be held too."""
    pytest.importorskip("mujoco")
    # MuJoCo logs into the folder it is called from.
    monkeypatch.chdir(tmp_path)

    def model():
        env = make_vec_env(name, 2, seed=3)
        return NotesPPO("MlpPolicy", env, **SMALL, policy_kwargs=dict(net_arch=[8]))

    expected = model().learn(TOTAL)
    run_to(model(), 101, tmp_path / "run")
    again = load_checkpoint(tmp_path / "run", model().env, device="cpu")
    assert again.resume_report.is_exact, again.resume_report
    again.learn(again.resume_report.remaining_timesteps, reset_num_timesteps=False)
    assert_equal(again, expected)


def test_what_cannot_be_held_is_named():
    _, _, problems = halves(lambda: make_vec_env(Speechless, 2), 5)
    assert problems == [f"environments.envs[{index}].env.hidden: builtins.range_iterator" for index in (0, 1)]


def test_where_environments_cannot_be_held_new_episodes_begin_and_the_report_says_so(tmp_path):
    def env():
        return make_vec_env(Speechless, 2, seed=3)

    run_to(NotesPPO("MlpPolicy", env(), **SMALL), 100, tmp_path)
    model = load_checkpoint(tmp_path, env(), device="cpu")
    assert not model.resume_report.is_exact
    assert "hidden" in str(model.resume_report)
    assert "new episodes begin" in str(model.resume_report)
    # The rollout that was begun at step 64 is gathered again.
    assert model.num_timesteps == 64
    assert model._last_obs is None
    model.learn(TOTAL - 64, reset_num_timesteps=False)
    assert model.num_timesteps == TOTAL


@pytest.mark.slow
def test_workers_without_state_are_named_with_what_to_do(tmp_path):
    def env(**settings):
        fork = {"start_method": "fork"}
        return make_vec_env("CartPole-v1", 2, seed=3, vec_env_cls=SubprocVecEnv, vec_env_kwargs=fork, **settings)

    run_to(NotesPPO("MlpPolicy", env(), **SMALL), 100, tmp_path / "plain")
    model = load_checkpoint(tmp_path / "plain", env(), device="cpu")
    assert "wrap them in sb3_ppo_notes.persistence.Restorable" in str(model.resume_report)
    model.env.close()

    expected = NotesPPO("MlpPolicy", env(), **SMALL).learn(TOTAL)
    run_to(NotesPPO("MlpPolicy", env(wrapper_class=Restorable), **SMALL), 101, tmp_path / "able")
    model = load_checkpoint(tmp_path / "able", env(wrapper_class=Restorable), device="cpu")
    assert model.resume_report.is_exact, model.resume_report
    model.learn(model.resume_report.remaining_timesteps, reset_num_timesteps=False)
    assert_equal(model, expected)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: make_vec_env("CartPole-v1", 3), "^n_envs must be 2 as in the checkpoint to resume, got 3"),
        (lambda: VecNormalize(cart_poles()), r"^env must be built as .* DummyVecEnv, got VecNormalize\(DummyVecEnv\)"),
        (lambda: make_vec_env("Pendulum-v1", 2), "^observation_space must be Box"),
        (lambda: None, "^env is required"),
    ],
    ids=["n_envs", "wrappers", "spaces", "none"],
)
def test_other_environments_are_refused(env, message, tmp_path):
    run_to(NotesPPO("MlpPolicy", cart_poles(), **SMALL), 10, tmp_path)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path, env())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.9}, "^gamma must be 0.99 as in the checkpoint to resume, got 0.9"),
        ({"n_steps": 64}, "^n_steps must be 32 as in the checkpoint"),
        ({"policy_kwargs": {"net_arch": [4]}}, "^policy_kwargs must be {} as in the checkpoint"),
        ({"clip_range": 0.1}, "^clip_range must be .*0.2.* as in the checkpoint"),
        ({"n_step": 64}, "^n_step is no argument of NotesPPO"),
    ],
)
def test_other_arguments_are_refused(arguments, message, tmp_path):
    run_to(NotesPPO("MlpPolicy", cart_poles(), **SMALL), 10, tmp_path)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path, cart_poles(), **arguments)
    same = load_checkpoint(tmp_path, cart_poles(), gamma=0.99, clip_range=0.2, verbose=0, policy_kwargs={})
    assert same.gamma == 0.99


def test_another_class_than_the_checkpoints_is_refused(tmp_path):
    class OfOurOwn(NotesPPO):
        pass

    run_to(NotesPPO("MlpPolicy", cart_poles(), **SMALL), 10, tmp_path)
    with pytest.raises(ValueError, match="^algorithm must be NotesPPO as in the checkpoint to resume, got NotesA2C"):
        load_checkpoint(tmp_path, cart_poles(), algorithm=NotesA2C)
    for algorithm in (NotesPPO, OfOurOwn):
        assert type(load_checkpoint(tmp_path, cart_poles(), algorithm=algorithm)) is algorithm


def falling(progress):
    return 1e-2 * progress


def test_a_schedule_that_is_a_function_has_to_be_given_again(tmp_path):
    settings = SMALL | dict(learning_rate=falling)
    expected = NotesPPO("MlpPolicy", cart_poles(), **settings).learn(TOTAL)
    run_to(NotesPPO("MlpPolicy", cart_poles(), **settings), 77, tmp_path)
    with pytest.raises(ValueError, match="^learning_rate must be given to resume this run: .*falling"):
        load_checkpoint(tmp_path, cart_poles())
    model = load_checkpoint(tmp_path, cart_poles(), learning_rate=falling, device="cpu")
    model.learn(model.resume_report.remaining_timesteps, reset_num_timesteps=False)
    assert_equal(model, expected)


def test_dummy_vec_env_of_a_bare_environment(tmp_path):
    """SB3 wraps it itself, and so it does when the run is resumed."""
    model = NotesPPO("MlpPolicy", DummyVecEnv([Board]), **SMALL)
    run_to(model, 20, tmp_path)
    assert load_checkpoint(tmp_path, DummyVecEnv([Board])).resume_report.is_exact
