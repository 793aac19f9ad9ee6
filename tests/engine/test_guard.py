"""NaN and infinity at every stage: named, stopped before they reach a weight, and the update left out if so wished."""

import contextlib
import copy
import itertools
import logging
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.on_policy import MOST_SKIPPED_UPDATES
from sb3_ppo_notes.engine.step import EagerStepper
from sb3_ppo_notes.formulas.checks import InvalidValueError, NonFiniteError
from sb3_ppo_notes.rollouts import LeanVecEnv, SupervisedVecEnv
from sb3_ppo_notes.rollouts.finite import ObservationRangeWarning, share_far_outside
from sb3_ppo_notes.rules import (
    AdaptiveLearningRate,
    AdvantageNormalization,
    EarlyStop,
    KLPenalty,
    Optimization,
    OptimizerSettings,
    SeparateOptimizers,
    UpdateRule,
)
from tests import environments

#: Every way of stepping: which algorithm, and its arguments.
WAYS = {
    "eager": (NotesPPO, dict(batch_size=32)),
    "compiled": (NotesPPO, dict(batch_size=32, compile=True)),
    "recurrent": (NotesPPO, dict(batch_size=32, policy="MlpLstmPolicy")),
    "separate": (
        NotesPPO,
        dict(
            batch_size=32,
            rule=UpdateRule(
                advantage_normalization=AdvantageNormalization("none"),
                optimization=Optimization(separate=SeparateOptimizers(*[OptimizerSettings(n_epochs=3)] * 2)),
            ),
        ),
    ),
    "float16": (NotesPPO, dict(batch_size=32, precision="float16")),
    "custom optimiser": (
        NotesPPO,
        dict(batch_size=32, policy_kwargs=dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.5))),
    ),
    "a2c": (NotesA2C, {}),
    "a2c compiled": (NotesA2C, dict(compile=True)),
}
COMPILED = ["compiled", "a2c compiled"]
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in COMPILED else ()) for name in WAYS]


def model_of(name, **more):
    algorithm, settings = WAYS[name]
    settings = dict(policy="MlpPolicy", env="Pendulum-v1", n_steps=64, seed=0, device="cpu") | settings | more
    if "rule" in settings:
        # Its optimisers have learning rates of their own.
        settings.pop("learning_rate", None)
    elif algorithm is NotesPPO:
        settings = dict(n_epochs=3, normalize_advantage=False) | settings
    return algorithm(**settings)


class Poison(BaseCallback):
    """Writes a number into the rollout that has just been gathered."""

    def __init__(self, where, number, rollouts=(0,)):
        super().__init__()
        self.where, self.number, self.rollouts, self.seen = where, number, rollouts, 0

    def _on_rollout_end(self):
        if self.seen in self.rollouts:
            getattr(self.model.rollout_buffer, self.where)[3, 0] = self.number
        self.seen += 1

    def _on_step(self):
        return True


def state_of(model):
    optimizers = [model.policy.optimizer.state_dict()]
    if hasattr(model, "critic_optimizer"):
        optimizers.append(model.critic_optimizer.state_dict())
    return copy.deepcopy((dict(model.policy.state_dict()), optimizers))


def assert_same_state(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, th.Tensor):
        assert th.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same_state(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            assert_same_state(*pair)
    else:
        assert ours == theirs


def trained(name, **more):
    """A model that has made one healthy update, and its state."""
    model = model_of(name, **more).learn(64)
    if name == "float16":
        # The scale it begins with has overflowed.
        model.engine.scalers["both"].update(2.0)
        model.skipped_updates, model.on_nonfinite = 0, more.get("on_nonfinite", "raise")
    return model, state_of(model)


# -- what the update meets ----------------------------------------------------------------------------------------

#: What is poisoned, with what, and what the error calls it. 1e30 is finite, but the square of its gradient is not.
LOSSES = {
    "nan advantage": ("advantages", np.nan, "loss must be finite, got nan", "policy_loss is nan"),
    "inf advantage": ("advantages", -np.inf, "loss must be finite, got", "policy_loss is"),
    "inf return": ("returns", np.inf, "loss must be finite, got inf", "value_loss"),
    "nan return": ("returns", np.nan, "loss must be finite, got nan", "value_loss"),
    "huge advantage": ("advantages", 1e30, "gradient must be finite, got norm inf", "mlp_extractor.policy_net.0"),
}


# A gradient that float16 cannot hold is scaled, and has a test of its own.
@pytest.mark.parametrize(
    ("name", "poison"),
    [
        pytest.param(*pair, marks=pytest.mark.slow if pair[0] in COMPILED else ())
        for pair in itertools.product(WAYS, LOSSES)
        if pair != ("float16", "huge advantage")
    ],
)
def test_a_bad_loss_or_gradient_is_named_and_reaches_no_weight(name, poison):
    where, number, message, cause = LOSSES[poison]
    model, before = trained(name, learning_rate=1e-3)
    with pytest.raises(NonFiniteError, match=f"^{message}") as caught:
        # Every sample, so that the very first step is the one.
        model.learn(64, callback=PoisonAll(where, number), reset_num_timesteps=False)
    text = str(caught.value)
    assert cause in text
    assert "in epoch 0, minibatch 0 of the update at step 128" in text
    assert text.endswith("; weights and optimiser are as they were before the update")
    # Also those of the actor, which had been stepped when its critic's turn came.
    assert_same_state(state_of(model)[0], before[0])
    for ours, theirs in zip(state_of(model)[1], before[1], strict=True):
        assert_same_state(ours["state"], theirs["state"])


class PoisonAll(Poison):
    def _on_rollout_end(self):
        getattr(self.model.rollout_buffer, self.where)[:] = self.number


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_a_step_has_spoilt_are_as_they_were_before_the_update(name):
    model, before = trained(name, learning_rate=1e-3)
    # In the torch optimiser itself, 3e38 is an overflow; and SGD's weights stay finite, but nothing made of them does.
    rate = 1e37 if name in ("float16", "custom optimiser") else 3e38
    model.lr_schedule = lambda progress: rate
    if name == "separate":
        settings = OptimizerSettings(n_epochs=3), OptimizerSettings(n_epochs=3, learning_rate=rate)
        optimization = Optimization(separate=SeparateOptimizers(*settings))
        model._given_rule = UpdateRule(
            advantage_normalization=AdvantageNormalization("none"), optimization=optimization
        )
    what = "(loss|gradient) must be finite" if rate == 1e37 else r"weights must be finite, got .* = (nan|-?inf)"
    with pytest.raises(
        NonFiniteError, match=rf"^{what}.* update at step 128.*; weights and optimiser are as they were"
    ):
        model.learn(64, reset_num_timesteps=False)
    after = state_of(model)
    assert_same_state(after[0], before[0])
    for ours, theirs in zip(after[1], before[1], strict=True):
        assert_same_state(ours["state"], theirs["state"])
    # The same object goes on learning as if nothing had been.
    model.lr_schedule = lambda progress: 1e-3
    if name != "separate":
        model.learn(64, reset_num_timesteps=False)
        assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


class Spoiler(th.optim.SGD):
    """Writes NaN into the second weight at its fourth step."""

    def step(self, closure=None):
        super().step(closure)
        self.count = getattr(self, "count", 0) + 1
        if self.count == 4:
            self.param_groups[0]["params"][1].data.fill_(th.nan)


def test_an_optimiser_that_writes_nan_is_undone():
    model = model_of("eager", policy_kwargs=dict(optimizer_class=Spoiler))
    before = state_of(model)
    with pytest.raises(
        NonFiniteError, match=r"^weights must be finite, got mlp_extractor\.policy_net\.0\.weight = nan"
    ):
        model.learn(64)
    assert_same_state(state_of(model)[0], before[0])


def test_a_hook_on_a_gradient_is_named():
    model, before = trained("eager")
    model.policy.value_net.weight.register_hook(lambda gradient: gradient * th.nan)
    with pytest.raises(NonFiniteError, match=r"\(value_net\.weight\); weights and optimiser are as they were"):
        model.learn(64, reset_num_timesteps=False)
    assert_same_state(state_of(model), before)


def test_the_last_good_checkpoint_is_named():
    for path in (None, "runs/checkpoint 7.zip"):
        model = model_of("eager")
        model.last_checkpoint_path = path
        with pytest.raises(NonFiniteError) as caught:
            model.learn(64, callback=Poison("returns", np.nan))
        assert str(caught.value).endswith(f"; the last good checkpoint is {path}") is (path is not None)
    env = DummyVecEnv([lambda: environments.PoisonEnv("reward", np.nan)])
    model = model_of("eager", env=env)
    model.last_checkpoint_path = "there"
    with pytest.raises(NonFiniteError, match=r"^reward must be finite.*; the last good checkpoint is there$"):
        model.learn(64)


# -- on_nonfinite="skip_update" -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_skipped_step_is_counted_and_touches_nothing(name, caplog):
    model, before = trained(name, on_nonfinite="skip_update", learning_rate=1e-3)
    assert "notes/skipped_updates" in model.logger.name_to_value
    with caplog.at_level(logging.WARNING, "sb3_ppo_notes"):
        model.learn(64, callback=PoisonAll("advantages", np.nan), reset_num_timesteps=False)
    # 3 epochs of 2 minibatches; A2C has one step.
    expected = 1 if name.startswith("a2c") else 6
    assert model.skipped_updates == expected
    assert model.logger.name_to_value["notes/skipped_updates"] == expected
    if name != "separate":  # whose critic does not look at advantages
        assert_same_state(state_of(model), before)
    said = [record for record in caplog.records if "loss must be finite" in record.message]
    assert len(said) == 1
    model.learn(64, reset_num_timesteps=False)
    assert model.skipped_updates == expected
    assert any(not th.equal(new, before[0][key]) for key, new in model.policy.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_one_bad_sample_costs_one_step_an_epoch(name):
    model, _ = trained(name, on_nonfinite="skip_update", learning_rate=1e-3)
    model.learn(64, callback=Poison("advantages", np.inf), reset_num_timesteps=False)
    assert model.skipped_updates == (1 if name.startswith("a2c") else 3)
    report = model.last_report
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    if not name.startswith("a2c"):
        # The means are those of the minibatches that were learned from.
        assert np.isfinite([report.policy_loss, report.value_loss, report.loss, report.approx_kl]).all()
        assert report.n_gradient_steps == (9 if name == "separate" else 3)


@pytest.mark.parametrize("name", ["eager", "recurrent", "a2c", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_skipped_update_that_spoilt_weights_is_undone(name):
    model, before = trained(name, on_nonfinite="skip_update", learning_rate=1e-3)
    model.lr_schedule = lambda progress: 3e38
    model.learn(64, reset_num_timesteps=False)
    assert model.skipped_updates == 1
    assert model.consecutive_skipped_updates == 1
    assert_same_state(state_of(model)[0], before[0])
    model.lr_schedule = lambda progress: 1e-3
    model.learn(64, reset_num_timesteps=False)
    assert (model.skipped_updates, model.consecutive_skipped_updates) == (1, 0)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_a_critics_step_that_is_rolled_back_ends_the_update_in_the_middle_of_an_epoch(monkeypatch):
    """The policy rests after its KL; the critic's step alone then meets a weight that is NaN."""
    rule = UpdateRule(kl_controls=(EarlyStop(1e-6, scope="policy"),))
    model, before = trained("eager", rule=rule, on_nonfinite="skip_update")
    original, steps_of_critic = EagerStepper.descend, []

    def descend(self, loss, terms, place):
        steps_of_critic.append(terms is None)
        if terms is None:
            with th.no_grad():
                self.policy.value_net.bias.fill_(th.nan)
            loss = loss * th.nan
        return original(self, loss, terms, place)

    monkeypatch.setattr(EagerStepper, "descend", descend)
    model.learn(64, reset_num_timesteps=False)
    assert steps_of_critic.index(True) == len(steps_of_critic) - 1
    assert model.skipped_updates == 1
    assert_same_state(state_of(model)[0], before[0])


@pytest.mark.parametrize("name", ["eager", "a2c", "recurrent"])
def test_skipping_everything_for_ever_is_an_error(name):
    model = model_of(name, on_nonfinite="skip_update")
    with pytest.raises(
        NonFiniteError,
        match=r"^on_nonfinite='skip_update' has left nothing of the last 10 updates: loss must be finite",
    ):
        model.learn(64 * 20, callback=PoisonAll("returns", np.nan))
    assert model.num_timesteps == 64 * MOST_SKIPPED_UPDATES


def test_what_an_environment_gives_is_never_skipped():
    env = DummyVecEnv([lambda: environments.PoisonEnv("observation", np.nan)])
    with pytest.raises(NonFiniteError, match="^observation must be finite"):
        model_of("eager", env=env, on_nonfinite="skip_update").learn(64)


def test_kl_control_bears_an_epoch_without_a_step():
    model = model_of("eager", on_nonfinite="skip_update", target_kl=0.01)
    model.learn(64, callback=PoisonAll("advantages", np.nan))
    assert model.skipped_updates == 6


def test_float16_counts_what_overflows():
    model, _ = trained("float16", learning_rate=1e-3)
    model.learn(64, reset_num_timesteps=False)
    assert model.skipped_updates == 0
    model.engine.scalers["both"].update(2.0**40)
    model.learn(64, reset_num_timesteps=False)
    assert model.skipped_updates >= 1
    assert model.logger.name_to_value["notes/skipped_updates"] == model.skipped_updates


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip_update"])
def test_float16_does_not_take_a_bad_gradient_for_an_overflow_for_ever(on_nonfinite):
    model, before = trained("float16", on_nonfinite=on_nonfinite, learning_rate=1e-3)
    model.policy.value_net.weight.register_hook(lambda gradient: gradient * th.nan)
    # 65,536 can be halved 16 times.
    message = (
        "^gradient must be finite, got norm nan .*value_net.weight" if on_nonfinite == "raise" else "^on_nonfinite"
    )
    with pytest.raises(NonFiniteError, match=message):
        model.learn(64 * 20, reset_num_timesteps=False)
    assert_same_state(state_of(model)[0], before[0])
    assert model.engine.scalers["both"].get_scale() == 1.0


def test_the_choice_and_the_count_are_saved(tmp_path):
    model = model_of("eager", on_nonfinite="skip_update")
    model.last_checkpoint_path = "somewhere"
    model.learn(64, callback=Poison("returns", np.nan)).save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    assert (loaded.on_nonfinite, loaded.skipped_updates) == ("skip_update", 3)
    assert loaded.last_checkpoint_path is None
    assert loaded.learn(64).skipped_updates == 3


@pytest.mark.parametrize("algorithm", [NotesPPO, NotesA2C])
def test_the_choice_is_checked(algorithm):
    with pytest.raises(InvalidValueError, match="^on_nonfinite must be one of 'raise', 'skip_update', got 'ignore'"):
        algorithm("MlpPolicy", "CartPole-v1", on_nonfinite="ignore")


# -- what the policy gives ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "recurrent", "a2c", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("net", ["action_net", "value_net"])
def test_a_policy_that_gives_nan_is_blamed_and_no_environment(name, net):
    model, _ = trained(name)
    getattr(model.policy, net).bias.data[0] = th.nan
    pos = model.rollout_buffer.observations.copy()
    with pytest.raises(NonFiniteError) as caught:
        model.learn(64, reset_num_timesteps=False)
    assert f"(weight {net}.bias = nan)" in str(caught.value)
    if net == "action_net":
        assert str(caught.value).startswith(
            "actions of the policy must be finite, got nan for environment 0 at step 64"
        )
        assert pos.shape == model.rollout_buffer.observations.shape
        assert not model.rollout_buffer.full
    else:
        assert str(caught.value).startswith("values of the policy must be finite, got nan in environment 0 at row 0")


# -- what environments give ---------------------------------------------------------------------------------------


class PoisonDict(environments.SpaceEnv):
    def __init__(self):
        super().__init__(*environments.SPACES["dict"])

    def step(self, action):
        observation, *rest = super().step(action)
        if self.count == 4:
            observation["returns"] = np.array([0.0, np.nan], dtype=np.float32)
        return observation, *rest


def supervised(env_fns):
    return SupervisedVecEnv(env_fns, start_method="fork")


@pytest.mark.parametrize("vec_env", [DummyVecEnv, LeanVecEnv, supervised])
@pytest.mark.parametrize("normalise", [False, True])
def test_a_bad_entry_of_a_dict_is_named_by_its_key(vec_env, normalise):
    env = vec_env([lambda: environments.make("dict"), PoisonDict])
    if normalise:
        env = VecNormalize(env, norm_obs_keys=["vector", "returns"])
    model = model_of("eager", env=env, policy="MultiInputPolicy")
    with pytest.raises(
        NonFiniteError,
        match=r"^observation\['returns'\] must be finite, got nan at index \(1,\) from environment 1 at step 8",
    ):
        model.learn(64)
    if normalise:
        assert all(np.isfinite(rms.mean).all() for rms in env.obs_rms.values())
    env.close()


@pytest.mark.parametrize("vec_env", [DummyVecEnv, LeanVecEnv, supervised])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["observation", "reward"])
def test_a_bad_step_touches_neither_statistics_nor_rollout(vec_env, what, bad):
    env = VecNormalize(vec_env([lambda: environments.PoisonEnv(what, bad)]))
    model = model_of("eager", env=env)
    with pytest.raises(NonFiniteError, match=f"^{what} must be finite, got {bad}.* from environment 0 at step 5"):
        model.learn(64)
    assert env.ret_rms.count == pytest.approx(4, abs=0.01)
    assert np.isfinite([env.ret_rms.mean, env.ret_rms.var, *env.returns]).all()
    assert np.isfinite(env.obs_rms.mean).all()
    assert model.rollout_buffer.pos == 4
    env.close()


class HugeEnv(environments.SpaceEnv):
    """Answers in float64, with a number that float32 does not hold, or one far outside of its space."""

    def __init__(self, number):
        super().__init__(spaces.Box(-1, 1, (3,), dtype=np.float32), spaces.Discrete(2))
        self.number = number

    def step(self, action):
        observation, *rest = super().step(action)
        observation = observation.astype(np.float64)
        if self.count == 5:
            observation[1] = self.number
        return observation, *rest


def test_a_number_too_large_for_float32_counts_as_infinite():
    env = supervised([lambda: HugeEnv(1e300)])
    with pytest.raises(
        NonFiniteError, match=r"^observation must be finite, got inf at index \(1,\) from environment 0"
    ):
        model_of("eager", env=env).learn(64)
    env.close()


@pytest.mark.parametrize("vec_env", [DummyVecEnv, supervised])
def test_observations_far_outside_their_space_are_told_once_with_their_share(vec_env):
    env = vec_env([lambda: HugeEnv(1e6)])
    model = model_of("eager", env=env)
    with pytest.warns(ObservationRangeWarning, match=r"^\d\.\d\d% of the numbers in observation lie outside of Box"):
        model.learn(64)
    model.learn(64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ObservationRangeWarning)
        with pytest.raises(ObservationRangeWarning):
            model_of("eager", env=env).learn(64)
    # What is rescaled has no bounds, and a space that is a little too narrow is no fault.
    model_of("eager", env=VecNormalize(vec_env([lambda: HugeEnv(1e6)]))).learn(64)
    model_of("eager", env=vec_env([lambda: HugeEnv(2.9)])).learn(64)


def test_the_share_is_counted_within_bounds_only():
    box = spaces.Box(np.array([0.0, -np.inf], dtype=np.float32), np.array([1.0, np.inf], dtype=np.float32))
    observations = np.array([[0.5, 1e9], [2.5, -1e9], [-1.5, 0.0], [1.9, 0.0]])
    assert share_far_outside(observations, box) == 2 / 8
    assert share_far_outside(observations, spaces.Discrete(3)) == 0.0
    widest = spaces.Box(np.float32(-3e38), np.float32(3e38), (2,))
    assert share_far_outside(observations, widest) == 0.0


# -- what is raised in this very process --------------------------------------------------------------------------


class RaisingEnv(environments.SpaceEnv):
    def __init__(self, what):
        super().__init__(*environments.SPACES["box"])
        self.what = what

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if self.count == 5 and self.what == "raise":
            raise KeyError("broken")
        observation = observation[:2] if self.count == 5 and self.what == "shape" else observation
        return observation, {"none": None, "text": "1"}.get(self.what, reward), *rest


class RenamedLocals(DummyVecEnv):
    """A later SB3 may name its local variables as it likes."""

    def step_wait(self):
        outcomes = [each.step(action) for each, action in zip(self.envs, self.actions, strict=True)]
        self.buf_rews[:] = [outcome[1] for outcome in outcomes]
        for number, outcome in enumerate(outcomes):
            self._save_obs(number, outcome[0])
        return self._obs_from_buf(), self.buf_rews.copy(), self.buf_dones.copy(), [{}, {}]


@pytest.mark.parametrize("vec_env", [DummyVecEnv, LeanVecEnv, RenamedLocals])
@pytest.mark.parametrize("has_notes", [True, False])
def test_an_error_in_this_process_stays_and_says_where_it_was_raised(vec_env, has_notes, monkeypatch, caplog):
    if not has_notes:
        # Python 3.10
        monkeypatch.setattr("sb3_ppo_notes.rollouts.step_errors.hasattr", lambda *_: False, raising=False)
    env = VecNormalize(vec_env([lambda: environments.make("box"), lambda: RaisingEnv("raise")]))
    with pytest.raises(KeyError, match="broken") as caught:
        model_of("eager", env=env).learn(64)
    (note,) = caught.value.__notes__
    assert note.startswith("raised by environment 1, at step 10, after action [")
    assert (note in caplog.text) is not has_notes


def test_an_error_of_a_supervised_environment_says_after_which_action():
    from tests.envs.faulty import FaultyEnv

    env = supervised([FaultyEnv, lambda: FaultyEnv("raise", 5)])
    with pytest.raises(RuntimeError, match="^environment 1 raised ValueError in step: boom") as caught:
        model_of("eager", env=env).learn(64)
    assert caught.value.__notes__[0].startswith("raised by environment 1, at step 10, after action ")


@pytest.mark.parametrize("vec_env", [DummyVecEnv, LeanVecEnv])
@pytest.mark.parametrize(("what", "shown"), [("none", "NoneType None"), ("text", "str '1'")])
def test_a_reward_that_is_no_number_is_a_type_error_that_names_the_environment(vec_env, what, shown):
    env = vec_env([lambda: environments.make("box"), lambda: RaisingEnv(what)])
    with pytest.raises(TypeError, match=f"^reward must be a number, got {shown} from environment 1"):
        model_of("eager", env=env).learn(64)


@pytest.mark.parametrize("vec_env", [DummyVecEnv, LeanVecEnv, RenamedLocals])
def test_an_observation_of_the_wrong_shape_is_named_in_this_process(vec_env):
    env = vec_env([lambda: environments.make("box"), lambda: RaisingEnv("shape")])
    with pytest.raises(ValueError, match=r"shape \(3,\) of its space, got \(2,\) from environment 1") as caught:
        model_of("eager", env=env).learn(64)
    assert caught.value.__notes__[0].startswith("raised by environment 1, at step 10")


def test_rewards_of_a_dummy_vec_env_are_plain_arrays_as_ever():
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    model = model_of("eager", env=env)
    env.reset()
    assert type(env.step(np.zeros(1, dtype=int))[1]) is np.ndarray
    assert model.env is env


# -- what an update that is undone has adapted ------------------------------------------------------------------------


class SpoilLater(BaseCallback):
    """Makes a weight infinite, in the second epoch of one update."""

    def __init__(self, update):
        super().__init__()
        self.update = update

    def on_epoch(self, report):
        if self.model.num_timesteps == self.update * 64 and report.epoch == 1:
            with th.no_grad():
                self.model.policy.value_net.bias.fill_(np.inf)

    def _on_step(self):
        return True


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip_update"])
def test_an_undone_update_leaves_learning_rate_and_penalty_as_they_were(on_nonfinite):
    rule = UpdateRule(
        policy_objective=KLPenalty(),
        advantage_normalization=AdvantageNormalization("none"),
        kl_controls=(AdaptiveLearningRate(0.01),),
    )
    model = model_of("eager", rule=rule, on_nonfinite=on_nonfinite, n_epochs=4).learn(64)
    state, rate = model.rule_state, model.policy.optimizer.param_groups[0]["lr"]
    assert state.learning_rate != 3e-4, "the first update has adapted it"
    before = state_of(model)
    expected = (
        pytest.raises(NonFiniteError, match="as they were") if on_nonfinite == "raise" else contextlib.nullcontext()
    )
    with expected:
        model.learn(64, callback=SpoilLater(2), reset_num_timesteps=False)
    assert model.rule_state == state
    assert model.policy.optimizer.param_groups[0]["lr"] == rate
    assert_same_state(state_of(model), before)
