"""compile=True with a memory: the memory as it is, the rest compiled once for minibatches of any length."""

import numpy as np
import pytest
import torch as th

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.stepping import GradientSteps
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.rules import ClippedValueError, UpdateRule
from tests.algorithms.test_compile import CASES as FEED_FORWARD
from tests.algorithms.test_compile import STEADY, ChangeEverything, Compilations, difference, learn, models

pytestmark = pytest.mark.filterwarnings("ignore:.*mini-?batch.*:UserWarning")


def recurrent(env_name, algorithm=NotesPPO, policy="MlpLstmPolicy", policy_kwargs=None, **changes):
    kwargs = dict(lstm_hidden_size=16, net_arch=[16]) | STEADY | (policy_kwargs or {})
    return models(env_name, algorithm, policy=policy, policy_kwargs=kwargs, **changes)


def after_updates(n, *models_):
    for model in models_:
        learn(model, n * model.n_steps * model.n_envs)
    assert models_[-1].compiler.reason is None


#: What stands on the memory is the same as without one.
SAME = (
    "discrete",
    "multi_discrete",
    "multi_binary",
    "box",
    "squashed_gaussian",
    "beta",
    "state_dependent_gaussian",
    "gsde",
    "masked",
    "kl_penalty",
    "exact_kl_stop",
    "stop_of_the_policy",
    "normalized_by_rollout",
)
CASES = {name: FEED_FORWARD[name] for name in SAME} | {
    "own_code": ("discrete", dict(policy_kwargs=dict(lstm_hidden_size=64))),
    "dict": ("dict", dict(policy="MultiInputLstmPolicy")),
    "masked_multi_discrete": ("multi_discrete", dict(masked=True)),
    "shared": ("discrete", dict(policy_kwargs=dict(shared_lstm=True, enable_critic_lstm=False))),
    "critic_without": ("discrete", dict(policy_kwargs=dict(enable_critic_lstm=False))),
    "gru_of_two_layers": ("discrete", dict(policy_kwargs=dict(rnn="gru", n_lstm_layers=2))),
    "value_clip": ("discrete", dict(rule=UpdateRule(value_objective=ClippedValueError(0.1)))),
    "no_norm_limit": ("discrete", dict(max_grad_norm=1e9)),
    "torchs_own_optimizer": ("discrete", dict(policy_kwargs=dict(optimizer_class=th.optim.AdamW))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_update_equals_the_eager_one(name):
    env_name, changes = CASES[name]
    eager, compiled = recurrent(env_name, **changes)
    after_updates(1, eager, compiled)
    assert difference(eager, compiled) < 1e-5
    for field, expected in vars(eager.last_report).items():
        if isinstance(expected, str | tuple):
            continue
        close = expected if expected is None else pytest.approx(expected, rel=2e-4, abs=1e-5, nan_ok=True)
        assert getattr(compiled.last_report, field) == close, field


@pytest.mark.slow
def test_images_and_a2c_too():
    sizes = dict(n_steps=4, batch_size=8, n_epochs=1, learning_rate=1e-4)
    eager, compiled = recurrent("image", policy="CnnLstmPolicy", **sizes)
    after_updates(1, eager, compiled)
    assert difference(eager, compiled) < 1e-5
    eager, compiled = recurrent("box", NotesA2C, ent_coef=0.01)
    after_updates(2, eager, compiled)
    assert difference(eager, compiled) < 1e-5


def test_minibatches_of_every_length_are_one_compilation(monkeypatch):
    compilations = Compilations(monkeypatch)
    _, model = recurrent("discrete", target_kl=10.0, ent_coef=0.01)
    lengths = set()
    take = model.rollout_buffer.get

    def noting(batch_size):
        for minibatch in take(batch_size):
            lengths.add(len(minibatch.returns))
            yield minibatch

    monkeypatch.setattr(model.rollout_buffer, "get", noting)
    model.learn(5 * 64, callback=ChangeEverything())
    model.learn(64, reset_num_timesteps=False)
    assert model.compiler.reason is None
    assert len(lengths) > 2
    assert compilations.count == 1


def test_a_single_row_is_stepped_eagerly():
    """One row has another shape than any number of rows; code traced for one would be wrong for more."""
    eager, compiled = recurrent("discrete", batch_size=1, n_epochs=1, normalize_advantage=False)
    after_updates(1, eager, compiled)
    assert compiled.last_report.n_gradient_steps == 64
    assert not compiled.compiler.functions
    assert difference(eager, compiled) < 1e-5


def test_the_kl_limit_is_kept_and_weights_that_are_set_are_used():
    eager, compiled = recurrent("discrete", target_kl=1e-4, learning_rate=1e-2, n_epochs=10)
    after_updates(1, eager, compiled)
    assert compiled.last_report.stopped_in_epoch is not None
    assert compiled.last_report.stopped_in_epoch == eager.last_report.stopped_in_epoch
    assert compiled.last_report.n_gradient_steps == eager.last_report.n_gradient_steps
    for model in (eager, compiled):
        th.manual_seed(7)
        with th.no_grad():
            model.policy.load_state_dict({k: th.randn_like(v) * 0.1 for k, v in model.policy.state_dict().items()})
            model.policy.value_net.weight.data = th.ones_like(model.policy.value_net.weight)
    after_updates(1, eager, compiled)
    assert difference(eager, compiled) < 1e-4


@pytest.mark.parametrize("where", ["advantages", "observations"])
def test_what_is_not_finite_stops_before_the_weights(where):
    _, model = recurrent("discrete")
    learn(model, 64)
    before = [weight.detach().clone() for weight in model.policy.parameters()]
    buffer = model.rollout_buffer
    getattr(buffer, where)[3, 1] = np.nan
    buffer.generator_ready = False
    with pytest.raises(NonFiniteError):
        model.train()
    assert all(th.equal(old, new) for old, new in zip(before, model.policy.parameters(), strict=True))


def spoil_the_third_step(monkeypatch):
    descend, calls = GradientSteps.descend, []

    def spoil(self, *given):
        norm = descend(self, *given)
        calls.append(norm)
        if len(calls) == 3:
            with th.no_grad():
                self.parameters[0].fill_(th.inf)
        return norm

    monkeypatch.setattr(GradientSteps, "descend", spoil)


def test_an_update_is_undone_also_where_the_optimizer_steps_by_itself(monkeypatch):
    """A weight without a part in the loss has no gradient: torch's optimizer steps then, and keeps its own state."""
    pair = recurrent("discrete", on_nonfinite="skip_update")
    for model in pair:
        th.manual_seed(0)
        model.policy.extra = th.nn.Linear(3, 3)
        model.policy.optimizer.param_groups[0]["params"].extend(model.policy.extra.parameters())
        with monkeypatch.context() as patch:
            spoil_the_third_step(patch)
            learn(model, 64)
        assert not any(model.policy.optimizer.state.values())
    assert difference(*pair) == 0.0
    after_updates(2, *pair)
    assert difference(*pair) < 1e-5


def test_dropout_between_layers_stays_eager(caplog):
    """A step that is refused is taken again, and would be with another draw."""
    layers = dict(n_lstm_layers=2, lstm_kwargs=dict(dropout=0.5))
    eager, compiled = recurrent("discrete", policy_kwargs=layers)
    for model in (eager, compiled):
        learn(model, 64)
    assert "has dropout or batch normalisation" in caplog.text
    assert difference(eager, compiled) == 0.0


def test_it_saves_loads_predicts_and_continues(tmp_path):
    _, model = recurrent("discrete")
    learn(model, 64)
    model.save(tmp_path / "model.zip")
    plain = NotesPPO.load(tmp_path / "model.zip", env=model.env, compile=False)
    loaded = NotesPPO.load(tmp_path / "model.zip", env=model.env)
    observation = model.env.reset()
    assert (
        loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]
    ).all()
    for each in (plain, loaded):
        learn(each, 64, seed=1)
    assert loaded.compiler.reason is None
    assert difference(plain, loaded) < 1e-3
