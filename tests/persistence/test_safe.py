"""Row 25: nothing in a model's file is executed; what cannot be read without is refused, with the reason."""

import base64
import contextlib
import io
import json
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.utils import LinearSchedule

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.persistence import UnsafeModelError, load_safe
from sb3_ppo_notes.policies.trunk import shared_trunk
from sb3_ppo_notes.recipes import RECIPES
from tests.environments import SpaceEnv, make
from tests.persistence.cases import cart_poles, falling_name

SMALL = dict(n_steps=32, seed=3, device="cpu")
PPO_SMALL = SMALL | dict(batch_size=16, n_epochs=2)


class Sentinel:
    """Unpickled, it writes a file: proof that code was executed."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


MODELS = {
    "stock ppo": lambda: PPO("MlpPolicy", cart_poles(), **PPO_SMALL),
    "stock ppo, arguments": lambda: PPO(
        "MlpPolicy",
        cart_poles(),
        **PPO_SMALL,
        learning_rate=LinearSchedule(1e-2, 0.0, 1.0),
        clip_range_vf=0.2,
        policy_kwargs=dict(
            net_arch=dict(pi=[8], vf=[16]), activation_fn=th.nn.ELU, optimizer_kwargs=dict(betas=(0.8, 0.99))
        ),
    ),
    "stock a2c": lambda: A2C("MlpPolicy", cart_poles(), **SMALL),
    "stock ppo, images": lambda: PPO("CnnPolicy", make("image"), **PPO_SMALL),
    "stock ppo, dict": lambda: PPO("MultiInputPolicy", make("dict"), **PPO_SMALL),
    "stock ppo, gsde": lambda: PPO("MlpPolicy", "Pendulum-v1", **PPO_SMALL, use_sde=True),
    "ppo": lambda: NotesPPO("MlpPolicy", cart_poles(), **PPO_SMALL, learning_rate="lin_1e-3", target_kl=0.1),
    "a2c": lambda: NotesA2C("MlpPolicy", cart_poles(), **SMALL),
    "lstm": lambda: NotesPPO("MlpLstmPolicy", cart_poles(), **PPO_SMALL, policy_kwargs=dict(rnn="gru")),
    "lstm, gsde": lambda: NotesPPO("MlpLstmPolicy", "Pendulum-v1", **PPO_SMALL, use_sde=True, sde_sample_freq=4),
    "beta": lambda: NotesPPO(
        "MlpPolicy",
        "Pendulum-v1",
        **PPO_SMALL,
        policy_kwargs=dict(action_distribution="beta", activation_fn=th.nn.ReLU),
    ),
    "trunk": lambda: NotesPPO("MlpPolicy", cart_poles(), **PPO_SMALL, policy_kwargs=shared_trunk([8])),
    "compiled bfloat16": lambda: NotesPPO("MlpPolicy", cart_poles(), **PPO_SMALL, precision="bfloat16"),
} | {
    f"recipe {name}": (
        lambda name=name: (NotesPPO if RECIPES[name].algorithm == "ppo" else NotesA2C).from_recipe(
            name,
            "Pendulum-v1" if name == "batch_ppo" else "CartPole-v1",
            n_envs=2,
            seed=3,
            device="cpu",
            **({"n_steps": 64} if name == "spinning_up" else {}),
        )
    )
    for name in RECIPES
    if name != "moral_rl"
}


def saved(model, folder):
    model.save(folder / "model")
    return folder / "model.zip"


FAST = ("stock ppo", "stock ppo, arguments", "stock a2c", "ppo")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in MODELS]
)
def test_a_model_loaded_safely_is_the_one_that_load_gives(name, tmp_path):
    model = MODELS[name]()
    model.learn(model.n_steps * model.n_envs)
    path = saved(model, tmp_path)
    safely = load_safe(path, MODELS[name]().env, device="cpu")
    normally = type(safely).load(path, MODELS[name]().env, device="cpu")
    for one, other in zip(safely.policy.parameters(), normally.policy.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach(), other.detach())
    observation = model.env.reset()
    np.testing.assert_array_equal(
        safely.predict(observation, deterministic=True)[0], normally.predict(observation, deterministic=True)[0]
    )
    assert safely.rule == normally.rule or str(safely.rule) == str(normally.rule)
    for loaded in (safely, normally):
        # Each was seeded when it was loaded; since then the other has drawn.
        loaded.set_random_seed(1)
        loaded.learn(loaded.n_steps * loaded.n_envs, reset_num_timesteps=False)
    assert safely.num_timesteps == normally.num_timesteps == 2 * model.n_steps * model.n_envs
    assert safely._n_updates == normally._n_updates
    for one, other in zip(safely.policy.parameters(), normally.policy.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach(), other.detach())


def changed(path, **members):
    """A copy of a file with other members, under the same name."""
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in (content | members).items():
            if part is not None:
                archive.writestr(name, part)
    return path


def with_pickle(path, name, payload):
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    entry = data[name] if isinstance(data.get(name), dict) else {":type:": "<class 'object'>"}
    data[name] = entry | {":serialized:": base64.b64encode(pickle.dumps(payload)).decode()}
    return changed(path, data=json.dumps(data))


@pytest.fixture
def file(tmp_path):
    return saved(PPO("MlpPolicy", "CartPole-v1", **PPO_SMALL), tmp_path)


SERIALIZED = [
    "policy_class",
    "observation_space",
    "lr_schedule",
    "clip_range",
    "ep_info_buffer",
    "_last_obs",
    "policy_kwargs",
    "rollout_buffer_class",
    "anything",
    "learning_rate",
    "_given_rule",
    "rule_state",
]


@pytest.mark.parametrize("name", SERIALIZED)
def test_row_25_a_pickle_anywhere_in_data_is_never_run(name, file, tmp_path):
    sentinel = tmp_path / "executed"
    with_pickle(file, name, Sentinel(sentinel))
    with contextlib.suppress(UnsafeModelError):
        load_safe(file, "CartPole-v1", device="cpu").learn(32)
    assert not sentinel.exists()


def test_row_25_the_sentinel_of_these_tests_works(file, tmp_path):
    """Stock load runs it: what the tests above would see if load_safe did."""
    with_pickle(file, "policy_kwargs", Sentinel(tmp_path / "executed"))
    with pytest.raises(Exception):  # noqa: B017, PT011
        PPO.load(file)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("member", ["policy.pth", "policy.optimizer.pth"])
def test_row_25_a_pickle_in_the_weights_is_never_run(member, file, tmp_path):
    sentinel = tmp_path / "executed"
    content = io.BytesIO()
    th.save({"weight": Sentinel(sentinel)}, content)
    with pytest.raises(UnsafeModelError, match=f"^{member} must hold nothing but tensors"):
        load_safe(changed(file, **{member: content.getvalue()}), "CartPole-v1")
    assert not sentinel.exists()


def test_row_25_a_raw_pickle_for_weights_is_refused(file, tmp_path):
    sentinel = tmp_path / "executed"
    with pytest.raises(UnsafeModelError, match="^policy.pth must be torch's zip format"):
        load_safe(changed(file, **{"policy.pth": pickle.dumps(Sentinel(sentinel))}), "CartPole-v1")
    assert not sentinel.exists()


def test_row_25_a_class_by_another_name_is_refused_and_not_imported(file):
    with_pickle(file, "policy_class", pickle.Pickler)
    with pytest.raises(UnsafeModelError, match="^policy must be given .*class _pickle.Pickler is not one"):
        load_safe(file, "CartPole-v1")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../../evil.pth": b"x"}, "holds '../../evil.pth'"),
        ({"/etc/evil": b"x"}, "holds '/etc/evil'"),
        ({"more.pth": b"x"}, "holds 'more.pth'"),
        ({"data": None}, "holds no data"),
        ({"policy.pth": None}, "holds no policy.pth"),
        ({"data": b"{"}, "^data must be JSON"),
        ({"data": b"[]"}, "^data must be a JSON object"),
        ({"data": b"[" * 100_000}, "^data must be JSON"),
        ({"data": b"{}"}, "^path must be the file of a PPO or A2C"),
    ],
    ids=["traversal", "absolute", "unknown", "no data", "no weights", "no json", "no object", "deep", "empty"],
)
def test_row_25_a_strange_file_is_refused(members, message, file):
    with pytest.raises(UnsafeModelError, match=message):
        load_safe(changed(file, **members), "CartPole-v1")


def test_row_25_a_zip_bomb_is_refused_before_it_is_unpacked(file):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", b" " * 50_000_000)
        archive.writestr("policy.pth", b"")
    with pytest.raises(UnsafeModelError, match="no zip bomb: data in .* grows from"):
        load_safe(file, "CartPole-v1")
    with pytest.raises(UnsafeModelError, match="at most most_bytes=1,000,000 bytes, got 50,000,000"):
        load_safe(file, "CartPole-v1", most_bytes=1_000_000)


def test_row_25_a_bomb_inside_the_weights_is_refused(file):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1_000_000)
    with pytest.raises(UnsafeModelError, match="^policy.pth must be no zip bomb"):
        load_safe(changed(file, **{"policy.pth": content.getvalue()}), "CartPole-v1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy_kwargs": {"net_arch": [10**12]}}, "^policy_kwargs must describe"),
        ({"n_steps": 10**12}, "^n_steps must make a rollout"),
        ({"num_timesteps": "many"}, "^num_timesteps must be an int"),
        ({"n_steps": "many"}, "^n_steps must be an int"),
        ({"learning_rate": "high"}, "^path must hold weights of the model that it describes: .*high"),
        ({"policy_kwargs": {"net_arch": [7]}}, "^path must hold weights of the model that it describes"),
    ],
)
def test_row_25_numbers_of_a_stranger_are_checked(change, message, file):
    with zipfile.ZipFile(file) as archive:
        data = json.loads(archive.read("data"))
    with pytest.raises((ValueError, TypeError), match=message):
        load_safe(changed(file, data=json.dumps(data | change)), "CartPole-v1")


def test_a_strangers_model_that_cannot_learn_may_predict(file):
    with zipfile.ZipFile(file) as archive:
        data = json.loads(archive.read("data"))
    model = load_safe(changed(file, data=json.dumps(data | {"gamma": 7})), "CartPole-v1")
    model.predict(np.zeros(4))
    with pytest.raises(ValueError, match=r"^gamma must be in \[0, 1\], got 7"):
        model.learn(32)
    with pytest.raises(ValueError, match=r"^gamma must be in \[0, 1\], got 8"):
        load_safe(file, "CartPole-v1", gamma=8)


def test_a_total_of_steps_that_sb3_keeps_as_a_float_is_read(tmp_path):
    path = saved(PPO("MlpPolicy", "CartPole-v1", **PPO_SMALL).learn(1e2), tmp_path)
    assert load_safe(path, "CartPole-v1")._total_timesteps == 100


def test_a_path_that_a_stranger_chose_is_not_written_to(file, tmp_path):
    with zipfile.ZipFile(file) as archive:
        data = json.loads(archive.read("data"))
    changed(file, data=json.dumps(data | {"tensorboard_log": str(tmp_path / "logs")}))
    load_safe(file, "CartPole-v1", device="cpu").learn(32)
    assert not (tmp_path / "logs").exists()


def test_a_function_has_to_be_given(tmp_path):
    path = saved(PPO("MlpPolicy", "CartPole-v1", **PPO_SMALL, learning_rate=falling_name), tmp_path)
    with pytest.raises(UnsafeModelError, match="^learning_rate must be given by the caller .*class 'function'"):
        load_safe(path, "CartPole-v1")
    assert load_safe(path, "CartPole-v1", learning_rate=1e-3).learning_rate == 1e-3
    with pytest.raises(ValueError, match="^learning_rat is no argument of NotesPPO"):
        load_safe(path, "CartPole-v1", learning_rat=1e-3)


def test_other_spaces_and_other_algorithms_are_refused(file, tmp_path):
    with pytest.raises(ValueError, match="^env must have an observation_space with _shape"):
        load_safe(file, SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)))
    with pytest.raises(ValueError, match="^env must have an action_space"):
        load_safe(file, SpaceEnv(spaces.Box(-1, 1, (4,)), spaces.Discrete(3)))
    with pytest.raises(UnsafeModelError, match="PPO or A2C"):
        load_safe(saved(DQN("MlpPolicy", "CartPole-v1", buffer_size=10), tmp_path), "CartPole-v1")


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_row_24_half_a_model_file_is_refused(share, file):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnsafeModelError, match="^path must be"):
        load_safe(file, "CartPole-v1")


def test_row_24_no_random_damage_does_more_than_be_refused(file):
    """Thirty flipped bytes, one at a time: a ValueError, or a model (a byte of a comment or a digest of the zip)."""
    content, generator = file.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(30):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged)
        try:
            load_safe(file, "CartPole-v1", device="cpu")
        except ValueError:
            refused += 1
    assert refused >= 25
