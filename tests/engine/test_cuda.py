"""On a GPU, where there is one: the same training as on a CPU."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from tests import environments
from tests.engine.test_compile import STEADY

pytestmark = [
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.*mini-?batch.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*on the GPU.*:UserWarning"),
]
SMALL = dict(n_steps=16, batch_size=16, n_epochs=2, seed=0, policy_kwargs=dict(net_arch=[16]) | STEADY)


def model_on(device, env_name="box", policy="MlpPolicy", algorithm=NotesPPO, **changes):
    env = make_vec_env(lambda: environments.make(env_name), 4, seed=0)
    return algorithm(policy, env, device=device, **SMALL | changes)


def after_the_same_rollout(*models):
    """One update of each, from the rollout of the first."""
    first = models[0]
    _, callback = first._setup_learn(64)
    first.collect_rollouts(first.env, callback, first.rollout_buffer, first.n_steps)
    for model in models:
        model._setup_learn(64)
        model.engine.begin_learning()
        model.rollout_buffer = first.rollout_buffer
        first.rollout_buffer.device, first.rollout_buffer.generator_ready = model.device, False
        th.manual_seed(1)
        np.random.seed(1)
        model.train()
    return models


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("env_name", ["box", "discrete"])
def test_an_update_is_the_cpus(env_name, compiles):
    on_cpu, on_gpu = after_the_same_rollout(model_on("cpu", env_name), model_on("cuda", env_name, compile=compiles))
    if compiles:
        assert on_gpu.engine.compiler.reason is None
    for mine, theirs in zip(on_gpu.policy.parameters(), on_cpu.policy.parameters(), strict=True):
        assert th.allclose(mine.cpu(), theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("env_name", "policy"), [("dict", "MultiInputPolicy"), ("image", "CnnPolicy"), ("box", "MlpLstmPolicy")]
)
@pytest.mark.parametrize("compiles", [False, True])
def test_every_kind_learns(env_name, policy, compiles):
    model = model_on("cuda", env_name, policy, compile=compiles, policy_kwargs={}).learn(3 * 64)
    assert all(parameter.isfinite().all() and parameter.is_cuda for parameter in model.policy.parameters())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns(precision):
    model = model_on("cuda", precision=precision).learn(3 * 64)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_a2c_learns():
    env = make_vec_env("CartPole-v1", 4, seed=0)
    NotesA2C("MlpPolicy", env, device="cuda", seed=0, compile=True).learn(400)
