"""TorchVecEnv: environments that deal in tensors train to the same weights as their twins in NumPy."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.envs import GymnasiumVecEnv, TorchVecEnv
from sb3_ppo_notes.persistence import load_checkpoint, save_checkpoint

SMALL = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu", learning_rate=1e-2)
BOX = spaces.Box(-10, 10, (2,))
N_ENVS, LIMIT = 3, 11


class Drift:
    """Points that are pushed about, in tensors: an episode ends beyond 1.5, or is cut after LIMIT steps."""

    def __init__(self):
        self.generator = th.Generator().manual_seed(3)
        self.position, self.age = self.start(N_ENVS), th.zeros(N_ENVS, dtype=th.int64)

    def start(self, n):
        return th.rand(n, 2, generator=self.generator) - 0.5

    def begin(self):
        self.position, self.age = self.start(N_ENVS), th.zeros(N_ENVS, dtype=th.int64)
        return self.position.clone()

    def move(self, actions):
        """What a step has led to: first observations, rewards, terminations, truncations, last observations."""
        self.position += 0.3 * actions
        self.age += 1
        terminated = self.position.norm(dim=1) > 1.5
        truncated = self.age == LIMIT
        rewards, last = 1 - self.position.norm(dim=1), self.position.clone()
        ended = terminated | truncated
        self.position[ended], self.age[ended] = self.start(int(ended.sum())), 0
        return self.position.clone(), rewards, terminated, truncated, last


class Plain(VecEnv):
    """A VecEnv; ``tensors`` says in what it deals."""

    def __init__(self, tensors=False, tells_last=True):
        self.drift, self.tensors, self.tells_last = Drift(), tensors, tells_last
        super().__init__(N_ENVS, BOX, spaces.Box(-1, 1, (2,)))

    def reset(self):
        return self.told(self.drift.begin())

    def told(self, tensor):
        return tensor if self.tensors else tensor.numpy()

    def step_async(self, actions):
        self.actions = th.as_tensor(actions)

    def step_wait(self):
        before = self.drift.position.clone()
        observations, rewards, terminated, truncated, last = self.drift.move(self.actions)
        infos = [{} for _ in range(N_ENVS)]
        dones = terminated | truncated
        for i in np.flatnonzero(dones.numpy()):
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            infos[i]["terminal_observation"] = self.told((last if self.tells_last else before)[i])
        return self.told(observations), self.told(rewards), self.told(dones), infos

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [getattr(self, attr_name, None)] * N_ENVS

    def set_attr(self, attr_name, value, indices=None):
        setattr(self, attr_name, value)

    def env_method(self, method_name, *args, indices=None, **kwargs):
        return [getattr(self, method_name)(*args, **kwargs)] * N_ENVS

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * N_ENVS


class Lab(gym.Env):
    """As Isaac Lab's: one ``gym.Env`` that is many, with a Dict of observations and actions without bounds."""

    num_envs = N_ENVS

    def __init__(self, key=None, tells_last=True, bound=np.inf):
        self.key, self.tells_last, self.drift = key, tells_last, Drift()
        self.single_observation_space = (
            BOX if key is None else spaces.Dict({key: BOX, "camera": spaces.Box(0, 1, (1,))})
        )
        self.single_action_space = spaces.Box(-bound, bound, (2,))
        self.observation_space, self.action_space = BOX, self.single_action_space

    def shown(self, tensor):
        return tensor if self.key is None else {self.key: tensor, "camera": th.zeros(N_ENVS, 1)}

    def reset(self, *, seed=None, options=None):
        self.asked = seed, options
        return self.shown(self.drift.begin()), {"log": {}}

    def step(self, actions):
        assert isinstance(actions, th.Tensor)
        observations, rewards, terminated, truncated, last = self.drift.move(actions)
        extras = {"log": {"mean": rewards.mean()}} | ({"final_obs": self.shown(last)} if self.tells_last else {})
        return self.shown(observations), rewards, terminated, truncated, extras


class InTensors(VectorEnv):
    num_envs = N_ENVS
    single_observation_space, single_action_space = BOX, spaces.Box(-1, 1, (2,))
    observation_space = spaces.Box(-10, 10, (N_ENVS, 2))

    def __init__(self, mode):
        self.metadata, self.drift = {"autoreset_mode": mode}, Drift()

    def reset(self, *, seed=None, options=None):
        return self.drift.begin(), {}

    def step(self, actions):
        observations, rewards, terminated, truncated, last = self.drift.move(actions)
        return observations, rewards, terminated, truncated, {"final_obs": last}


def weights(env, **arguments):
    model = NotesPPO("MlpPolicy", env, **SMALL | arguments).learn(3 * 32 * N_ENVS)
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@pytest.mark.parametrize("tells_last", [True, False])
@pytest.mark.parametrize(
    "build",
    [
        lambda last: TorchVecEnv(Plain(tensors=True, tells_last=last)),
        lambda last: TorchVecEnv(Lab(tells_last=last, bound=1)),
        lambda last: TorchVecEnv(gym.wrappers.OrderEnforcing(Lab(key="policy", tells_last=last, bound=1)), "policy"),
    ],
    ids=["VecEnv", "many in one", "a part of a Dict"],
)
def test_tensors_train_to_the_weights_of_arrays(build, tells_last):
    """Where nobody tells the last observation, that before the step stands for it: the twin tells just that one."""
    theirs = weights(Plain(tells_last=tells_last))
    assert th.equal(weights(build(tells_last)), theirs)
    assert not th.equal(weights(Plain(tells_last=not tells_last)), theirs)


def test_a_vector_environment_of_tensors_trains_to_the_same_weights():
    assert th.equal(weights(TorchVecEnv(InTensors(AutoresetMode.SAME_STEP))), weights(Plain()))


def test_episodes_are_counted_and_cut_ones_marked():
    env = TorchVecEnv(Lab(bound=1))
    env.seed(7)
    env.reset()
    assert env.env.asked == (7, None)
    infos = [env.step(np.zeros((N_ENVS, 2), np.float32))[3] for _ in range(LIMIT)][-1]
    for info in infos:
        assert info["episode"]["l"] == LIMIT
        assert info["episode"]["r"] == pytest.approx(
            LIMIT * (1 - np.linalg.norm(info["terminal_observation"])), abs=1e-4
        )
        assert info["TimeLimit.truncated"]
    assert float(env.extras["log"]["mean"]) > 0
    assert env.env_is_wrapped(Monitor) == [True] * N_ENVS


def test_what_a_step_returned_stays_as_it_was():
    env = TorchVecEnv(Lab(bound=1))
    first = env.reset()
    kept = first.copy()
    env.env.drift.position += 1
    second = env.step(np.ones((N_ENVS, 2), np.float32))[0]
    assert np.array_equal(first, kept)
    assert first.dtype == second.dtype == np.float32
    assert not np.shares_memory(first, second)


def test_one_transfer_a_step(monkeypatch):
    env, transfers, cpu = TorchVecEnv(Lab(key="policy", bound=1), "policy"), [], th.Tensor.cpu
    env.reset()
    monkeypatch.setattr(th.Tensor, "cpu", lambda tensor: transfers.append(tensor.shape) or cpu(tensor))
    env.step(np.zeros((N_ENVS, 2), np.float32))
    assert transfers == [(N_ENVS * (2 + 1 + 1 + 1),)]


def test_integers_and_images_keep_their_kind():
    class Pixels(Lab):
        def shown(self, tensor):
            return {"image": (tensor * 50 + 100).to(th.uint8), "step": self.drift.age.clone()}

    lab = Pixels(bound=1)
    lab.single_observation_space = spaces.Dict(image=spaces.Box(0, 255, (2,), np.uint8), step=spaces.Discrete(99))
    env = TorchVecEnv(lab)
    env.reset()
    observations = env.step(np.ones((N_ENVS, 2), np.float32))[0]
    assert observations["image"].dtype == np.uint8
    assert observations["image"].tolist() == (lab.drift.position * 50 + 100).to(th.uint8).tolist()
    assert observations["step"].tolist() == [1] * N_ENVS


def test_actions_without_bounds_get_some():
    assert TorchVecEnv(Lab()).action_space == spaces.Box(-100, 100, (2,))
    assert TorchVecEnv(Lab(), action_bound=5).action_space == spaces.Box(-5, 5, (2,))
    with pytest.raises(ValueError, match="^action_bound must be > 0"):
        TorchVecEnv(Lab(), action_bound=0)


def test_it_trains_behind_a_normaliser_and_from_a_checkpoint(tmp_path):
    def fresh():
        return VecNormalize(TorchVecEnv(Plain(tensors=True)))

    straight = NotesPPO("MlpPolicy", fresh(), **SMALL).learn(4 * 32 * N_ENVS)
    cut = NotesPPO("MlpPolicy", fresh(), **SMALL).learn(2 * 32 * N_ENVS)
    save_checkpoint(cut, tmp_path)
    resumed = load_checkpoint(tmp_path, fresh())
    assert resumed.resume_report.is_exact  # as far as tensors lie in memory that can be read; a simulator's own cannot
    resumed.learn(2 * 32 * N_ENVS, reset_num_timesteps=False)
    assert all(map(th.equal, resumed.policy.parameters(), straight.policy.parameters()))
    assert resumed.num_timesteps == straight.num_timesteps


@pytest.mark.parametrize(
    "build",
    [
        lambda: Plain(tensors=True),
        lambda: VecNormalize(Plain(tensors=True)),
        lambda: Lab(),
        lambda: gym.wrappers.OrderEnforcing(Lab()),
        lambda: InTensors(AutoresetMode.SAME_STEP),
    ],
)
def test_without_the_adapter_the_error_names_it(build):
    with pytest.raises(TypeError, match=r"^env must .*\.TorchVecEnv\(env\)$"):
        NotesPPO("MlpPolicy", build(), **SMALL).learn(96)


def test_what_it_cannot_adapt_is_refused_by_name():
    with pytest.raises(TypeError, match="^env must step several environments at once .*, got CartPoleEnv$"):
        TorchVecEnv(gym.make("CartPole-v1"))
    with pytest.raises(
        ValueError, match="^env must begin an episode in the step that ended .* got NextStep from InTens"
    ):
        TorchVecEnv(InTensors(AutoresetMode.NEXT_STEP))
    with pytest.raises(ValueError, match=r"^observations must be a part of Dict\(.*, got 'actor'$"):
        TorchVecEnv(Lab(key="policy"), observations="actor")
    with pytest.raises(ValueError, match="^method_name must be one that Lab can call in each environment"):
        TorchVecEnv(Lab()).env_method("reset")


def test_a_gymnasium_vector_environment_that_begins_with_tensors_is_refused():
    with pytest.raises(TypeError, match="TorchVecEnv"):
        GymnasiumVecEnv(InTensors(AutoresetMode.SAME_STEP)).reset()
