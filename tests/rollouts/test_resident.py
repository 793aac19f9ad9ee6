"""A rollout that stays on the device where it was computed: the same numbers, sent once.

``is_resident_on`` says yes to a CPU here, so that all of it is tried without a GPU.
"""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.rollouts import buffers, resident
from sb3_ppo_notes.rules import UpdateRule
from tests import environments
from tests.persistence import cases
from tests.policies.test_masks import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore:.*mini-?batch.*:UserWarning")

KINDS = {
    **{name: (name, "MlpPolicy", {}) for name in ("box", "discrete", "discrete_observation")},
    **{name: (name, "MlpPolicy", {}) for name in ("multi_discrete", "multi_binary")},
    "dict": ("dict", "MultiInputPolicy", {}),
    "image": ("image", "CnnPolicy", dict(n_steps=4, batch_size=8)),
    "recurrent": ("box", "MlpLstmPolicy", {}),
    "recurrent_dict": ("dict", "MultiInputLstmPolicy", {}),
    "masked": ("discrete", "MlpPolicy", dict(action_masking=True)),
    "every_epoch": ("box", "MlpPolicy", dict(rule=UpdateRule(computed="every_epoch"))),
}


def model_of(kind, **changes):
    env_name, policy, own = KINDS[kind]
    arguments = dict(n_steps=16, batch_size=12, n_epochs=2, seed=0) | own | changes
    make = MAKERS[env_name] if arguments.get("action_masking") else (lambda: environments.make(env_name))
    return NotesPPO(policy, make_vec_env(make, 4, seed=0), **arguments)


@pytest.fixture
def on_device(monkeypatch):
    def switch(is_on):
        monkeypatch.setattr(buffers, "is_resident_on", lambda device: is_on)

    return switch


def equal(one, other):
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return all(th.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_run_is_the_same(kind, on_device):
    trained = []
    for is_on in (False, True):
        on_device(is_on)
        model = model_of(kind)
        model.learn(3 * model.n_steps * 4)
        trained.append(model)
    plain, resident_ = trained
    assert plain.rollout_buffer.resident is None
    assert resident_.rollout_buffer.resident is not None
    assert equal(plain, resident_)
    assert plain.last_report == resident_.last_report
    for name in ("values", "log_probs", "advantages", "returns"):
        assert np.array_equal(getattr(plain.rollout_buffer, name), getattr(resident_.rollout_buffer, name)), name


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_observations_are_not_sent_twice(kind, on_device):
    """What is learned from are the tensors that the policy has acted on, not the arrays."""
    on_device(True)
    model = model_of(kind)
    model.learn(64)
    buffer = model.rollout_buffer
    kept, taken = buffer.resident.observations, buffer._observation_tensors
    pairs = [(kept[None], taken)] if kind == "box" else [(kept[key], taken[key]) for key in kept]
    assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in pairs)


class Reader(BaseCallback):
    """What a callback finds in the buffer of the step before, beside what the collector told it then."""

    def __init__(self):
        super().__init__()
        self.steps, self.said = 0, {}

    def _on_step(self):
        buffer = self.model.rollout_buffer
        for name, value in self.said.items():
            assert np.array_equal(getattr(buffer, name)[buffer.pos - 1], value.numpy().reshape(-1)), name
        self.said = {name: self.locals[name].clone() for name in ("values", "log_probs")}
        self.steps += 1
        return True


def test_values_are_there_whenever_somebody_asks(on_device):
    on_device(True)
    reader = Reader()
    model_of("box").learn(64, callback=reader)
    assert reader.steps == 16


def test_values_come_to_the_host_once_a_rollout(on_device, monkeypatch):
    on_device(True)
    model = model_of("box")
    reads = []
    original = resident.ResidentRollout.read_into

    def counting(self, arrays):
        reads.append(self._unread)
        original(self, arrays)

    monkeypatch.setattr(resident.ResidentRollout, "read_into", counting)
    model.learn(2 * 64)
    assert [read for read in reads if read is not None] == [(0, 16), (0, 16)]


def test_somebody_elses_values_are_kept(on_device):
    """A callback that sets them means it."""
    on_device(True)
    model = model_of("box")
    model.learn(64)
    ones = np.ones_like(model.rollout_buffer.values)
    model.rollout_buffer.values[...] = 2.0
    assert (model.rollout_buffer.values == 2.0).all()
    model.rollout_buffer.values = ones
    assert model.rollout_buffer.values is ones


@pytest.mark.parametrize("resumed_on", [True, False])
@pytest.mark.parametrize("case", ["mlp", "dict"])
def test_a_rollout_that_was_cut_goes_on(case, resumed_on, on_device, tmp_path):
    """From a file, the first observations of the rollout were never on this device: all are sent."""
    on_device(False)
    straight = cases.CASES[case]()
    straight.learn(cases.TOTAL)
    on_device(True)
    path = cases.run_to(cases.CASES[case](), 64 + 20, tmp_path)
    on_device(resumed_on)
    loaded = cases.resumed(case, path)
    assert loaded._paused_at == 10
    loaded.learn(cases.TOTAL - loaded.num_timesteps, reset_num_timesteps=False)
    cases.assert_equal(loaded, straight)
    assert np.array_equal(straight.rollout_buffer.values, loaded.rollout_buffer.values)


def test_a2c_too(on_device):
    trained = []
    for is_on in (False, True):
        on_device(is_on)
        env = make_vec_env(lambda: environments.make("box"), 4, seed=0)
        trained.append(NotesA2C("MlpPolicy", env, seed=0).learn(200))
    assert equal(*trained)


def test_a_gpu_keeps_its_rollout():
    assert resident.is_resident_on(th.device("cuda"))
    assert not resident.is_resident_on(th.device("cpu"))
