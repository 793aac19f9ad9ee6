"""What a user of SB3 may rely on, and what is better than in SB3."""

import copy
import inspect
import io
import json
import pickle
import warnings

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.engine.step import kl_beyond_limit
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, NonFiniteError
from sb3_ppo_notes.rules import (
    GAE,
    AdvantageNormalization,
    ClippedSurrogate,
    EarlyStop,
    Optimization,
    PolicyGradient,
    UpdateRule,
)
from sb3_ppo_notes.rules.loss import LossTerms
from tests.environments import ConstantRewardEnv, PoisonEnv

SMALL = dict(n_steps=16, batch_size=16, n_epochs=2, seed=0, device="cpu")


def small(**arguments):
    return NotesPPO("MlpPolicy", arguments.pop("env", "CartPole-v1"), **SMALL | arguments)


class Spy(BaseCallback):
    def __init__(self, look):
        super().__init__()
        self.look, self.seen = look, []

    def _on_step(self):
        self.seen.append(self.look(self))
        return True


@pytest.mark.parametrize(("ours", "stock"), [(NotesPPO, PPO), (NotesA2C, A2C)])
def test_signatures_are_sb3s_plus_keyword_only_extras(ours, stock):
    for method in ("__init__", "learn"):
        mine = inspect.signature(getattr(ours, method)).parameters
        theirs = inspect.signature(getattr(stock, method)).parameters
        assert list(mine)[: len(theirs)] == list(theirs)
        assert all(mine[name].default == theirs[name].default for name in theirs)
        extras = list(mine.values())[len(theirs) :]
        assert all(extra.kind is inspect.Parameter.KEYWORD_ONLY for extra in extras)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(ours.__init__).parameters)[1:]


def test_no_schedule_ends_negative_when_the_last_rollout_overshoots():
    rates = []
    spy = Spy(lambda callback: rates.append(callback.model.policy.optimizer.param_groups[0]["lr"]))
    model = small(learning_rate=lambda progress: 1e-3 * progress, clip_range=lambda progress: 0.2 * progress)
    model.learn(40, callback=spy)  # three rollouts: 48 steps, SB3 would end at progress -0.2
    assert model._current_progress_remaining == 0.0
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0
    assert min(rates) >= 0


def test_lin_strings_are_linear_schedules():
    model = small(learning_rate="lin_1e-3", clip_range="lin_0.2", ent_coef="lin_0.01")
    model.learn(32)
    assert model.ent_coef(0.5) == pytest.approx(0.005)
    assert model.lr_schedule(0.5) == pytest.approx(5e-4)
    assert model.clip_range(0.5) == pytest.approx(0.1)


def test_ent_coef_and_vf_coef_take_schedules():
    def weights(**coefficients):
        return small(**coefficients).learn(64).policy.state_dict()

    constant = weights(ent_coef=0.05, vf_coef=0.3)
    as_schedule = weights(ent_coef=lambda progress: 0.05, vf_coef=lambda progress: 0.3)
    falling = weights(ent_coef=LinearSchedule(0.05, 0.0, 1.0), vf_coef=0.3)
    assert all(th.equal(constant[name], as_schedule[name]) for name in constant)
    assert any(not th.equal(constant[name], falling[name]) for name in constant)


def test_the_last_update_is_logged(tmp_path):
    model = small()
    model.set_logger(Logger(str(tmp_path), [CSVOutputFormat(str(tmp_path / "progress.csv"))]))
    model.learn(32)
    model.logger.close()
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/n_updates")
    assert rows[-1].split(",")[column] == str(model._n_updates) == "4"
    # and whoever looks into the logger afterwards still finds the numbers there, as in SB3
    assert model.logger.name_to_value["train/n_updates"] == 4


def test_log_interval_none_logs_nothing(tmp_path):
    model = small()
    model.set_logger(Logger(str(tmp_path), [CSVOutputFormat(str(tmp_path / "progress.csv"))]))
    model.learn(32, log_interval=None)
    model.logger.close()
    assert (tmp_path / "progress.csv").read_text() == ""


def test_a_single_normalised_sample_in_a2c_does_not_become_nan():
    model = NotesA2C("MlpPolicy", "CartPole-v1", n_steps=1, normalize_advantage=True, seed=0, device="cpu").learn(20)
    assert all(th.isfinite(tensor).all() for tensor in model.policy.state_dict().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(batch_size=0), "^batch_size must be an int >= 1"),
        (dict(gamma=1.5), r"^gamma must be in \[0, 1\], got 1.5"),
        (dict(target_kl=-1.0), "^target_kl must be > 0"),
        (dict(ent_coef=float("nan")), "^ent_coef must be finite"),
        (dict(max_grad_norm=0), "^max_grad_norm must be > 0"),
    ],
)
def test_load_checks_its_own_arguments_as_the_constructor_does(change, message, tmp_path):
    small().save(tmp_path / "model")
    with pytest.raises(InvalidValueError, match=message):
        NotesPPO.load(tmp_path / "model", env=make_vec_env("CartPole-v1"), **change)


def test_clip_range_is_a_float_schedule_after_load(tmp_path):
    model = small(clip_range_vf=0.3)
    model.save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model")
    for schedule in (loaded.clip_range, loaded.clip_range_vf, model.clip_range):
        assert isinstance(schedule, FloatSchedule)
    assert loaded.clip_range(1.0) == 0.2
    assert loaded.clip_range_vf(1.0) == 0.3


def test_construct_save_and_load_are_silent(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = NotesPPO("MlpPolicy", "CartPole-v1")
        model.save(tmp_path / "model")
        NotesPPO.load(tmp_path / "model", env=model.get_env())
        NotesA2C("MlpPolicy", "CartPole-v1").save(tmp_path / "a2c")
        NotesA2C.load(tmp_path / "a2c")


def test_a2c_leaves_the_callers_policy_kwargs_alone(tmp_path):
    policy_kwargs = dict(net_arch=[8])
    model = NotesA2C("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs)
    assert policy_kwargs == dict(net_arch=[8])
    model.save(tmp_path / "a2c")
    loaded = NotesA2C.load(tmp_path / "a2c", policy_kwargs=policy_kwargs)
    assert isinstance(loaded.policy.optimizer, th.optim.RMSprop)
    with pytest.raises(ValueError, match="policy kwargs"):
        NotesA2C.load(tmp_path / "a2c", policy_kwargs=dict(net_arch=[9]))


def test_callbacks_see_what_sb3_shows_them():
    names = (
        "new_obs",
        "rewards",
        "dones",
        "infos",
        "actions",
        "values",
        "log_probs",
        "clipped_actions",
        "obs_tensor",
        "n_steps",
        "self",
        "env",
    )
    spy = Spy(lambda callback: all(name in callback.locals for name in names))
    small().learn(16, callback=spy)
    assert spy.seen == [True] * 16


def test_a_callback_that_stops_stops_at_once():
    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 5

    model = small().learn(100, callback=Stop())
    assert model.num_timesteps == 5
    assert model._n_updates == 0


def test_a_policy_that_overrides_forward_acts_and_one_that_overrides_evaluate_actions_learns():
    calls = []

    class Own(ActorCriticPolicy):
        def forward(self, obs, deterministic=False):
            calls.append("forward")
            return super().forward(obs, deterministic)

        def evaluate_actions(self, obs, actions):
            calls.append("evaluate")
            return super().evaluate_actions(obs, actions)

    own = NotesPPO(Own, "CartPole-v1", **SMALL).learn(32)
    assert calls.count("forward") == 32
    assert calls.count("evaluate") == 2 * 2
    plain = small().learn(32)
    assert all(
        th.equal(*pair)
        for pair in zip(own.policy.state_dict().values(), plain.policy.state_dict().values(), strict=True)
    )


def test_a_patched_instance_and_a_hook_are_honoured_too():
    model = small()
    seen = []
    model.policy.register_forward_pre_hook(lambda module, inputs: seen.append("hook"))
    model.learn(16)
    assert len(seen) == 16
    patched = small()
    original = patched.policy.evaluate_actions
    patched.policy.evaluate_actions = lambda *inputs: seen.append("patched") or original(*inputs)
    patched.learn(16)
    assert seen.count("patched") == 2


@pytest.mark.slow
def test_a_critic_learns_the_value_of_an_endless_reward():
    # Reward 1 for ever, cut by a limit of 8 steps: worth 1/(1-.9) = 10. Without the bootstrap it would learn at most 1+.9+… = 5.7
    env = make_vec_env(ConstantRewardEnv, n_envs=4)
    model = NotesPPO(
        "MlpPolicy", env, n_steps=64, batch_size=64, gamma=0.9, learning_rate=3e-3, seed=0, device="cpu"
    ).learn(12_000)
    value = model.policy.predict_values(th.ones(1, 1)).item()
    assert value == pytest.approx(10.0, abs=0.5)


def test_truncation_as_terminal_changes_the_rewards_that_are_learned_from():
    rewards = {}
    for truncation in ("bootstrap", "terminal"):
        env = make_vec_env(ConstantRewardEnv, n_envs=1)
        model = small(env=env, rule=UpdateRule(truncation=truncation)).learn(16)
        rewards[truncation] = model.rollout_buffer.rewards.ravel()
    assert (rewards["terminal"] == 1.0).all()
    assert ((rewards["bootstrap"] != 1.0).nonzero()[0] == [7, 15]).all()


def test_callbacks_keep_the_reward_that_the_environment_paid():
    spy = Spy(lambda callback: callback.locals["rewards"])
    small(env=make_vec_env(ConstantRewardEnv, n_envs=1)).learn(16, callback=spy)
    assert all((rewards == 1.0).all() for rewards in spy.seen)


# -- rules ----------------------------------------------------------------------------------------------------


def test_a_rule_gives_what_the_arguments_it_stands_for_give():
    by_arguments = small(gae_lambda=0.8, clip_range=0.1, target_kl=0.02, learning_rate=1e-2).learn(96)
    rule = UpdateRule(
        advantage_estimator=GAE(0.8), policy_objective=ClippedSurrogate(0.1), kl_controls=(EarlyStop(0.02),)
    )
    by_rule = small(rule=rule, learning_rate=1e-2).learn(96)
    pairs = zip(by_arguments.policy.state_dict().values(), by_rule.policy.state_dict().values(), strict=True)
    assert all(th.equal(*pair) for pair in pairs)
    assert (by_rule.gae_lambda, by_rule.target_kl) == (0.8, 0.02)


@pytest.mark.parametrize(
    "argument",
    [
        dict(gae_lambda=0.5),
        dict(clip_range=0.4),
        dict(clip_range_vf=0.2),
        dict(normalize_advantage=False),
        dict(target_kl=0.5),
    ],
)
def test_an_argument_that_contradicts_the_rule_is_refused(argument):
    (name,) = argument
    with pytest.raises(InvalidValueError, match=f"^{name} must agree with rule"):
        small(rule=UpdateRule(kl_controls=(EarlyStop(0.1),)), **argument)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(clip_range=0.2, rule=UpdateRule(policy_objective=ClippedSurrogate(0.1))),
        dict(gae_lambda=0.95, rule=UpdateRule(advantage_estimator=GAE(0.9))),
        dict(target_kl=None, rule=UpdateRule(kl_controls=(EarlyStop(0.1),))),
        dict(normalize_advantage=True, rule=UpdateRule(advantage_normalization=AdvantageNormalization("none"))),
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_an_argument_that_is_written_down_counts_also_if_it_has_its_default(arguments):
    (name, _) = arguments
    with pytest.raises(InvalidValueError, match=f"^{name} must agree with rule"):
        small(**arguments)

    class My(NotesPPO):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    with pytest.raises(InvalidValueError, match=f"^{name} must agree with rule"):
        My("MlpPolicy", "CartPole-v1", **arguments)
    assert small(rule=arguments["rule"]).rule == arguments["rule"]


def test_a_model_has_no_attributes_that_only_its_constructor_knows():
    left_over = {"names", "arguments", "_explicit", "explicit"} & vars(small()).keys()
    assert left_over == set()
    assert not {"names", "_explicit"} & vars(copy.deepcopy(small())).keys()


def test_an_attribute_that_older_files_name_otherwise_is_read(tmp_path):
    model = small()
    vars(model)["barren_updates"] = 3
    model.save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model")
    assert loaded.consecutive_skipped_updates == 3
    assert "barren_updates" not in vars(loaded)


def test_a_given_rule_survives_save_and_load(tmp_path):
    rule = UpdateRule(policy_objective=PolicyGradient(), advantage_normalization=AdvantageNormalization("none"))
    small(rule=rule).save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=make_vec_env("CartPole-v1"))
    assert loaded.rule == rule
    loaded.learn(16)
    with pytest.raises(InvalidValueError, match="^gae_lambda must agree with rule"):
        NotesPPO.load(tmp_path / "model", env=make_vec_env("CartPole-v1"), gae_lambda=0.5)


def test_ppo_with_the_rule_of_a2c_is_a2c():
    rule = UpdateRule(
        advantage_estimator=GAE(1.0),
        policy_objective=PolicyGradient(),
        advantage_normalization=AdvantageNormalization("none"),
    )
    rms_prop = dict(optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.99, eps=1e-5, weight_decay=0))
    options = dict(n_steps=5, seed=3, device="cpu", learning_rate=7e-4)
    ppo = NotesPPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 4),
        batch_size=20,
        n_epochs=1,
        rule=rule,
        policy_kwargs=rms_prop,
        **options,
    ).learn(400)
    a2c = NotesA2C("MlpPolicy", make_vec_env("CartPole-v1", 4), **options).learn(400)
    pairs = zip(ppo.policy.state_dict().values(), a2c.policy.state_dict().values(), strict=True)
    assert all(th.equal(*pair) for pair in pairs)


def test_sequential_minibatches_and_a_dropped_rest():
    rule = UpdateRule(optimization=Optimization(order="sequential", drop_last=True))
    model = small(rule=rule, env=make_vec_env("CartPole-v1", 3), n_steps=5, batch_size=4)
    model.learn(15)
    batches = list(model.rollout_buffer.get(4))
    stored = model.rollout_buffer.returns.ravel()  # [T, B]: all first steps, then all second steps
    assert [len(batch.returns) for batch in batches] == [4, 4, 4]
    assert np.array_equal(np.concatenate([batch.returns for batch in batches]), stored[:12])


@pytest.mark.parametrize(
    ("estimator", "limit", "stops"),
    [("k1", 0.0601, False), ("k2", 0.0601, True), ("k2", 0.07, False), ("k3", 0.07, True)],
)
def test_early_stop_uses_the_estimator_it_names(estimator, limit, stops):
    # log ratios (.5, .1): mean k1 = -.3, mean k2 = .065, mean k3 = (e^.5 - 1.5 + e^.1 - 1.1)/2 = .0769
    log_ratio = th.tensor([0.5, 0.1])
    terms = LossTerms(*[th.zeros(())] * 4, log_ratio, None)
    stop = EarlyStop(target=limit, factor=1.0, estimator=estimator)
    assert (kl_beyond_limit(stop, terms.log_ratio, terms.exact_kl) is not None) == stops


def test_early_stop_is_strict_and_has_its_factor():
    stop = EarlyStop(target=0.01)
    assert not stop.is_exceeded_by(0.015)
    assert stop.is_exceeded_by(0.0151)
    assert not EarlyStop(target=0.01, factor=2.0).is_exceeded_by(0.0151)


def test_rule_prints_pickles_and_compares():
    rule = UpdateRule(kl_controls=(EarlyStop(0.01),))
    assert pickle.loads(pickle.dumps(rule)) == rule != UpdateRule()
    assert "EarlyStop(target=0.01, factor=1.5, estimator='k3', scope='update', decided='minibatch')" in str(rule)
    assert "clip_range=0.2" in str(rule)


# -- numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("what", ["observation", "reward"])
@pytest.mark.parametrize("normalise", [False, True])
def test_a_non_finite_step_names_environment_and_step_and_touches_nothing(what, bad, normalise):
    env = DummyVecEnv([lambda: PoisonEnv("nothing", 0.0), lambda: PoisonEnv(what, bad, at=5)])
    if normalise:
        env = VecNormalize(env)
    model = small(env=env)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    with pytest.raises(NonFiniteError, match=rf"^{what} must be finite, got .* from environment 1 at step 10"):
        model.learn(100)
    assert all(th.equal(before[name], tensor) for name, tensor in model.policy.state_dict().items())
    if normalise:
        assert np.isfinite(env.obs_rms.mean).all()
        assert np.isfinite(env.ret_rms.var)
        assert np.isfinite(env.obs_rms.var).all()


def test_a_non_finite_gradient_stops_before_the_weights():
    model = small()
    model.learn(16)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    state = io.BytesIO()
    th.save(model.policy.optimizer.state_dict(), state)
    model.policy.value_net.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(
        NonFiniteError, match=r"^gradient must be finite, got norm nan in epoch 0, minibatch 0 of the update at step 16"
    ):
        model.learn(16)
    assert all(th.equal(before[name], tensor) for name, tensor in model.policy.state_dict().items())
    after = io.BytesIO()
    th.save(model.policy.optimizer.state_dict(), after)
    assert state.getvalue() == after.getvalue()


def test_a_non_finite_loss_stops_before_the_weights():
    model = small()
    model.rollout_buffer.compute_returns_and_advantage = lambda **_: model.rollout_buffer.returns.fill(np.inf)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    with pytest.raises(
        NonFiniteError, match=r"^loss must be finite, got inf in epoch 0, minibatch 0 of the update at step 16"
    ):
        model.learn(16)
    assert all(th.equal(before[name], tensor) for name, tensor in model.policy.state_dict().items())


def test_a_network_that_gives_nan_is_named():
    model = small(env="Pendulum-v1")
    model.policy.value_net.bias.data.fill_(float("nan"))
    with pytest.raises(
        NonFiniteError, match=r"^values of the policy must be finite, got nan in environment 0 at row 0"
    ):
        model.learn(16)


def test_a_schedule_that_turns_bad_stops_before_the_weights():
    model = small(learning_rate=lambda progress: 1e-3 if progress > 0.6 else float("inf"))
    with pytest.raises(InvalidValueError, match=r"^learning_rate schedule returned inf at progress 0.5"):
        model.learn(32)
    assert model._n_updates == 0


def test_errors_are_of_both_kinds():
    assert issubclass(InvalidValueError, ValueError)
    assert issubclass(InvalidValueError, AssertionError)
    assert issubclass(InvalidTypeError, TypeError)
    assert issubclass(InvalidTypeError, AssertionError)
    assert issubclass(NonFiniteError, ValueError)


def test_report_has_sb3s_windows():
    model = small(n_epochs=3).learn(16)
    report = model.last_report
    assert report.n_gradient_steps == 3
    assert report.stopped_in_epoch is None
    assert report.policy_loss == model.logger.name_to_value["train/policy_gradient_loss"]
    assert json.dumps(float(report.approx_kl))
    assert report.gradient_norm > 0


@pytest.mark.parametrize(("argument", "value"), [("clip_range", 0.2), ("gae_lambda", 0.95), ("target_kl", None)])
def test_loading_takes_no_argument_that_the_files_rule_contradicts_not_even_a_default(tmp_path, argument, value):
    objective = ClippedSurrogate(0.1)
    rule = UpdateRule(policy_objective=objective, advantage_estimator=GAE(0.9), kl_controls=(EarlyStop(0.01),))
    NotesPPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu", rule=rule).save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"{argument} must agree with rule"):
        NotesPPO.load(tmp_path / "model", device="cpu", **{argument: value})
    assert NotesPPO.load(tmp_path / "model", device="cpu", clip_range=0.1).rule.policy_objective == objective
