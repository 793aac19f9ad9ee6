"""Every wrong argument gets one error that begins with its name and shows the value and the range; nothing is built or lost."""

import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_notes import NotesA2C, NotesPPO
from tests.environments import BOX, SpaceEnv

NAN, INF = float("nan"), float("inf")


def build(algorithm=NotesPPO, env="Pendulum-v1", policy="MlpPolicy", **arguments):
    return algorithm(policy, env, **dict(device="cpu") | arguments)


# (row of the table this project was given, arguments, kind of error, how the message begins)
CONSTRUCTOR = [
    (
        1,
        dict(learning_rate=-1e-3),
        ValueError,
        "learning_rate must be >= 0 and finite (a float or a schedule), got -0.001",
    ),
    (2, dict(learning_rate=NAN), ValueError, "learning_rate must be >= 0 and finite (a float or a schedule), got nan"),
    (3, dict(learning_rate=INF), ValueError, "learning_rate must be >= 0 and finite (a float or a schedule), got inf"),
    (4, dict(learning_rate="3e-4"), TypeError, "learning_rate must be a float or a schedule, got str '3e-4'"),
    (
        5,
        dict(learning_rate=None),
        TypeError,
        "learning_rate must be >= 0 and finite (a float or a schedule), got NoneType None",
    ),
    (6, dict(learning_rate=lambda p: None), TypeError, "learning_rate schedule returned None at progress 1.0"),
    (6, dict(learning_rate=lambda p: -1.0), ValueError, "learning_rate schedule returned -1.0 at progress 1.0"),
    (6, dict(clip_range=lambda p: NAN), ValueError, "clip_range schedule returned nan at progress 1.0"),
    (7, dict(n_steps=0), ValueError, "n_steps must be an int >= 1, got 0"),
    (7, dict(n_steps=-1), ValueError, "n_steps must be an int >= 1, got -1"),
    (
        8,
        dict(n_steps=1),
        ValueError,
        "n_steps * n_envs must be >= 2 when normalize_advantage=True, got n_steps=1 and n_envs=1",
    ),
    (9, dict(n_steps=8.5), TypeError, "n_steps must be an int >= 1, got float 8.5"),
    (10, dict(n_steps="8"), TypeError, "n_steps must be an int >= 1, got str '8'"),
    (11, dict(n_steps=True), TypeError, "n_steps must be an int >= 1, got bool True"),
    (
        12,
        dict(batch_size=0),
        ValueError,
        "batch_size must be an int >= 2 (>= 1 without advantage normalisation), got 0",
    ),
    (
        12,
        dict(batch_size=-4),
        ValueError,
        "batch_size must be an int >= 2 (>= 1 without advantage normalisation), got -4",
    ),
    (
        12,
        dict(batch_size=1),
        ValueError,
        "batch_size must be an int >= 2 (>= 1 without advantage normalisation), got 1",
    ),
    (
        12,
        dict(batch_size=0, normalize_advantage=False),
        ValueError,
        "batch_size must be an int >= 1 without advantage normalisation, got 0",
    ),
    (14, dict(batch_size=4.5), TypeError, "batch_size must be an int >= 2, got float 4.5"),
    (16, dict(n_epochs=0), ValueError, "n_epochs must be an int >= 1, got 0"),
    (16, dict(n_epochs=-1), ValueError, "n_epochs must be an int >= 1, got -1"),
    (17, dict(n_epochs=1.5), TypeError, "n_epochs must be an int >= 1, got float 1.5"),
    (18, dict(gamma=-0.1), ValueError, "gamma must be in [0, 1], got -0.1"),
    (19, dict(gamma=1.5), ValueError, "gamma must be in [0, 1], got 1.5"),
    (20, dict(gamma=NAN), ValueError, "gamma must be in [0, 1], got nan"),
    (20, dict(gamma=None), TypeError, "gamma must be in [0, 1], got NoneType None"),
    (21, dict(gae_lambda=-0.5), ValueError, "gae_lambda must be in [0, 1], got -0.5"),
    (21, dict(gae_lambda=2), ValueError, "gae_lambda must be in [0, 1], got 2"),
    (22, dict(gae_lambda=NAN), ValueError, "gae_lambda must be in [0, 1], got nan"),
    (23, dict(clip_range=-0.2), ValueError, "clip_range must be >= 0 (a float or a schedule), got -0.2"),
    (24, dict(clip_range=NAN), ValueError, "clip_range must be >= 0 (a float or a schedule), got nan"),
    (
        25,
        dict(clip_range=None),
        TypeError,
        "clip_range must be >= 0 (a float or a schedule), got NoneType None",
    ),
    (
        27,
        dict(clip_range_vf=0),
        ValueError,
        "clip_range_vf must be > 0, or None for no clipping of values, got 0",
    ),
    (27, dict(clip_range_vf=-1), ValueError, "clip_range_vf must be > 0"),
    (27, dict(clip_range_vf=NAN), ValueError, "clip_range_vf must be > 0"),
    (29, dict(ent_coef=NAN), ValueError, "ent_coef must be finite (a float or a schedule), got nan"),
    (
        30,
        dict(ent_coef="auto"),
        TypeError,
        "ent_coef must be a finite float or a schedule, got 'auto' (\"auto\" is for SAC only)",
    ),
    (31, dict(vf_coef=-1), ValueError, "vf_coef must be >= 0 and finite (a float or a schedule), got -1"),
    (32, dict(vf_coef=NAN), ValueError, "vf_coef must be >= 0 and finite"),
    (
        33,
        dict(max_grad_norm=-0.5),
        ValueError,
        "max_grad_norm must be > 0, or None for no clipping, got -0.5",
    ),
    (34, dict(max_grad_norm=0), ValueError, "max_grad_norm must be > 0"),
    (35, dict(max_grad_norm=NAN), ValueError, "max_grad_norm must be > 0"),
    (36, dict(target_kl=-0.01), ValueError, "target_kl must be > 0, or None for no early stop, got -0.01"),
    (36, dict(target_kl=0), ValueError, "target_kl must be > 0"),
    (37, dict(target_kl=NAN), ValueError, "target_kl must be > 0"),
    (38, dict(seed=-1), ValueError, "seed must be an int in [0, 4294967295] or None, got -1"),
    (38, dict(seed=2**40), ValueError, "seed must be an int in [0, 4294967295] or None"),
    (39, dict(seed=1.5), TypeError, "seed must be an int in [0, 4294967295] or None, got float 1.5"),
    (39, dict(seed="0"), TypeError, "seed must be an int in [0, 4294967295] or None, got str '0'"),
    *((40, dict(device=name), ValueError, "device must be 'cpu' or ") for name in ("gpu", "meta", "vulkan")),
    (42, dict(stats_window_size=-1), ValueError, "stats_window_size must be an int >= 0, got -1"),
    (43, dict(verbose="1"), TypeError, "verbose must be an int, got str '1'"),
    (
        44,
        dict(policy="Foo"),
        ValueError,
        "policy must be a class or one of MlpPolicy, CnnPolicy, MultiInputPolicy, MlpLstmPolicy",
    ),
    (
        45,
        dict(policy=None),
        TypeError,
        "policy must be a class or one of MlpPolicy, CnnPolicy, MultiInputPolicy, MlpLstmPolicy",
    ),
    (46, dict(env=None), ValueError, "env is required to build a model, got None"),
    (
        47,
        dict(env="CartPoel-v1"),
        ValueError,
        "env must be the id of a registered environment, got 'CartPoel-v1' (did you mean 'CartPole-v1'",
    ),
    (
        50,
        dict(policy_kwargs=dict(net_arch=[-4])),
        ValueError,
        "net_arch must be a list of positive ints or a dict of two such lists (pi, vf), got [-4]",
    ),
    (50, dict(policy_kwargs=dict(net_arch="64")), ValueError, "net_arch must be a list of positive ints"),
    (50, dict(policy_kwargs=dict(net_arch=dict(pi=[0]))), ValueError, "net_arch must be a list of positive ints"),
    (
        51,
        dict(policy_kwargs=dict(activation_fn="tanh")),
        TypeError,
        "activation_fn must be a class such as nn.Tanh, got 'tanh'",
    ),
    (
        52,
        dict(policy_kwargs={"net_arhc": [4]}),
        TypeError,
        "policy_kwargs must be arguments of NotesActorCriticPolicy, got unknown key 'net_arhc' (did you mean 'net_arch'",
    ),
    (53, dict(tensorboard_log=123), TypeError, "tensorboard_log must be a path or None, got int 123"),
    (55, dict(gama=0.9), TypeError, "gama is no argument of NotesPPO.__init__ (did you mean 'gamma'"),
    (0, dict(use_sde=2), TypeError, "use_sde must be True or False, got int 2"),
    (
        0,
        dict(sde_sample_freq=2.0),
        TypeError,
        "sde_sample_freq must be an int (below 1: once a rollout), got float 2.0",
    ),
    (0, dict(normalize_advantage="yes"), TypeError, "normalize_advantage must be True or False, got str 'yes'"),
    (0, dict(rollout_buffer_class=dict), TypeError, "rollout_buffer_class must be a subclass of RolloutBuffer or None"),
    (0, dict(policy_kwargs=[1]), TypeError, "policy_kwargs must be a dict or None"),
]


@pytest.mark.parametrize(
    ("row", "arguments", "kind", "begins"), CONSTRUCTOR, ids=[f"{row}-{next(iter(a))}" for row, a, _, _ in CONSTRUCTOR]
)
def test_wrong_constructor_argument(row, arguments, kind, begins):
    with pytest.raises(kind, match="^" + re.escape(begins)):
        build(**arguments)


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (dict(rms_prop_eps=-1), "rms_prop_eps must be >= 0 and finite, got -1"),
        (dict(use_rms_prop="no"), "use_rms_prop must be True or False"),
        (dict(gamma=2), "gamma must be in [0, 1], got 2"),
        (dict(batch_size=4), "batch_size is no argument of NotesA2C.__init__"),
    ],
)
def test_a2c_refuses_likewise(arguments, begins):
    with pytest.raises((ValueError, TypeError), match="^" + re.escape(begins)):
        build(NotesA2C, **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(clip_range=5.0), "clip_range=5.0 is above 1"),
        (dict(ent_coef=-0.1), "ent_coef=-0.1 is negative"),
        (dict(device="cuda"), "device='cuda' was requested but no GPU is available, using 'cpu'"),
        (
            dict(n_steps=8, batch_size=7),
            "batch_size=7 does not divide n_steps * n_envs = 8 (n_steps=8, n_envs=1): at the end of every epoch",
        ),
    ],
)
def test_doubtful_argument_warns(arguments, words, monkeypatch):
    monkeypatch.setattr(th.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match=re.escape(words)):
        build(**arguments)


def test_a_device_that_pytorch_was_not_built_for_is_refused_and_those_at_hand_are_named(monkeypatch):
    def zeros(*size, device):
        raise AssertionError("Torch not compiled with XPU enabled")

    monkeypatch.setattr(th, "zeros", zeros)
    monkeypatch.setattr(th.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(th.accelerator, "current_accelerator", lambda: th.device("cuda"))
    words = "device must be 'cpu' or 'cuda' or 'auto' here, got 'xpu' (Torch not compiled with XPU enabled)"
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        build(device="xpu")


def test_no_limit_on_the_gradient_is_allowed():
    build(max_grad_norm=None, n_steps=8, batch_size=8).learn(8)


PAIR = spaces.Tuple((BOX, spaces.Discrete(2)))
OBSERVATIONS = [
    (spaces.Graph(BOX, None), "of type Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of such, got Graph"),
    (spaces.Text(5), "of type Box, .*, got Text"),
    (spaces.Sequence(BOX), "of type Box, .*, got Sequence"),
    (spaces.OneOf([BOX, spaces.Discrete(2)]), "of type Box, .*, got OneOf"),
    (PAIR, "of type Box, .*, got Tuple"),  # row 48
    (spaces.Dict(a=BOX, b=spaces.Sequence(BOX)), "of type Box, .*, got Dict.*, in which Sequence.* is not"),
    (spaces.Dict(a=spaces.Dict(b=BOX)), "of type Box, .*, in which Dict.* is not"),
    (spaces.Dict(a=PAIR), "of type Box, .*, in which Tuple.* is not"),
    (spaces.Dict(), "with something in it, got Dict"),
    (spaces.Discrete(4, start=2), r"of numbers that begin at 0 \(subtract .*, got Discrete"),
    (spaces.Discrete(4, start=-1), "of numbers that begin at 0 .*, got Discrete"),
    (spaces.Dict(a=BOX, b=spaces.Discrete(3, start=1)), "of numbers that begin at 0 .*, in which Discrete.* is not"),
    (spaces.MultiDiscrete([3, 4], start=[0, 1]), "of numbers that begin at 0 .*, got MultiDiscrete"),
    (spaces.MultiDiscrete([[2, 3], [2, 2]]), "of one dimension if it is a MultiDiscrete .*, got MultiDiscrete"),
    (spaces.Dict(a=spaces.MultiDiscrete([[2, 3], [2, 2]])), "of one dimension .*, in which MultiDiscrete"),
    (spaces.Box(0, 1, ()), "of at least one number in one dimension if it is a Box, got Box"),
    (spaces.Box(0, 1, (0,)), "of at least one number in one dimension if it is a Box, got Box"),
]
ACTIONS = [
    (
        spaces.Box(-np.inf, np.inf, (1,)),
        "within bounds: Continuous action space must have a finite .*, got Box",
    ),  # row 49
    (PAIR, "of type Box, Discrete, MultiDiscrete, MultiBinary, got Tuple"),
    (spaces.Dict(a=BOX), "of type Box, .*, got Dict"),
    (spaces.Text(5), "of type Box, .*, got Text"),
    (spaces.MultiBinary([2, 2]), "of one dimension: Multi-dimensional MultiBinary.*, got MultiBinary"),
    (spaces.MultiDiscrete([[2, 3], [2, 2]]), "of one dimension if it is a MultiDiscrete .*, got MultiDiscrete"),
    (spaces.Box(0, 1, (0,)), "with something in it, got Box"),
]


@pytest.mark.parametrize(("space", "words"), OBSERVATIONS, ids=lambda value: type(value).__name__)
def test_observation_spaces_that_nobody_can_take_are_refused_by_name(space, words):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    for kind in (ValueError, NotImplementedError):  # ours, and stock's for some of them
        with pytest.raises(kind, match="^env must have an observation space " + words):
            build(env=SpaceEnv(space, spaces.Discrete(2)), policy=policy)


@pytest.mark.parametrize(("space", "words"), ACTIONS, ids=lambda value: type(value).__name__)
def test_action_spaces_that_nobody_can_take_are_refused_by_name(space, words):
    for algorithm in (NotesPPO, NotesA2C):
        with pytest.raises(ValueError, match="^env must have an action space " + words):
            build(algorithm, env=SpaceEnv(BOX, space))
    with pytest.raises(AssertionError, match="^env must have an action space " + words):  # stock's kind
        build(env=DummyVecEnv([lambda: SpaceEnv(BOX, space)]))


class Lonely(BaseFeaturesExtractor):
    """Takes an observation that is one number without a dimension."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 1)

    def forward(self, observations):
        return observations.reshape(-1, 1)


def test_a_space_that_an_extractor_of_ones_own_can_take_is_taken():
    arguments = dict(policy_kwargs=dict(features_extractor_class=Lonely), n_steps=8, batch_size=8)
    build(env=SpaceEnv(spaces.Box(0, 1, ()), spaces.Discrete(2)), **arguments).learn(8)


def test_gsde_needs_continuous_actions():
    with pytest.raises(ValueError, match=r"gSDE\) can only be used with continuous actions"):  # row 54: SB3's own
        build(env="CartPole-v1", use_sde=True)


class Fine(BaseCallback):
    def _on_step(self):
        return True


LEARN = [
    (56, dict(total_timesteps=-5), ValueError, "total_timesteps must be a number >= 0, got -5"),
    (56, dict(total_timesteps=NAN), ValueError, "total_timesteps must be a number >= 0, got nan"),
    (57, dict(total_timesteps="16"), TypeError, "total_timesteps must be a number >= 0, got str '16'"),
    (58, dict(log_interval=2.5), TypeError, "log_interval must be an int >= 1, got float 2.5"),
    (58, dict(log_interval=0), ValueError, "log_interval must be an int >= 1 or None, got 0"),
    (58, dict(log_interval=-1), ValueError, "log_interval must be an int >= 1 or None, got -1"),
    (59, dict(callback=3), TypeError, "callback must be a BaseCallback, a callable or a list of BaseCallbacks, got 3"),
    (
        59,
        dict(callback=[1]),
        TypeError,
        "callback must be a BaseCallback, a callable or a list of BaseCallbacks, item 0 is int 1",
    ),
    (60, dict(reset_num_timesteps="x"), TypeError, "reset_num_timesteps must be True or False, got str 'x'"),
    (60, dict(progress_bar=2), TypeError, "progress_bar must be True or False, got int 2"),
]


@pytest.mark.parametrize(
    ("row", "arguments", "kind", "begins"), LEARN, ids=[f"{row}-{next(iter(a))}" for row, a, _, _ in LEARN]
)
def test_wrong_learn_argument(row, arguments, kind, begins):
    model = build(n_steps=8, batch_size=8)
    with pytest.raises(kind, match="^" + re.escape(begins)):
        model.learn(**dict(total_timesteps=8) | arguments)
    assert model.num_timesteps == 0


def test_right_learn_arguments_are_taken():
    model = build(n_steps=8, batch_size=8)
    for callback in (None, Fine(), [Fine(), Fine()], lambda locals_, globals_: True):
        model.learn(8.0, callback=callback)
    assert model.num_timesteps == 8


def test_learning_without_an_environment_is_refused(tmp_path):
    build(n_steps=8, batch_size=8).save(tmp_path / "model")
    with pytest.raises(ValueError, match="^env is required to learn"):
        NotesPPO.load(tmp_path / "model").learn(8)


def test_bad_schedule_value_in_mid_training_is_refused():
    model = build(n_steps=8, batch_size=8, clip_range=lambda progress: 0.2 if progress > 0.6 else -1.0)
    with pytest.raises(ValueError, match="^clip_range schedule returned -1.0 at progress 0.5"):
        model.learn(16)


def test_unknown_environment_is_also_gymnasiums_error():
    with pytest.raises(gym.error.NameNotFound):
        build(env="Bogus-v0")


def test_a_class_with_keywords_of_its_own_is_left_alone():
    class Wide(NotesPPO):
        def __init__(self, *args, extra=None, **kwargs):
            self.extra = extra
            super().__init__(*args, **kwargs)

    assert Wide("MlpPolicy", make_vec_env("CartPole-v1"), extra=3, n_steps=64).extra == 3
