"""Files that stock SB3, sb3-contrib and rl_zoo3 write: they load, predict what their own class predicts, and learn on."""

import contextlib
import io
import subprocess
import sys
import types

import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvMultiBinary, InvalidActionEnvMultiDiscrete
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence import load_safe
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from tests import environments

PPO_SMALL = dict(n_steps=32, batch_size=32, n_epochs=2, learning_rate=1e-2, clip_range=0.1, ent_coef=0.01)
SMALL = {
    PPO: PPO_SMALL,
    A2C: dict(n_steps=32, learning_rate=1e-2),
    MaskablePPO: PPO_SMALL,
    # One minibatch, which is not cut anywhere: sb3-contrib cuts at a random place.
    RecurrentPPO: PPO_SMALL,
}
OURS = {PPO: NotesPPO, A2C: NotesA2C, MaskablePPO: NotesPPO, RecurrentPPO: NotesPPO}
LSTM = dict(lstm_hidden_size=16, net_arch=[8])
SDE = dict(use_sde=True, sde_sample_freq=4)


def of(space, masked=False):
    """A maker of environments; their masks forbid another action at each step."""

    def make():
        env = environments.make(space)
        if not masked:
            return env
        return ActionMasker(env, lambda env: np.arange(3) != env.unwrapped.count % 3)

    return make


#: Who writes it, policy, environment, arguments.
FILES = {
    "ppo": (PPO, "MlpPolicy", "CartPole-v1", {}),
    "ppo cnn": (PPO, "CnnPolicy", of("image"), {}),
    "ppo multi input": (PPO, "MultiInputPolicy", of("dict"), {}),
    "ppo gsde": (PPO, "MlpPolicy", of("box"), SDE),
    "ppo two extractors": (PPO, "CnnPolicy", of("image"), dict(policy_kwargs=dict(share_features_extractor=False))),
    "a2c": (A2C, "MlpPolicy", "CartPole-v1", {}),
    "a2c cnn": (A2C, "CnnPolicy", of("image"), {}),
    "a2c multi input": (A2C, "MultiInputPolicy", of("dict"), {}),
    "a2c adam": (A2C, "MlpPolicy", of("box"), dict(use_rms_prop=False)),
    "maskable": (MaskablePPO, "MlpPolicy", of("discrete", masked=True), dict(clip_range_vf=0.2)),
    "maskable cnn": (MaskablePPO, "CnnPolicy", of("image", masked=True), {}),
    "maskable multi input": (MaskablePPO, "MultiInputPolicy", of("dict", masked=True), {}),
    "maskable multi discrete": (
        MaskablePPO,
        "MlpPolicy",
        lambda: InvalidActionEnvMultiDiscrete(dims=[5, 4], n_invalid_actions=3),
        dict(batch_size=None),
    ),
    "recurrent": (RecurrentPPO, "MlpLstmPolicy", "CartPole-v1", dict(policy_kwargs=LSTM)),
    "recurrent cnn": (RecurrentPPO, "CnnLstmPolicy", of("image"), dict(policy_kwargs=LSTM)),
    "recurrent multi input": (RecurrentPPO, "MultiInputLstmPolicy", of("dict"), dict(policy_kwargs=LSTM)),
    "recurrent gsde": (RecurrentPPO, "MlpLstmPolicy", of("box"), SDE | dict(policy_kwargs=LSTM, batch_size=None)),
    "recurrent shared": (
        RecurrentPPO,
        "MlpLstmPolicy",
        of("multi_discrete"),
        dict(policy_kwargs=LSTM | dict(shared_lstm=True, enable_critic_lstm=False)),
    ),
    "recurrent critic without": (
        RecurrentPPO,
        "MlpLstmPolicy",
        of("discrete_observation"),
        dict(policy_kwargs=LSTM | dict(enable_critic_lstm=False, n_lstm_layers=2)),
    ),
}
FAST = ("ppo", "a2c", "maskable", "maskable multi discrete", "recurrent", "recurrent gsde")
EVERY_FILE = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in FILES]


def environment(name, statistics=None):
    writer, _, make, _ = FILES[name]
    env = make_vec_env(make, 1 if writer is RecurrentPPO else 2, seed=1)
    return env if statistics is None else VecNormalize.load(str(statistics), env)


def saved(name, folder, normalize=False):
    """A model of theirs that has learned, and remembers in its optimiser; and the statistics of its observations."""
    writer, policy, _, arguments = FILES[name]
    env = environment(name)
    env = VecNormalize(env) if normalize else env
    model = writer(policy, env, seed=0, device="cpu", **SMALL[writer] | arguments)
    model.learn(model.n_steps * env.num_envs)
    model.save(folder / "model")
    if not normalize:
        return folder / "model.zip", None
    env.save(str(folder / "vecnormalize.pkl"))
    return folder / "model.zip", folder / "vecnormalize.pkl"


def both_loaded(name, path, statistics=None, **arguments):
    writer = FILES[name][0]
    for algorithm in (OURS[writer], writer):
        yield algorithm.load(path, env=environment(name, statistics), device="cpu", **arguments)


def played(model, deterministic, steps=12):
    """Actions of a while, with the masks and the memory that there are."""
    model.set_random_seed(5)
    if model.use_sde:
        model.policy.reset_noise(model.n_envs)
    env, state, actions = model.get_env(), None, []
    observation, starts = env.reset(), np.ones(model.n_envs, dtype=bool)
    for _ in range(steps):
        masks = {}
        if isinstance(model, MaskablePPO) or getattr(model, "action_masking", False):
            masks["action_masks"] = np.stack(env.env_method("action_masks"))
        action, state = model.predict(observation, state, starts, deterministic=deterministic, **masks)
        observation, _, starts, _ = env.step(action)
        actions.append(action)
    return np.array(actions)


def largest_difference(one, other):
    theirs = other.policy.state_dict()
    assert one.policy.state_dict().keys() == theirs.keys()
    return max((weight - theirs[name]).abs().max().item() for name, weight in one.policy.state_dict().items())


def check_equal(name, path, statistics=None):
    ours, theirs = both_loaded(name, path, statistics)
    assert largest_difference(ours, theirs) == 0.0
    for deterministic in (True, False):
        np.testing.assert_allclose(played(ours, deterministic), played(theirs, deterministic), atol=1e-5)
    ours, theirs = both_loaded(name, path, statistics)
    before = {key: weight.clone() for key, weight in ours.policy.state_dict().items()}
    for model in (ours, theirs):
        model.set_random_seed(5)
        model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)
    # Stock's bits; sb3-contrib's sums are taken in another order.
    assert largest_difference(ours, theirs) <= (0.0 if FILES[name][0] in (PPO, A2C) else 1e-5)
    assert not all(th.equal(before[key], weight) for key, weight in ours.policy.state_dict().items())
    assert ours.num_timesteps == theirs.num_timesteps > ours.n_steps * ours.n_envs
    assert ours._n_updates == theirs._n_updates


@pytest.fixture(autouse=True)
def minibatches_of_contrib_are_not_cut(monkeypatch):
    monkeypatch.setattr("sb3_contrib.common.recurrent.buffers.np.random.randint", lambda *_: 0)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_file_predicts_and_learns_on_as_its_own_class_does(name, tmp_path):
    check_equal(name, *saved(name, tmp_path))


@pytest.mark.parametrize(
    "name", [pytest.param("ppo"), *(pytest.param(name, marks=pytest.mark.slow) for name in ("a2c", "recurrent"))]
)
def test_statistics_beside_a_file_go_on_with_it(name, tmp_path):
    check_equal(name, *saved(name, tmp_path, normalize=True))


@pytest.mark.parametrize("name", ["a2c", "maskable", "recurrent"])
def test_the_hubs_custom_objects_replace_what_is_in_the_file(name, tmp_path):
    """What is copied from one model card to the next: schedules that cannot be unpickled under another Python."""
    path, _ = saved(name, tmp_path)
    usual = {"lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    ours, theirs = both_loaded(name, path, custom_objects=usual)
    np.testing.assert_allclose(played(ours, True), played(theirs, True), atol=1e-5)
    with contextlib.suppress(AttributeError):  # A2C has none
        assert ours.clip_range(1.0) == theirs.clip_range(1.0) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "a2c", "ppo_lstm"])
def test_what_rl_zoo3_has_trained_is_played_and_trained_on(algo, tmp_path):
    settings = ["n_steps:32", "normalize:True", "learning_rate:0.01", f"n_envs:{1 if algo == 'ppo_lstm' else 2}"]
    settings += [] if algo == "a2c" else ["batch_size:32", "n_epochs:2", "clip_range:0.1"]
    if algo == "ppo_lstm":
        settings += ["policy:'MlpLstmPolicy'", "policy_kwargs:dict(lstm_hidden_size=16,net_arch=[8])"]
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", algo, "--env", "CartPole-v1", "-n", "64", "--seed", "1"]
    command += ["-f", str(tmp_path), "--eval-freq", "-1", "--device", "cpu", "-params", *settings]
    subprocess.run(command, check=True, capture_output=True)
    folder = tmp_path / algo / "CartPole-v1_1"
    name = {"ppo_lstm": "recurrent"}.get(algo, algo)
    check_equal(name, folder / "CartPole-v1.zip", folder / "CartPole-v1" / "vecnormalize.pkl")


# -- without sb3-contrib, and what cannot be read --------------------------------------------------------------


@pytest.fixture
def no_contrib(monkeypatch):
    def uninstall():
        for name in [name for name in sys.modules if name.split(".")[0] == "sb3_contrib"]:
            monkeypatch.setitem(sys.modules, name, None)

    return uninstall


@pytest.mark.parametrize("name", ["maskable", "recurrent"])
def test_files_of_contrib_are_read_where_it_is_not_installed(name, tmp_path, no_contrib):
    path, _ = saved(name, tmp_path)
    env = environment(name)
    no_contrib()
    with pytest.raises(ImportError):
        import sb3_contrib  # noqa: F401
    model = NotesPPO.load(path, env=env, device="cpu")
    assert model.action_masking is (name == "maskable")
    assert isinstance(model.policy, NotesRecurrentPolicy) is (name == "recurrent")
    model.learn(model.n_steps * model.n_envs)
    safely = load_safe(path, env, device="cpu")
    assert safely.action_masking is model.action_masking
    assert type(safely.policy) is type(model.policy)
    assert type(safely.rollout_buffer) is type(model.rollout_buffer)


def test_a_package_that_is_missing_is_named_with_what_needs_it(tmp_path, monkeypatch):
    module = types.ModuleType("extractors_of_mine")
    module.Mine = type("Mine", (FlattenExtractor,), {"__module__": "extractors_of_mine"})
    monkeypatch.setitem(sys.modules, "extractors_of_mine", module)
    kwargs = dict(features_extractor_class=module.Mine)
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu", **PPO_SMALL).save(tmp_path / "model")
    monkeypatch.delitem(sys.modules, "extractors_of_mine")
    with pytest.raises(ModuleNotFoundError, match="^path must be a file whose classes can be imported") as caught:
        NotesPPO.load(tmp_path / "model")
    assert "of which policy_kwargs needs 'extractors_of_mine', which is not installed" in str(caught.value)
    model = NotesPPO.load(tmp_path / "model", custom_objects=dict(policy_kwargs={}))
    assert type(model.policy.features_extractor) is FlattenExtractor


def test_masked_bits_of_contrib_are_refused_with_the_reason(tmp_path):
    """Each of its bits is a choice of two, with a number each; of ours one number is enough."""
    env = InvalidActionEnvMultiBinary(dims=5, n_invalid_actions=2)
    MaskablePPO("MlpPolicy", env, device="cpu", **PPO_SMALL).save(tmp_path / "model")
    for load in (NotesPPO.load, load_safe):
        with pytest.raises(ValueError, match="^path must not be the file of a MaskablePPO with MultiBinary actions"):
            load(tmp_path / "model", env)


def test_a_stream_is_read_like_a_file(tmp_path):
    path, _ = saved("recurrent", tmp_path)
    for stream in (io.BytesIO(path.read_bytes()), path.open("rb")):
        with stream:
            model = NotesPPO.load(stream, device="cpu")
            assert isinstance(model.policy, NotesRecurrentPolicy)


def test_stocks_files_are_learned_from_in_our_buffer(tmp_path):
    """Theirs is named in the file although nobody asked for it, and neither compiled nor replayed."""
    path, _ = saved("ppo", tmp_path)
    assert type(NotesPPO.load(path).rollout_buffer) is type(NotesPPO("MlpPolicy", "CartPole-v1").rollout_buffer)


def test_a_policy_class_of_contrib_is_refused_with_the_name_of_ours():
    class Mine(RecurrentPPO.policy_aliases["MlpLstmPolicy"]):
        pass

    for policy, ours in (
        (Mine, "NotesRecurrentPolicy has the same networks"),
        (
            MaskablePPO.policy_aliases["CnnPolicy"],
            "NotesActorCriticCnnPolicy has the same networks, with action_masking",
        ),
    ):
        with pytest.raises(InvalidValueError, match=f"^policy must be a class of SB3's or ours, got .*: {ours}"):
            NotesPPO(policy, "CartPole-v1")


def test_contrib_takes_our_weights_by_set_parameters_only(tmp_path):
    ours = NotesPPO("MlpLstmPolicy", "CartPole-v1", policy_kwargs=LSTM, seed=3, device="cpu", **PPO_SMALL).learn(32)
    ours.save(tmp_path / "model")
    theirs = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", policy_kwargs=LSTM, device="cpu", **PPO_SMALL)
    theirs.set_parameters(str(tmp_path / "model"))
    assert largest_difference(ours, theirs) == 0.0
    with pytest.raises(ValueError, match="Policy must subclass"):
        RecurrentPPO.load(tmp_path / "model")
