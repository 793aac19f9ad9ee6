"""precision=: the networks in half precision, everything made of their outputs in single."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.engine import Phase
from sb3_ppo_notes.engine.descent import Descent
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.policies.precision import can_remember
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from tests import environments

SMALL = dict(n_steps=32, batch_size=32, n_epochs=2, learning_rate=1e-3, seed=0)
HALF = ("bfloat16", "float16")


def trained(name, precision, policy="MlpPolicy", **changes):
    env = make_vec_env(lambda: environments.make(name), 2, seed=0)
    model = NotesPPO(policy, env, precision=precision, **SMALL | changes)
    return model.learn(128)


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("name", ["discrete", "box", "multi_binary"])
def test_half_precision_is_near_single_and_leaves_weights_in_single(name, precision):
    single, half = trained(name, "float32"), trained(name, precision)
    assert all(parameter.dtype == th.float32 for parameter in half.policy.parameters())
    assert half.last_report.value_loss == pytest.approx(single.last_report.value_loss, rel=0.3)
    different = [not th.equal(a, b) for a, b in zip(single.policy.parameters(), half.policy.parameters(), strict=True)]
    assert any(different)  # it is used


@pytest.mark.parametrize(
    ("name", "policy", "precision"),
    [
        ("discrete", "MlpPolicy", "bfloat16"),
        ("discrete", "MlpPolicy", "float16"),
        ("dict", "MultiInputPolicy", "bfloat16"),
        ("dict", "MultiInputPolicy", "float16"),
        ("discrete", "MlpLstmPolicy", "bfloat16"),
    ],
)
def test_the_first_minibatch_has_ratio_one(name, policy, precision):
    """Acting and updating round alike: nothing has moved yet, so the old log-probabilities are the new ones."""
    model = trained(name, precision, policy, n_epochs=1, batch_size=64, learning_rate=1e-12)
    assert model.last_report.approx_kl == pytest.approx(0.0, abs=1e-4)
    assert model.last_report.clip_fraction == 0.0


@pytest.mark.parametrize("precision", HALF)
def test_gsde_images_a2c_and_saving(precision, tmp_path):
    trained("box", precision, use_sde=True)
    trained("image", precision, "CnnPolicy", n_steps=4, batch_size=8, n_epochs=1)
    model = NotesA2C("MlpPolicy", "CartPole-v1", precision=precision, seed=0).learn(50)
    model.save(tmp_path / "model.zip")
    loaded = NotesA2C.load(tmp_path / "model.zip", env=model.env)
    assert loaded.precision == loaded.policy.precision == precision
    loaded.learn(50)


def test_an_overflow_skips_the_step_and_halves_the_scale():
    weight = th.nn.Parameter(th.ones(2))
    optimizer = th.optim.SGD([weight], lr=0.1)
    steps = Descent(Phase(optimizer, [weight], 1.0, 1, "both"))
    steps.scaler = th.amp.GradScaler("cpu", init_scale=1024.0)
    steps.take((weight * 3.0).sum(), "here")
    # scale, backward, unscale, clip to 1, step: the direction (1, 1)/√2, whatever the scale
    np.testing.assert_allclose(weight.detach(), 1 - 0.1 / np.sqrt(2), rtol=1e-5)
    before = weight.detach().clone()
    # Finite as it is, infinite once scaled.
    assert steps.take((weight * 1e36).sum(), "here").tolist() == [0.0, 0.0, 0.0]
    assert th.equal(weight, before)
    assert steps.scaler.get_scale() == 512.0


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("rnn", ["lstm", "gru"])
@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "CnnLstmPolicy"])
def test_a_memory_that_cannot_be_in_half_precision_is_in_single_and_that_is_said(
    precision, rnn, policy, monkeypatch, caplog
):
    """The networks are in half precision all the same, and acting and learning still round alike."""
    ran = []
    remember = NotesRecurrentPolicy.remember

    def watched(self, features, recurrence):
        result = remember(self, features, recurrence)
        ran.append((result[0].dtype, self.action_net(result[0]).dtype))
        return result

    monkeypatch.setattr("sb3_ppo_notes.policies.precision.can_remember", lambda *of: False)
    monkeypatch.setattr(NotesRecurrentPolicy, "remember", watched)
    name = "discrete" if policy == "MlpLstmPolicy" else "image"
    sizes = dict(n_epochs=1, n_steps=16, batch_size=32, learning_rate=1e-12)
    with caplog.at_level("WARNING", "sb3_ppo_notes"):
        model = trained(name, precision, policy, policy_kwargs=dict(rnn=rnn, lstm_hidden_size=64), **sizes)
    assert set(ran) == {(th.float32, getattr(th, precision))}
    assert model.last_report.approx_kl == pytest.approx(0.0, abs=1e-4)
    said = f"precision='{precision}' is for the networks; the memory stays in float32, because PyTorch has no {rnn.upper()}"
    assert [record.getMessage()[: len(said)] for record in caplog.records] == [said]


def test_whether_a_memory_can_be_in_half_precision_is_tried(monkeypatch):
    """No list of processors: PyTorch's own refusal counts, whatever the layer."""

    class Refused(th.nn.LSTM):
        def forward(self, *inputs):
            raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")

    assert not can_remember(Refused, "cpu", "bfloat16")
    assert can_remember(th.nn.GRU, "cpu", "bfloat16")


def test_unknown_precision_is_refused():
    with pytest.raises(
        InvalidValueError, match="precision must be one of 'float32', 'bfloat16', 'float16', got 'half'"
    ):
        NotesPPO("MlpPolicy", "CartPole-v1", precision="half")
