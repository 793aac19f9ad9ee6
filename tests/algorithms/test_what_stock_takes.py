"""What stock SB3 takes and can work with is taken, and trains the same weights; what is refused all the same is listed in docs/sb3.md."""

import json
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import sb3_ppo_notes
from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.persistence import load_checkpoint, load_safe, save_checkpoint
from sb3_ppo_notes.policies.masks import collect_masks
from sb3_ppo_notes.rules import ClippedSurrogate, Optimization, UpdateRule
from tests.environments import BOX, SpaceEnv, make

NAN, INF = float("nan"), float("inf")
PAIRS = {"ppo": (PPO, NotesPPO), "a2c": (A2C, NotesA2C)}


def env(action="box"):
    return make(action)


def built(algorithm, environment=None, **arguments):
    small = dict(n_steps=16, seed=0, device="cpu", learning_rate=1e-2, policy_kwargs=dict(net_arch=[8]))
    if algorithm in PAIRS["ppo"]:
        small |= dict(batch_size=8, n_epochs=2)
    return algorithm("MlpPolicy", environment or env(), **small | arguments)


def weights(model):
    return list(model.policy.state_dict().values())


def assert_equal(one, other):
    assert all(th.equal(*pair) for pair in zip(weights(one), weights(other), strict=True))


BOTH = [
    dict(learning_rate=0.0),
    dict(learning_rate=0, vf_coef=0, gae_lambda=0, verbose=-1),
    dict(learning_rate=lambda progress: 0.0, stats_window_size=0),
    dict(learning_rate=LinearSchedule(1e-2, 0.0, 0.5), stats_window_size=None),
    dict(n_steps=np.int64(16), max_grad_norm=np.array(0.1), policy_kwargs=dict(net_arch=np.array([8, 8]))),
    dict(n_steps=1, normalize_advantage=False),
    dict(gamma=np.float64(0.9)),
    dict(gamma=np.float64(0.9), gae_lambda=np.float32(0.8)),
    dict(gamma=np.float32(0.9), ent_coef=np.float32(0.01)),
    dict(gae_lambda=np.float64(0.9), ent_coef=th.tensor(0.01), vf_coef=th.tensor([0.25])),
    dict(max_grad_norm=INF, normalize_advantage=np.bool_(True)),
    dict(normalize_advantage=0, use_sde=np.True_, sde_sample_freq=-7),
    dict(policy_kwargs=dict(net_arch=dict(pi=(8,)), optimizer_kwargs=dict(eps=0))),
]
ONLY_PPO = [
    dict(batch_size=1000, n_epochs=np.int64(2)),
    dict(batch_size=1, normalize_advantage=False),
    dict(clip_range=0.0),
    dict(clip_range=lambda progress: 0.0, clip_range_vf=lambda progress: progress),
    dict(clip_range=INF, clip_range_vf=INF, target_kl=INF),
    dict(target_kl=np.float64(1e-4), batch_size=np.int32(8)),
]
ONLY_A2C = [dict(rms_prop_eps=0, use_rms_prop=np.True_), dict(use_rms_prop=0)]
TAKEN = [("ppo", row) for row in BOTH + ONLY_PPO] + [("a2c", row) for row in BOTH + ONLY_A2C]


def named(length):
    """Names of cases that are the same in every process: no addresses."""
    return lambda value: re.sub(r" at 0x[0-9a-f]+", "", str(value))[:length]


@pytest.mark.filterwarnings("ignore:.*mini-batch", "ignore:clip_range=inf is above 1")
@pytest.mark.parametrize(("pair", "arguments"), TAKEN, ids=named(60))
def test_what_stock_takes_trains_the_same_weights(pair, arguments):
    stock, notes = (built(algorithm, **arguments).learn(32) for algorithm in PAIRS[pair])
    assert_equal(stock, notes)


def test_a_float64_of_numpy_is_not_mistaken_for_a_float_that_equals_it():
    built(NotesA2C, gae_lambda=0.9).learn(32)
    assert_equal(*(built(algorithm, gae_lambda=np.float64(0.9)).learn(32) for algorithm in PAIRS["a2c"]))


@pytest.mark.parametrize("verbose", [3, 10**6])
def test_any_verbosity_is_taken(verbose, capsys):
    built(NotesPPO, verbose=verbose).learn(16)
    assert "Using cpu device" in capsys.readouterr().out


def test_a_batch_larger_than_the_rollout_warns_as_stock_does():
    words = "batch_size=1000 is larger than n_steps * n_envs = 16 (n_steps=16, n_envs=1): every epoch will be one truncated "
    with pytest.warns(UserWarning, match=re.escape(words) + "mini-batch of size 16"):
        model = built(NotesPPO, batch_size=1000)
    with pytest.warns(UserWarning, match="truncated mini-batch of size 16"):
        built(PPO, batch_size=1000)
    assert model.learn(16).last_report.n_gradient_steps == 2


def test_a_rule_that_drops_the_only_minibatch_is_refused():
    rule = UpdateRule(optimization=Optimization(drop_last=True))
    with pytest.raises(ValueError, match=r"^batch_size must be at most n_steps \* n_envs = 16 when the rule drops"):
        built(NotesPPO, batch_size=17, rule=rule)


def test_limits_of_a_rule_may_be_0_or_infinite():
    for clip_range in (0.0, INF):
        rule = UpdateRule(policy_objective=ClippedSurrogate(clip_range))
        assert_equal(built(NotesPPO, rule=rule).learn(32), built(PPO, clip_range=clip_range).learn(32))


# What learn takes -----------------------------------------------------------------------------------------------------


class StopAt(BaseCallback):
    def _on_step(self):
        return self.num_timesteps < 40


@pytest.mark.parametrize(
    "arguments",
    [
        dict(total_timesteps=0),
        dict(total_timesteps=33.3),
        dict(total_timesteps=np.float32(33.3)),
        dict(total_timesteps=np.int64(32)),
        dict(total_timesteps=INF, callback=StopAt),
        dict(total_timesteps=32, log_interval=1.0, reset_num_timesteps=np.True_, progress_bar=0),
    ],
)
def test_what_stocks_learn_takes_trains_the_same_weights(arguments):
    models = []
    for algorithm in PAIRS["ppo"]:
        fresh = {name: value() if isinstance(value, type) else value for name, value in arguments.items()}
        models.append(built(algorithm, learning_rate=LinearSchedule(1e-2, 0.0, 1.0)).learn(**fresh))
    assert_equal(*models)
    assert models[0].num_timesteps == models[1].num_timesteps


# What is refused though stock takes it --------------------------------------------------------------------------------

DOCUMENT = Path(sb3_ppo_notes.__file__).parent / "docs" / "sb3.md"
DISCOUNT = "`gamma`, `gae_lambda` outside [0, 1]"
CLIP = "`clip_range` below 0 or NaN"
CRITIC = "`vf_coef` below 0"
NORM = "`max_grad_norm` at or below 0"
KL = "`target_kl` at or below 0 or NaN"
KIND = 'another type: `n_epochs=True`, `use_sde="no"` or `None`, `sde_sample_freq=2.0`, `max_grad_norm="0.5"`, a reward `"1"`'
ARCH = "`net_arch` with a layer of 0 units, or keys beside `pi` and `vf`"
STEPS = "`learn(-5)`, `log_interval=-1`"
START = "actions of a `Discrete` or `MultiDiscrete` that do not begin at 0"
MASK = "a mask that allows no action"

# (row of docs/sb3.md, arguments, how our message begins)
REFUSED = [
    (DISCOUNT, dict(gamma=1.5), "gamma must be in [0, 1], got 1.5"),
    (DISCOUNT, dict(gamma=-0.1), "gamma must be in [0, 1], got -0.1"),
    (DISCOUNT, dict(gae_lambda=2), "gae_lambda must be in [0, 1], got 2"),
    (CLIP, dict(clip_range=-0.2), "clip_range must be >= 0"),
    (CLIP, dict(clip_range=NAN), "clip_range must be >= 0"),
    (CLIP, dict(clip_range=lambda progress: -1.0), "clip_range schedule returned -1.0 at progress 1.0"),
    (CLIP, dict(clip_range_vf=lambda progress: -1.0), "clip_range_vf schedule returned -1.0 at progress 1.0"),
    (CRITIC, dict(vf_coef=-1), "vf_coef must be >= 0"),
    (NORM, dict(max_grad_norm=0), "max_grad_norm must be > 0, or None for no clipping, got 0"),
    (NORM, dict(max_grad_norm=-1), "max_grad_norm must be > 0, or None for no clipping, got -1"),
    (KL, dict(target_kl=0), "target_kl must be > 0, or None for no early stop, got 0"),
    (KL, dict(target_kl=-1), "target_kl must be > 0, or None for no early stop, got -1"),
    (KL, dict(target_kl=NAN), "target_kl must be > 0, or None for no early stop, got nan"),
    (KIND, dict(n_epochs=True), "n_epochs must be an int >= 1, got bool True"),
    (KIND, dict(learning_rate=True), "learning_rate must be >= 0 and finite (a float or a schedule), got bool True"),
    (KIND, dict(seed=True), "seed must be an int in [0, 4294967295] or None, got bool True"),
    (KIND, dict(use_sde="no"), "use_sde must be True or False, got str 'no'"),
    (KIND, dict(normalize_advantage=None), "normalize_advantage must be True or False, got NoneType None"),
    (KIND, dict(sde_sample_freq=2.0), "sde_sample_freq must be an int (below 1: once a rollout), got float 2.0"),
    (KIND, dict(verbose=1.5), "verbose must be an int, got float 1.5"),
    (KIND, dict(max_grad_norm="0.5"), "max_grad_norm must be > 0, or None for no clipping, got str '0.5'"),
    (KIND, dict(rollout_buffer_kwargs=[]), "rollout_buffer_kwargs must be a dict or None, got list []"),
    (ARCH, dict(policy_kwargs=dict(net_arch=[0])), "net_arch must be a list of positive ints"),
    (
        ARCH,
        dict(policy_kwargs=dict(net_arch=dict(pi=[8], qf=[8]))),
        "net_arch must be a list of positive ints or a dict of pi",
    ),
]


@pytest.mark.filterwarnings("ignore:Initializing zero-element", "ignore:.*mini-batch")
@pytest.mark.parametrize(("row", "arguments", "begins"), REFUSED, ids=named(50))
def test_refused_though_stock_takes_it(row, arguments, begins):
    built(PPO, **arguments).learn(16)
    with pytest.raises((ValueError, TypeError), match="^" + re.escape(begins)):
        built(NotesPPO, **arguments)


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (dict(total_timesteps=-5), "total_timesteps must be a number >= 0, got -5"),
        (dict(total_timesteps=16, log_interval=-1), "log_interval must be an int >= 1 or None, got -1"),
    ],
)
def test_learn_refuses_what_stock_takes(arguments, begins):
    built(PPO).learn(**arguments)
    with pytest.raises(ValueError, match="^" + re.escape(begins)):
        built(NotesPPO).learn(**arguments)


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3], start=[1, 0])], ids=repr)
def test_actions_that_do_not_begin_at_0_are_refused_though_stock_sends_others(space):
    built(PPO, SpaceEnv(BOX, space)).learn(16)
    with pytest.raises(
        ValueError, match="^env must have an action space of numbers that begin at 0 .*" + type(space).__name__
    ):
        built(NotesPPO, SpaceEnv(BOX, space))


class Paying(SpaceEnv):
    """Masks and rewards of any type."""

    def __init__(self, reward=lambda reward: reward, mask=None):
        super().__init__(BOX, spaces.Discrete(3))
        self.reward, self.mask = reward, mask

    def action_masks(self):
        return self.mask

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, self.reward(reward), *rest


def test_text_for_a_reward_is_refused_though_stock_takes_it():
    built(PPO, Paying(str)).learn(16)
    with pytest.raises(TypeError, match="^reward must be a number, got str"):
        built(NotesPPO, Paying(str)).learn(16)


def test_a_mask_that_allows_nothing_is_refused_though_contrib_takes_it():
    MaskablePPO("MlpPolicy", Paying(mask=[0, 0, 0]), n_steps=16, batch_size=16).learn(16)
    with pytest.raises(ValueError, match="^action_masks must allow at least one action"):
        built(NotesPPO, Paying(mask=[0, 0, 0]), action_masking=True).learn(16)


def test_the_document_lists_all_that_is_refused():
    text = DOCUMENT.read_text().split("Refused though stock SB3 takes it")[1]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", text.split("\n\n")[1], flags=re.MULTILINE)[1:]
    assert {first for first, _ in rows} == {row for row, _, _ in REFUSED} | {STEPS, START, MASK}


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    built(PPO, DummyVecEnv([env] * 4), batch_size=64).learn(64).save(tmp_path / "model")
    return tmp_path / "model.zip"


def changed(file, **attributes):
    """The file with other attributes, ``...`` for none."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"]) | attributes
    members["data"] = json.dumps({name: value for name, value in data.items() if value is not ...}).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def assert_predicts_as_stock(model, stock):
    observations = np.stack([BOX.sample() for _ in range(5)])
    assert np.array_equal(
        model.predict(observations, deterministic=True)[0], stock.predict(observations, deterministic=True)[0]
    )


HUB = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}


@pytest.mark.parametrize(
    "arguments",
    [
        dict(custom_objects=HUB),
        dict(custom_objects=HUB | {"observation_space": BOX, "action_space": env().action_space}),
        dict(custom_objects=dict(learning_rate=0, clip_range=0.0)),
        dict(custom_objects=HUB, seed=3, verbose=5, tensorboard_log=None, print_system_info=False),
        dict(learning_rate=0.0, n_steps=8, batch_size=1000),
        dict(learning_rate=0.0, env=env),
        dict(custom_objects=HUB, env=lambda: DummyVecEnv([env] * 2)),
    ],
    ids=lambda value: ",".join(value),
)
def test_a_file_of_the_hub_loads_predicts_and_learns_as_with_stock(arguments, file):
    environment = arguments.get("env")
    loaded = {}
    for algorithm in PAIRS["ppo"]:
        model = algorithm.load(file, **arguments | {"env": environment and environment()}, device="cpu")
        loaded[algorithm] = model
        if environment:
            model.set_random_seed(1)
            model.learn(32)
    assert_predicts_as_stock(loaded[NotesPPO], loaded[PPO])
    assert_equal(*loaded.values())


@pytest.mark.parametrize("n_envs", [1, 2, 8])
def test_a_model_of_four_environments_goes_on_with_others_as_stock_does(n_envs, file):
    models = []
    for algorithm in PAIRS["ppo"]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # stock is silent here too
            models.append(algorithm.load(file, env=DummyVecEnv([env] * n_envs), device="cpu"))
        models[-1].set_random_seed(2)
        models[-1].learn(16 * n_envs)
    assert_equal(*models)


def test_a_rollout_of_one_sample_is_learned_from_if_a_file_leads_to_it(tmp_path):
    built(PPO, DummyVecEnv([env] * 4), n_steps=1, batch_size=4).learn(4).save(tmp_path / "model")
    models = []
    for algorithm in PAIRS["ppo"]:
        models.append(algorithm.load(tmp_path / "model", env=env(), device="cpu"))
        models[-1].set_random_seed(2)
        models[-1].learn(3)
    assert_equal(*models)


CANNOT_LEARN = [
    (dict(gamma=1.5), "gamma must be in"),
    (dict(gae_lambda=2), "gae_lambda must be in"),
    (dict(max_grad_norm=0), "max_grad_norm must be > 0"),
    (dict(target_kl=0), "target_kl must be > 0"),
    (dict(vf_coef=-1), "vf_coef must be >= 0"),
    (dict(normalize_advantage="yes"), "normalize_advantage must be True or False"),
    (dict(sde_sample_freq=None), "sde_sample_freq must be an int"),
    (dict(_stats_window_size=-1), "stats_window_size must be an int >= 0"),
    (dict(batch_size=0), "batch_size must be an int >= 1"),
]


@pytest.mark.parametrize(("attributes", "begins"), CANNOT_LEARN, ids=named(40))
def test_a_file_that_cannot_be_learned_with_predicts_and_says_so_before_anything_changes(attributes, begins, file):
    file = changed(file, **attributes)
    stock = PPO.load(file, device="cpu")
    for model in (
        NotesPPO.load(file, device="cpu"),
        NotesPPO.load(file, env=DummyVecEnv([env]), device="cpu"),
        load_safe(file, DummyVecEnv([env] * 2), device="cpu"),
    ):
        assert_predicts_as_stock(model, stock)
        if model.env is not None:
            model.env.reset = None  # learn must not come as far as a reset
            with pytest.raises((ValueError, TypeError), match="^" + begins):
                model.learn(64)
            assert model.num_timesteps == stock.num_timesteps


def test_attributes_that_an_older_sb3_did_not_write_have_the_constructors_values(file):
    names = ["normalize_advantage", "target_kl", "_stats_window_size", "rollout_buffer_class", "rollout_buffer_kwargs"]
    file = changed(file, **dict.fromkeys([*names, "use_sde", "max_grad_norm"], ...))
    model = NotesPPO.load(file, env=env(), device="cpu")
    assert_predicts_as_stock(model, PPO.load(file, device="cpu"))
    assert model.learn(16).normalize_advantage is True


def test_a_schedule_set_between_two_learns_counts_as_in_stock():
    models = [built(algorithm).learn(16) for algorithm in PAIRS["ppo"]]
    for model in models:
        model.lr_schedule = lambda _: 0.0
        model.set_random_seed(3)
        model.learn(16)
    assert_equal(*models)


class Counting:
    """A schedule that depends on how often it has been asked."""

    def __init__(self, factor):
        self.factor, self.calls = factor, 0

    def __call__(self, progress):
        self.calls += 1
        return self.factor * self.calls


@pytest.mark.parametrize("pair", PAIRS)
def test_a_schedule_that_counts_its_calls_counts_as_in_stock(pair, tmp_path):
    names = ["learning_rate", *(["clip_range", "clip_range_vf"] if pair == "ppo" else [])]
    models, calls = [], []
    for algorithm in PAIRS[pair]:
        schedules = {name: Counting(1e-3 if name == "learning_rate" else 0.02) for name in names}
        models.append(built(algorithm, **schedules).learn(32).learn(16))
        calls.append({name: schedule.calls for name, schedule in schedules.items()})
    assert calls[0] == calls[1]
    assert_equal(*models)


def test_an_attribute_set_to_nonsense_between_two_learns_is_refused_before_the_next():
    model = built(NotesPPO).learn(16)
    model.gamma = 3.0
    with pytest.raises(ValueError, match=r"^gamma must be in \[0, 1\], got 3.0"):
        model.learn(16)
    assert model.num_timesteps == 16


@pytest.mark.parametrize(
    "arguments", [dict(gamma=np.float64(0.9)), dict(gae_lambda=np.float32(0.9)), dict(max_grad_norm=INF)]
)
def test_a_checkpoint_of_such_a_model_is_resumed(arguments, tmp_path):
    model = built(NotesPPO, DummyVecEnv([env]), **arguments).learn(INF, StopAt())
    save_checkpoint(model, tmp_path)
    resumed = load_checkpoint(tmp_path, DummyVecEnv([env]), device="cpu")
    (name,) = arguments
    assert type(getattr(resumed, name)) is type(arguments[name])
    assert resumed.resume_report.remaining_timesteps == INF
    resumed.learn(INF, StopAt(), reset_num_timesteps=False)


# Rewards, dones and masks of any array type ---------------------------------------------------------------------------


class Answers(DummyVecEnv):
    """Two environments whose rewards and dones come in another array type."""

    def __init__(self, rewards=lambda rewards: rewards, dones=lambda dones: dones):
        super().__init__([lambda: make("discrete")] * 2)
        self.as_rewards, self.as_dones = rewards, dones

    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        return observations, self.as_rewards(10 * rewards), self.as_dones(dones), infos


KINDS = {
    "int64": dict(rewards=lambda rewards: rewards.astype(np.int64)),
    "uint8": dict(rewards=lambda rewards: rewards.astype(np.uint8)),
    "bool": dict(rewards=lambda rewards: rewards > 5),
    "float16": dict(rewards=lambda rewards: rewards.astype(np.float16)),
    "float64": dict(rewards=lambda rewards: rewards.astype(np.float64)),
    "integer dones": dict(dones=lambda dones: dones.astype(np.int64)),
    "float dones": dict(dones=lambda dones: dones.astype(np.float32)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", PAIRS)
def test_rewards_and_dones_of_another_type_train_as_stock(kind, pair):
    assert_equal(*(built(algorithm, Answers(**KINDS[kind])).learn(64) for algorithm in PAIRS[pair]))


def test_lists_below_a_normaliser_train_as_stock():
    models = [built(algorithm, VecNormalize(Answers(list))).learn(64) for algorithm in PAIRS["ppo"]]
    assert_equal(*models)


@pytest.mark.parametrize("wrap", [lambda venv: venv, VecMonitor], ids=["bare", "monitored"])
def test_lists_and_tensors_that_stock_stumbles_over_mean_what_arrays_mean(wrap):
    plain = built(NotesPPO, wrap(Answers())).learn(64)
    assert_equal(plain, built(NotesPPO, wrap(Answers(np.ndarray.tolist, np.ndarray.tolist))).learn(64))
    assert_equal(plain, built(NotesPPO, Answers(th.as_tensor, th.as_tensor)).learn(64))


@pytest.mark.parametrize("reward", [int, np.float64, np.array, th.tensor, lambda reward: reward > 1])
def test_rewards_of_an_environment_train_as_stock(reward):
    assert_equal(*(built(algorithm, DummyVecEnv([lambda: Paying(reward)] * 2)).learn(64) for algorithm in PAIRS["ppo"]))


MASKS = [
    [1, 0, 1],
    (True, False, True),
    [0.5, 0.0, 1.0],
    np.array([1, 0, 2]),
    np.array([[1, 0, 1]]),
    th.tensor([1.0, 0.0, 1.0]),
]


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_masks_of_any_type_mean_what_booleans_mean(mask):
    assert collect_masks(DummyVecEnv([lambda: Paying(mask=mask)] * 2)).tolist() == [[True, False, True]] * 2
    model = built(NotesPPO, Paying(mask=mask), action_masking=True)
    assert {int(model.predict(BOX.sample(), action_masks=mask)[0]) for _ in range(20)} <= {0, 2}


@pytest.mark.parametrize("mask", [[[1, 0], [1, 1, 1]], [[1], [0, 1]]], ids=repr)
def test_a_ragged_mask_is_named(mask):
    with pytest.raises(ValueError, match="^action_masks must be rectangular .* from environment 0"):
        built(NotesPPO, Paying(mask=mask), action_masking=True).learn(16)
