"""Whatever environments come as: an id, one, several of SB3's, of Gymnasium's, of EnvPool's; and what is said of the rest."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.envs import EnvWorkerError, GymnasiumVecEnv, SupervisedVecEnv
from sb3_ppo_notes.persistence import load_checkpoint, load_safe, save_checkpoint
from tests.envs.test_vector_env import Counters, Pool

SMALL = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu", learning_rate=1e-2)


def cart_poles(**kwargs):
    return gym.make_vec("CartPole-v1", num_envs=2, **kwargs)


def weights(model):
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"vectorization_mode": "sync"},
        {"vectorization_mode": "async", "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}},
    ],
    ids=["its own", "sync", "async"],
)
def test_what_make_vec_returns_is_taken_as_it_is(kwargs):
    model = NotesPPO("MlpPolicy", cart_poles(**kwargs), **SMALL).learn(128)
    adapted = NotesPPO("MlpPolicy", GymnasiumVecEnv(cart_poles(**kwargs)), **SMALL).learn(128)
    assert isinstance(model.get_env(), GymnasiumVecEnv)
    assert th.equal(weights(model), weights(adapted))
    model.env.close()
    adapted.env.close()


def test_a_vector_environment_is_taken_wherever_a_model_takes_environments(tmp_path):
    model = NotesPPO("MlpPolicy", cart_poles(), **SMALL).learn(64)
    model.save(tmp_path / "model")
    save_checkpoint(model, tmp_path / "checkpoints")
    model.set_env(cart_poles())
    loaded = [
        model,
        NotesPPO.load(tmp_path / "model", env=cart_poles()),
        load_safe(tmp_path / "model.zip", cart_poles()),
        load_checkpoint(tmp_path / "checkpoints", cart_poles()),
        NotesA2C("MlpPolicy", cart_poles(), device="cpu"),
        NotesPPO.from_recipe("minimal_rl", cart_poles(), device="cpu"),
    ]
    for one in loaded:
        assert isinstance(one.get_env().unwrapped, GymnasiumVecEnv)
    assert loaded[1].learn(64, reset_num_timesteps=False).num_timesteps == 128


def test_one_that_cannot_be_told_in_sb3s_terms_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="build it with autoreset_mode=AutoresetMode.SAME_STEP"):
        NotesPPO("MlpPolicy", Counters(), **SMALL)


def test_envpools_own_object_is_taken_without_its_package():
    model = NotesPPO("MlpPolicy", Pool(), **SMALL | {"seed": None}).learn(96)
    assert model.num_timesteps == 96
    assert model.n_envs == 3


def test_envpools_other_interfaces_are_refused_by_name():
    class CartPoleDMEnvPool:
        """As EnvPool's for dm_env: no environment of Gymnasium's."""

        all_env_ids = np.arange(2)

        def send(self, actions):
            raise NotImplementedError

    said = r"^env must be of EnvPool's gymnasium interface \(envpool.make_gymnasium\), got CartPoleDMEnvPool$"
    with pytest.raises(TypeError, match=said):
        NotesPPO("MlpPolicy", CartPoleDMEnvPool(), **SMALL)


@pytest.mark.slow
def test_envpool_itself_trains():
    envpool = pytest.importorskip("envpool")

    def trained(adapt):
        env = envpool.make_gymnasium("CartPole-v1", num_envs=4, seed=1)
        return weights(NotesPPO("MlpPolicy", adapt(env), **SMALL | {"seed": 1}).learn(256))

    assert th.equal(trained(lambda env: env), trained(GymnasiumVecEnv))
    with pytest.raises(TypeError, match="^env must be of EnvPool's gymnasium interface .*got CartPoleDMEnvPool$"):
        NotesPPO("MlpPolicy", envpool.make_dm("CartPole-v1", num_envs=4), **SMALL)


@pytest.mark.parametrize("name", ["MiniGrid-Empty-5x5-v0", "dm_control/cartpole-swingup-v0"])
def test_an_unknown_id_tells_both_ways_to_register_it(name):
    said = f"^env must be the id of a registered environment, got '{name}'.*'package:id', or --import package in a command$"
    with pytest.raises(ValueError, match=said):
        NotesPPO("MlpPolicy", name, **SMALL)


def test_a_worker_that_knows_no_such_id_tells_how_it_would():
    """As where the registering import stands below ``if __name__ == "__main__"``: known here, and not there."""
    gym.register("OnlyHere-v0", "gymnasium.envs.classic_control:CartPoleEnv")
    try:
        with pytest.raises(
            EnvWorkerError, match=r"raised NameNotFound .*; 'package:id' imports what registers it there"
        ):
            make_vec_env("OnlyHere-v0", n_envs=1, vec_env_cls=SupervisedVecEnv)
    finally:
        del gym.registry["OnlyHere-v0"]


def test_a_composed_environment_keeps_its_seeds():
    env = NotesPPO("MlpPolicy", SyncVectorEnv([lambda: gym.make("Pendulum-v1")] * 2), **SMALL).get_env()
    env.seed(3)
    first = env.reset()
    env.seed(3)
    assert np.array_equal(first, env.reset())
