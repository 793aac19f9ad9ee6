"""Files of every policy, in both formats, play as ``predict`` does: 256 observations, memory carried over all of them."""

import json

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecTransposeImage

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.export import export_policy
from sb3_ppo_notes.export.check import TOLERANCE
from sb3_ppo_notes.policies.trunk import shared_trunk
from tests import environments
from tests.policies.combinations import POLICIES

MEMORY = dict(lstm_hidden_size=16)
WIDE = spaces.Box(np.array([-5.0, 0.0], np.float32), np.array([1.0, 300.0], np.float32))
BOUNDED = (environments.BOX, WIDE)
IMAGES = spaces.Dict(image=environments.IMAGE, vector=environments.BOX)


def kwargs_of(policy):
    """The table's own policies, small."""
    kwargs = dict(net_arch=[8]) | (MEMORY if "Lstm" in policy else {})
    if "trunk" in policy:
        kwargs |= shared_trunk([8])
    return kwargs


def of_table(policy, masked):
    base = "Mlp" if "trunk" in policy else policy.replace("Lstm", "").split()[0]
    space = {"MultiInput": "dict", "Cnn": "image"}.get(base, "box" if "gSDE" in policy else "discrete")
    name = f"{base}{'Lstm' * ('Lstm' in policy)}Policy"
    sde = dict(arguments=dict(use_sde=True)) if "gSDE" in policy else {}
    return dict(policy=name, spaces=environments.SPACES[space], kwargs=kwargs_of(policy), masked=masked, **sde)


CASES = {
    **{policy: of_table(policy, masked=False) for policy in POLICIES},
    **{f"{policy} masked": of_table(policy, masked=True) for policy in POLICIES if "gSDE" not in policy},
    # distributions
    "gaussian": dict(spaces=BOUNDED),
    **{
        f"{name}{lstm}": dict(
            spaces=BOUNDED,
            policy=f"Mlp{lstm}Policy",
            kwargs=dict(action_distribution=name) | (MEMORY if lstm else {}),
        )
        for name in ("squashed_gaussian", "beta", "state_dependent_gaussian")
        for lstm in ("", "Lstm")
    },
    "gSDE squashed": dict(spaces=BOUNDED, kwargs=dict(squash_output=True), arguments=dict(use_sde=True)),
    "multi_discrete": dict(spaces=environments.SPACES["multi_discrete"]),
    "multi_discrete masked": dict(
        spaces=environments.SPACES["multi_discrete"], masked=[True, False, True, False, True]
    ),
    "multi_binary": dict(spaces=environments.SPACES["multi_binary"]),
    "multi_binary masked": dict(
        spaces=environments.SPACES["multi_binary"], masked=[True, False, True, True, False, True]
    ),
    "multi_binary Lstm": dict(spaces=environments.SPACES["multi_binary"], policy="MlpLstmPolicy", kwargs=MEMORY),
    # observations
    "discrete observations": dict(spaces=environments.SPACES["discrete_observation"]),
    "multi_discrete observations": dict(spaces=(spaces.MultiDiscrete([3, 4]), WIDE)),
    "multi_binary observations": dict(spaces=(spaces.MultiBinary(4), WIDE)),
    "float64 observations": dict(spaces=(spaces.Box(-1.0, 1.0, (3,), np.float64), WIDE)),
    "images in a dictionary": dict(spaces=(IMAGES, WIDE), policy="MultiInputPolicy"),
    # memories
    "gru": dict(spaces=BOUNDED, policy="MlpLstmPolicy", kwargs=MEMORY | dict(rnn="gru")),
    "gru shared": dict(
        policy="MlpLstmPolicy", kwargs=MEMORY | dict(rnn="gru", shared_lstm=True, enable_critic_lstm=False)
    ),
    "memory in C": dict(policy="MlpLstmPolicy", kwargs=dict(lstm_hidden_size=64)),
    "two layers": dict(policy="MlpLstmPolicy", kwargs=MEMORY | dict(n_lstm_layers=2)),
    "critic without": dict(policy="MlpLstmPolicy", kwargs=MEMORY | dict(enable_critic_lstm=False)),
    "two extractors": dict(policy="MlpLstmPolicy", kwargs=MEMORY | dict(share_features_extractor=False)),
    # precision
    "bfloat16": dict(arguments=dict(precision="bfloat16")),
    "bfloat16 Lstm": dict(policy="MlpLstmPolicy", kwargs=MEMORY, arguments=dict(precision="bfloat16")),
    # around the environments
    "normalised": dict(spaces=BOUNDED, wrap=[lambda env: VecNormalize(env, clip_obs=0.5)]),
    "normalised Lstm": dict(spaces=BOUNDED, policy="MlpLstmPolicy", kwargs=MEMORY, wrap=[VecNormalize]),
    "normalised, streaming": dict(spaces=BOUNDED, wrap=[StreamingNormalize]),
    "normalised dictionary": dict(
        spaces=environments.SPACES["dict"],
        policy="MultiInputPolicy",
        wrap=[lambda env: VecNormalize(env, norm_obs_keys=["vector"])],
    ),
    "rewards normalised": dict(wrap=[lambda env: VecNormalize(env, norm_obs=False)]),
    "stacked": dict(wrap=[lambda env: VecFrameStack(env, 3)]),
    "normalised, then stacked": dict(wrap=[VecNormalize, lambda env: VecFrameStack(env, 3)]),
    "stacked, then normalised": dict(wrap=[lambda env: VecFrameStack(env, 3), VecNormalize]),
    "normalised, then stacked, Lstm": dict(
        policy="MlpLstmPolicy", kwargs=MEMORY, wrap=[VecNormalize, lambda env: VecFrameStack(env, 2)]
    ),
    "images stacked": dict(
        spaces=environments.SPACES["image"], policy="CnnPolicy", wrap=[lambda env: VecFrameStack(env, 2)]
    ),
    "images transposed, then stacked": dict(
        spaces=environments.SPACES["image"],
        policy="CnnPolicy",
        wrap=[VecTransposeImage, lambda env: VecFrameStack(env, 2)],
    ),
    "images transposed, normalised, stacked": dict(
        spaces=(spaces.Box(0, 255, (36, 36, 2), np.uint8), spaces.Discrete(3)),
        policy="CnnPolicy",
        kwargs=dict(normalize_images=False),
        wrap=[VecTransposeImage, VecNormalize, lambda env: VecFrameStack(env, 2, channels_order="first")],
    ),
    "images normalised, then stacked": dict(
        spaces=(spaces.Box(0, 255, (36, 36, 2), np.uint8), spaces.Discrete(3)),
        policy="MlpPolicy",
        wrap=[VecNormalize, lambda env: VecFrameStack(env, 2, channels_order="last")],
    ),
    "dictionary stacked": dict(
        spaces=(IMAGES, WIDE), policy="MultiInputPolicy", wrap=[lambda env: VecFrameStack(env, 2)]
    ),
    "A2C": dict(algorithm=NotesA2C, arguments=dict(batch_size=None, n_epochs=None)),
}
FAST = ("Mlp masked", "MultiInputLstm", "gru", "normalised, then stacked")


def built(
    policy="MlpPolicy",
    spaces=environments.SPACES["discrete"],
    kwargs=None,
    masked=False,
    wrap=(),
    algorithm=NotesPPO,
    arguments=None,
    n_envs=2,
):
    def make():
        env = environments.SpaceEnv(*spaces)
        mask = np.array([True, False, True] if masked is True else masked)
        return env if masked is False else ActionMasker(env, lambda _: mask)

    env = make_vec_env(make, n_envs, seed=0)
    for wrapper in wrap:
        env = wrapper(env)
    sizes = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu", learning_rate=1e-3) | (arguments or {})
    sizes = {name: value for name, value in sizes.items() if value is not None}
    return algorithm(policy, env, policy_kwargs=kwargs, action_masking=masked is not False, **sizes)


def trained(**case):
    """A model whose actions depend on what it sees, to its last layer."""
    model = built(**case).learn(64)
    with th.no_grad():
        model.policy.action_net.weight.mul_(30.0)
    return model


def check(name, path):
    model = trained(**CASES[name])
    exported = export_policy(model, path)
    assert exported.path == path
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.json"]
    document = json.loads(exported.description.read_text())
    assert document["checked"]["observations"] == 256
    assert set(exported.differences) == {output["name"] for output in document["outputs"]}
    assert ("next_state_0" in exported.differences) == (
        "Lstm" in type(model.policy).__name__ or model.policy.is_recurrent
    )
    assert max(exported.differences.values()) <= TOLERANCE
    model.learn(64, reset_num_timesteps=False)


@pytest.mark.parametrize("name", FAST)
def test_files_of_torch_play_as_predict_does(name, tmp_path):
    check(name, tmp_path / "policy.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in FAST])
def test_files_of_torch_play_as_predict_does_whatever_the_policy(name, tmp_path):
    check(name, tmp_path / "policy.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_onnx_files_play_as_predict_does(name, tmp_path):
    check(name, tmp_path / "policy.onnx")
