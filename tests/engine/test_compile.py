"""compile=True: the same update as the eager one, compiled once, and eager where it cannot be."""

import logging

import numpy as np
import pytest
import torch as th
import torch._inductor.config
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.engine import inductor
from sb3_ppo_notes.formulas.checks import InvalidTypeError, NonFiniteError
from sb3_ppo_notes.policies.networks import NotesActorCriticPolicy
from sb3_ppo_notes.policies.trunk import shared_trunk
from sb3_ppo_notes.rules import (
    AdaptiveLearningRate,
    AdvantageNormalization,
    ClippedValueError,
    EarlyStop,
    HuberValueError,
    KLPenalty,
    Optimization,
    OptimizerSettings,
    PessimisticValueError,
    SeparateOptimizers,
    UpdateRule,
)
from tests import environments
from tests.policies.test_masks import MAKERS

# Ragged minibatches, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*mini-?batch.*:UserWarning")

SMALL = dict(n_steps=16, batch_size=12, n_epochs=3, learning_rate=3e-3, seed=0, policy_kwargs=dict(net_arch=[16]))


def models(env_name, algorithm=NotesPPO, *, masked=False, **changes):
    """An eager and a compiled model, with the same weights and the same rollout."""
    arguments = SMALL | changes
    policy = arguments.pop("policy", "MlpPolicy")
    if algorithm is NotesA2C:
        arguments = {key: value for key, value in arguments.items() if key not in ("batch_size", "n_epochs")}
    if "rule" in changes and changes["rule"].optimization.separate is not None:
        arguments = {key: value for key, value in arguments.items() if key not in ("learning_rate", "n_epochs")}
    make = MAKERS[env_name] if masked else (lambda: environments.make(env_name))
    made = [
        algorithm(policy, make_vec_env(make, 4, seed=0), compile=compiles, action_masking=masked, **arguments)
        for compiles in (False, True)
    ]
    return made


def learn(model, total_timesteps, seed=0, **arguments):
    """Both models draw the same random numbers."""
    model.set_random_seed(seed)
    return model.learn(total_timesteps, **arguments)


def after_one_update(env_name, algorithm=NotesPPO, **changes):
    eager, compiled = models(env_name, algorithm, **changes)
    for model in (eager, compiled):
        learn(model, model.n_steps * model.n_envs)
    assert compiled.engine.compiler.reason is None
    return eager, compiled


def difference(eager, compiled):
    pairs = zip(eager.policy.parameters(), compiled.policy.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def box(name):
    return dict(policy_kwargs=dict(net_arch=[16], action_distribution=name))


SEPARATE = SeparateOptimizers(OptimizerSettings(1e-3, 2, 0.5), OptimizerSettings(2e-3, 3))
CASES = {
    "discrete": ("discrete", {}),
    "discrete_observation": ("discrete_observation", {}),
    "multi_discrete": ("multi_discrete", dict(ent_coef=0.01)),
    "multi_binary": ("multi_binary", dict(ent_coef=0.01)),
    "box": ("box", dict(ent_coef=0.01, clip_range_vf=0.1)),
    "squashed_gaussian": ("box", dict(ent_coef=0.01) | box("squashed_gaussian")),
    "beta": ("box", dict(ent_coef=0.01) | box("beta")),
    "state_dependent_gaussian": ("box", dict(ent_coef=0.01) | box("state_dependent_gaussian")),
    "gsde": ("box", dict(use_sde=True, sde_sample_freq=4)),
    "dict": ("dict", dict(policy="MultiInputPolicy")),
    "image": ("image", dict(policy="CnnPolicy", n_steps=4, batch_size=8, n_epochs=1, learning_rate=1e-4)),
    "masked": ("discrete", dict(masked=True)),
    "masked_multi_binary": ("multi_binary", dict(masked=True)),
    "shared_trunk": ("discrete", dict(policy_kwargs=shared_trunk([16]))),
    "kl_penalty": ("box", dict(rule=UpdateRule(policy_objective=KLPenalty()))),
    "huber": ("discrete", dict(rule=UpdateRule(value_objective=HuberValueError()))),
    "pessimistic": ("discrete", dict(rule=UpdateRule(value_objective=PessimisticValueError(0.1)))),
    "exact_kl_stop": ("discrete", dict(rule=UpdateRule(kl_controls=(EarlyStop(0.001, estimator="exact"),)))),
    "stop_of_the_epoch": ("discrete", dict(rule=UpdateRule(kl_controls=(EarlyStop(0.001, scope="epoch"),)))),
    "stop_of_the_policy": ("discrete", dict(rule=UpdateRule(kl_controls=(EarlyStop(0.001, scope="policy"),)))),
    "adaptive_learning_rate": ("discrete", dict(rule=UpdateRule(kl_controls=(AdaptiveLearningRate(0.01),)))),
    "separate_optimizers": (
        "box",
        dict(rule=UpdateRule(optimization=Optimization(separate=SEPARATE))),
    ),
    "every_epoch": ("discrete", dict(rule=UpdateRule(computed="every_epoch"))),
    "normalized_by_rollout": (
        "discrete",
        dict(rule=UpdateRule(advantage_normalization=AdvantageNormalization("rollout", 0))),
    ),
    "value_clip_and_sequence": (
        "discrete",
        dict(rule=UpdateRule(value_objective=ClippedValueError(0.1), optimization=Optimization("sequential"))),
    ),
    "torchs_own_optimizer": (
        "discrete",
        dict(policy_kwargs=dict(net_arch=[16], optimizer_class=th.optim.AdamW, optimizer_kwargs=dict(eps=1e-3))),
    ),
    "tensorflows_rmsprop": (
        "discrete",
        dict(policy_kwargs=dict(net_arch=[16], optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(eps=1e-3))),
    ),
}
# Adam divides by the gradient's own size: where that is next to nothing, rounding decides the sign of a whole step.
STEADY = dict(optimizer_kwargs=dict(eps=1e-3))


def with_steady_adam(changes):
    if "optimizer_class" in changes.get("policy_kwargs", {}):
        return changes
    return changes | dict(policy_kwargs=dict(net_arch=[16]) | changes.get("policy_kwargs", {}) | STEADY)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_one_update_equals_the_eager_one(name):
    env_name, changes = CASES[name]
    eager, compiled = after_one_update(env_name, **with_steady_adam(changes))
    assert difference(eager, compiled) < 1e-5
    for field, expected in vars(eager.last_report).items():
        if isinstance(expected, str | tuple):
            continue  # words, and what is compared number by number in test_watching
        close = expected if expected is None else pytest.approx(expected, rel=2e-4, abs=1e-5, nan_ok=True)
        assert getattr(compiled.last_report, field) == close, field
    assert eager.rule_state == compiled.rule_state


@pytest.mark.slow
@pytest.mark.parametrize("use_rms_prop", [True, False])
def test_one_update_of_a2c_equals_the_eager_one(use_rms_prop):
    policy_kwargs = dict(net_arch=[16], optimizer_kwargs=dict(eps=1e-3))
    changes = dict(use_rms_prop=use_rms_prop, normalize_advantage=True, ent_coef=0.01, policy_kwargs=policy_kwargs)
    assert difference(*after_one_update("box", NotesA2C, **changes)) < 1e-5


@pytest.mark.slow
def test_half_precision_compiles():
    eager, compiled = models("box", precision="bfloat16")
    for model in (eager, compiled):
        learn(model, 64)
    assert compiled.engine.compiler.reason is None
    assert difference(eager, compiled) < 3e-2  # bfloat16 has three digits, and 18 steps of 3e-3 were taken
    assert compiled.last_report.value_loss == pytest.approx(eager.last_report.value_loss, rel=0.05)


def test_float16_stays_eager():
    _, model = models("box", precision="float16")
    learn(model, 64)
    assert "float16 scales its loss" in model.engine.compiler.reason


class Compilations:
    """Counts how often something is compiled."""

    def __init__(self, monkeypatch):
        self.count = 0
        from sb3_ppo_notes.engine import compiled

        original = compiled.compiled

        def counting(*arguments):
            self.count += 1
            return original(*arguments)

        monkeypatch.setattr(compiled, "compiled", counting)


class ChangeEverything(BaseCallback):
    """Schedules, by hand: whatever a callback may change between two updates."""

    def _on_rollout_end(self):
        k = self.model.num_timesteps
        self.model.learning_rate = 1e-3 / k
        self.model.lr_schedule = lambda progress: 1e-3 / k
        self.model.clip_range = lambda progress: 0.1 + 1 / k
        self.model.ent_coef = 0.01 + 1 / k
        self.model.vf_coef = 0.5 + 1 / k
        self.model.target_kl = 10.0 + 1 / k

    def _on_step(self):
        return True


def test_nothing_is_compiled_twice(monkeypatch):
    """Five updates with a ragged last minibatch, changing schedules and a KL limit: one acting and one step."""
    compilations = Compilations(monkeypatch)
    _, model = models("discrete", target_kl=10.0, ent_coef=0.01)
    model.learn(5 * 64, callback=ChangeEverything())
    assert model.last_report.n_gradient_steps == 3 * 6  # 64 = 5·12 + 4
    model.learn(64, reset_num_timesteps=False)
    assert model.engine.compiler.reason is None
    assert compilations.count == 2
    model.max_grad_norm = 0.1  # fixed in the code: compiled anew, once
    model.learn(128, reset_num_timesteps=False)
    assert compilations.count == 3


def test_code_for_one_processor_is_not_taken_from_disk_for_another(monkeypatch):
    """A folder of compiled code may be shared by many machines: the width of their vectors is part of its key."""
    widths = []
    for capability in ("avx2", "default"):
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
        widths.append(inductor.options_for(th.device("cpu"))["cpp.simdlen"])
    assert widths == [256, 0]


def test_schedules_reach_the_compiled_code():
    """Both clips nearly shut in the second update: who kept the first update's would go much farther.

    Progress is 0.5 in the first and 0 in the second.
    """
    schedules = dict(
        clip_range=lambda progress: 0.2 if progress > 0.25 else 1e-3,
        clip_range_vf=lambda progress: 0.2 if progress > 0.25 else 1e-3,
        ent_coef=lambda progress: 0.01 + 0.05 * progress,
    )
    eager, compiled = models("discrete", **with_steady_adam(schedules | dict(learning_rate=1e-2)))
    for model in (eager, compiled):
        learn(model, 128)
    assert compiled.engine.compiler.reason is None
    assert difference(eager, compiled) < 1e-4


def test_early_stop_takes_no_step_beyond_the_limit():
    eager, compiled = after_one_update("discrete", target_kl=1e-4, learning_rate=1e-2, batch_size=16, n_epochs=10)
    assert compiled.last_report.stopped_in_epoch is not None
    assert compiled.last_report.stopped_in_epoch == eager.last_report.stopped_in_epoch
    assert compiled.last_report.n_gradient_steps == eager.last_report.n_gradient_steps
    assert difference(eager, compiled) < 1e-4


def test_save_load_predict_and_continue(tmp_path):
    _, model = models("discrete")
    model.learn(64)
    observation = model.env.reset()
    before = model.predict(observation, deterministic=True)[0]
    model.save(tmp_path / "model.zip")
    loaded = NotesPPO.load(tmp_path / "model.zip", env=model.env)
    assert loaded.compile
    assert (loaded.predict(observation, deterministic=True)[0] == before).all()
    theirs, ours = model.policy.optimizer.state_dict()["state"], loaded.policy.optimizer.state_dict()["state"]
    assert all(th.equal(theirs[k][name], ours[k][name]) for k in theirs for name in theirs[k])
    assert ours[0]["step"] == 3 * 6
    plain = NotesPPO.load(tmp_path / "model.zip", env=model.env, compile=False)
    for each in (loaded, plain):
        learn(each, 64, seed=1)
    assert plain.engine.compiler is None
    assert difference(plain, loaded) < 1e-2


def test_weights_that_are_set_are_used(monkeypatch):
    """Somebody loads other weights between two updates: acting and updating go on from those."""
    compilations = Compilations(monkeypatch)
    eager, compiled = models("discrete")
    for model in (eager, compiled):
        learn(model, 64)
        th.manual_seed(7)
        with th.no_grad():
            model.policy.load_state_dict({k: th.randn_like(v) * 0.1 for k, v in model.policy.state_dict().items()})
            # Not in place: the vector is left behind.
            model.policy.value_net.weight.data = th.ones_like(model.policy.value_net.weight)
        learn(model, 64, seed=3)
    assert difference(eager, compiled) < 1e-3
    assert compilations.count == 2


def test_the_same_seed_gives_the_same_run_twice():
    results = []
    for _ in range(2):
        _, model = models("box")
        results.append(model.learn(192).policy.parameters())
    assert all(th.equal(a, b) for a, b in zip(*results, strict=True))


class OwnEvaluation(NotesActorCriticPolicy):
    def evaluate_actions(self, obs, actions):
        return super().evaluate_actions(obs, actions)


def test_what_cannot_be_compiled_is_eager_and_said_once(caplog):
    reason = "OwnEvaluation evaluates actions by itself"
    eager, compiled = models("discrete", policy=OwnEvaluation)
    with caplog.at_level(logging.WARNING, "sb3_ppo_notes"):
        for model in (eager, compiled):
            learn(model, 192)
    assert [record.getMessage() for record in caplog.records] == [
        message
        for message in caplog.messages
        if message.startswith(f"compile=True: training is eager, because {reason}")
    ]
    assert len(caplog.records) == 1
    assert difference(eager, compiled) == 0.0


def test_dropout_stays_eager():
    _, model = models("discrete")
    model.policy.mlp_extractor.policy_net.append(th.nn.Dropout(0.5))
    model.learn(64)
    assert "dropout" in model.engine.compiler.reason


def test_without_a_compiler_there_is_a_warning_and_the_same_result():
    eager, compiled = models("discrete")
    learn(eager, 64)
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.warns(UserWarning, match=r"compile=True needs a C\+\+ compiler"),
    ):
        learn(compiled, 64)
    assert difference(eager, compiled) == 0.0


def test_a_compiler_that_fails_leaves_training_eager(monkeypatch, caplog):
    def fail(*arguments):
        raise inductor.CannotCompile("of a broken header")

    monkeypatch.setattr("sb3_ppo_notes.engine.compiled.compiled", fail)
    eager, compiled = models("discrete")
    for model in (eager, compiled):
        learn(model, 64)
    assert "because of a broken header" in caplog.text
    assert difference(eager, compiled) == 0.0


def test_weights_that_are_no_parameters_are_not_baked_in():
    weight = th.nn.Parameter(th.ones(3))
    with pytest.raises(inductor.CannotCompile, match="not among its parameters"):
        inductor.compiled(lambda number: (number * weight,), [th.ones(3)])


def test_a_non_finite_loss_stops_before_the_weights():
    _, model = models("box")
    model.learn(64)
    before = [parameter.clone() for parameter in model.policy.parameters()]

    class Poison(BaseCallback):
        def _on_rollout_end(self):
            self.model.rollout_buffer.advantages[3, 1] = np.inf

        def _on_step(self):
            return True

    with pytest.raises(NonFiniteError, match="in epoch 0, minibatch"):
        model.learn(64, callback=Poison(), reset_num_timesteps=False)
    reached = [parameter.isfinite().all() for parameter in model.policy.parameters()]
    assert all(reached)
    assert model.policy.optimizer.state_dict()["state"][0]["step"] < 18 + 6
    assert len(before) == len(reached)


def test_compile_must_be_a_flag():
    with pytest.raises(InvalidTypeError, match="compile must be True or False, got str 'yes'"):
        NotesPPO("MlpPolicy", "CartPole-v1", compile="yes")
