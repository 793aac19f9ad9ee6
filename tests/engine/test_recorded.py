"""Minibatches run as recorded operations: which, from when on, and to the bit what autograd gives."""

import copy
import pickle
from collections import Counter

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.engine import recorded, script
from sb3_ppo_notes.formulas import objectives
from sb3_ppo_notes.rules import ClippedSurrogate, UpdateRule
from tests import environments
from tests.engine.test_compile import CASES, ChangeEverything, difference, learn, models
from tests.policies.test_masks import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore:.*mini-?batch.*:UserWarning")

SMALL = dict(n_steps=16, batch_size=12, n_epochs=3, learning_rate=3e-3, seed=0)
#: Those whose loss is a fixed list of operations, and whose optimiser steps all weights as one vector.
RECORDED = [
    "discrete",
    "discrete_observation",
    "multi_discrete",
    "multi_binary",
    "box",
    "squashed_gaussian",
    "state_dependent_gaussian",
    "masked",
    "masked_multi_binary",
    "kl_penalty",
    "huber",
    "pessimistic",
    "exact_kl_stop",
    "stop_of_the_epoch",
    "stop_of_the_policy",
    "adaptive_learning_rate",
    "every_epoch",
    "normalized_by_rollout",
    "value_clip_and_sequence",
    "tensorflows_rmsprop",
    "gsde",
    "dict",
    "image",
    "shared_trunk",
]
EAGER = ["torchs_own_optimizer"]


class Tally:
    """How often something was called."""

    def __init__(self, monkeypatch):
        self.count = Counter()
        self._watch(monkeypatch, recorded.RecordedStepper, "_record")
        self._watch(monkeypatch, recorded.RecordedStepper, "_compare")
        self._watch(monkeypatch, recorded.RecordedStepper, "_give_up")
        self._watch(monkeypatch, script.Script, "__call__")

    def _watch(self, monkeypatch, kind, name):
        original = getattr(kind, name)

        def counting(*arguments):
            self.count[name] += 1
            return original(*arguments)

        monkeypatch.setattr(kind, name, counting)


def eager(env_name, algorithm=NotesPPO, policy="MlpPolicy", masked=False, **changes):
    arguments = SMALL | changes
    if algorithm is NotesA2C:
        arguments = {key: value for key, value in arguments.items() if key not in ("batch_size", "n_epochs")}
    if "rule" in changes and changes["rule"].optimization.separate is not None:
        arguments = {key: value for key, value in arguments.items() if key not in ("learning_rate", "n_epochs")}
    make = MAKERS[env_name] if masked else (lambda: environments.make(env_name))
    return algorithm(policy, make_vec_env(make, 4, seed=0), action_masking=masked, **arguments)


def both(monkeypatch, total_timesteps, make, callback=lambda: None):
    """Trained with autograd alone, and with lists as soon as possible."""
    trained = []
    for wait in (10**9, 0):
        monkeypatch.setattr(recorded, "WAIT", wait)
        trained.append(learn(make(), total_timesteps, callback=callback()))
    return trained


@pytest.mark.parametrize("name", RECORDED + EAGER)
def test_a_recorded_run_is_the_run(name, monkeypatch):
    env_name, changes = CASES[name]
    tally = Tally(monkeypatch)
    n_steps = changes.get("n_steps", 16)
    plain, replayed = both(monkeypatch, 2 * 4 * n_steps, lambda: eager(env_name, **changes))
    assert difference(plain, replayed) == 0.0
    assert plain.last_report == replayed.last_report
    assert plain.rule_state == replayed.rule_state
    if name in RECORDED:
        assert tally.count["_give_up"] == 0
        assert tally.count["_compare"] < tally.count["__call__"]
    else:
        assert tally.count["_record"] == tally.count["__call__"] == 0


def test_separate_optimizers_too(monkeypatch):
    """The actor's phase is replayed, the critic's is not."""
    tally = Tally(monkeypatch)
    plain, replayed = both(monkeypatch, 128, lambda: eager("box", **CASES["separate_optimizers"][1]))
    assert difference(plain, replayed) == 0.0
    assert tally.count["_give_up"] == 0
    assert 0 < tally.count["_compare"] < tally.count["__call__"]


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "CnnLstmPolicy"])
def test_a_policy_with_memory_is_not_recorded(policy, monkeypatch):
    tally = Tally(monkeypatch)
    monkeypatch.setattr(recorded, "WAIT", 0)
    model = learn(eager("image" if "Cnn" in policy else "box", policy=policy), 2 * 64)
    assert not tally.count
    assert model.engine.report().steps["both"] == ("eager", "a policy with memory is not recorded", True)


def test_a2c_too(monkeypatch):
    tally = Tally(monkeypatch)
    plain, replayed = both(monkeypatch, 64 * 8, lambda: eager("box", NotesA2C))
    assert difference(plain, replayed) == 0.0
    assert tally.count == {"_record": 1, "_compare": 1, "__call__": 7}


def test_few_minibatches_are_not_worth_a_list(monkeypatch):
    """It is written down after 32 of a kind: of the whole minibatches here (5 of 6, three times an update)."""
    tally = Tally(monkeypatch)
    learn(eager("box"), 2 * 64)
    assert not tally.count
    learn(eager("box"), 4 * 64)
    assert tally.count == {"_record": 1, "_compare": 1, "__call__": 4 * 15 - 33}


def test_other_numbers_are_another_list(monkeypatch):
    """Clip range and coefficients stand in the list: when they change, all begins anew."""
    tally = Tally(monkeypatch)
    plain, replayed = both(monkeypatch, 4 * 64, lambda: eager("discrete", ent_coef=0.01), ChangeEverything)
    assert difference(plain, replayed) == 0.0
    assert tally.count["_record"] == 4 * 2


class Stepwise(ClippedSurrogate):
    """A user's own: what it gives depends on how often it was asked."""

    asked = 0

    def objective(self, terms):
        object.__setattr__(self, "asked", self.asked + 1)
        return super().objective(terms) * (1 + self.asked % 2)


def test_a_users_own_objective_is_asked_every_time(monkeypatch):
    tally = Tally(monkeypatch)
    rule = UpdateRule(policy_objective=Stepwise(0.2))
    plain, replayed = both(monkeypatch, 128, lambda: eager("box", rule=rule))
    assert not tally.count
    assert difference(plain, replayed) == 0.0


@pytest.mark.parametrize("place", ["formula", "method"])
def test_a_formula_that_was_replaced_is_asked(place, monkeypatch):
    """Somebody tries another one between two calls of learn."""

    def run(wait):
        monkeypatch.setattr(recorded, "WAIT", wait)
        model = learn(eager("box"), 128)
        with monkeypatch.context() as patch:
            if place == "formula":
                original = objectives.clipped_surrogate
                patch.setattr(objectives, "clipped_surrogate", lambda *given: original(*given) * 0.5)
            else:
                method = ClippedSurrogate.objective
                patch.setattr(ClippedSurrogate, "objective", lambda self, terms: method(self, terms) * 0.5)
            learn(model, 128)
        return learn(model, 128)

    assert difference(run(10**9), run(0)) == 0.0


@pytest.mark.parametrize("name", ["_AutoDispatchBelowAutograd", "Graph", "_create_function_from_graph"])
def test_the_day_pytorchs_interpreter_is_gone_training_is_eager_and_says_so(name, monkeypatch):
    monkeypatch.setattr(recorded, "WAIT", 0)
    monkeypatch.delattr(th._C, name)
    tally = Tally(monkeypatch)
    model = learn(eager("box"), 128)
    assert tally.count["__call__"] == 0
    assert tally.count["_give_up"] == 2
    ran = model.engine.report().steps["both"]
    assert (ran.name, ran.is_lasting) == ("eager", True)
    assert name in ran.reason


def test_who_looks_for_an_error_gets_autograds_own(monkeypatch):
    monkeypatch.setattr(recorded, "WAIT", 0)
    tally = Tally(monkeypatch)
    with th.autograd.set_detect_anomaly(True):
        learn(eager("box"), 64)
    model = eager("box", policy_kwargs=dict(ortho_init=False))
    monkeypatch.setattr(model, "train", autocast(model.train))
    learn(model, 64)
    assert not tally.count


def autocast(function):
    def inside():
        with th.autocast("cpu"):
            function()

    return inside


def test_a_list_that_gives_other_numbers_is_not_believed(monkeypatch, caplog):
    """The first time a list is used, autograd's numbers are taken; if the list's differ, so they are from then on."""
    original = script.Script.__call__

    def wrong(self, *arguments):
        first, *rest = original(self, *arguments)
        return (first + 1e-6, *rest)

    monkeypatch.setattr(script.Script, "__call__", wrong)
    tally = Tally(monkeypatch)
    caplog.set_level("INFO", "sb3_ppo_notes")
    plain, replayed = both(monkeypatch, 128, lambda: eager("box"))
    assert difference(plain, replayed) == 0.0
    assert plain.last_report == replayed.last_report
    assert tally.count == {"_record": 2, "_compare": 2, "__call__": 2, "_give_up": 2}
    assert "minibatches of 12 rows stay with autograd: the recorded operations gave other numbers" in caplog.text


class BetweenUpdates(BaseCallback):
    """Somebody reaches into the policy."""

    def __init__(self, meddle):
        super().__init__()
        self.meddle = meddle

    def _on_rollout_start(self):
        if self.num_timesteps:
            self.meddle(self.model.policy)

    def _on_step(self):
        return True


def replace_a_weight(policy):
    policy.value_net.weight.data = policy.value_net.weight.data * 2


def test_weights_that_lie_elsewhere_are_found(monkeypatch):
    plain, replayed = both(monkeypatch, 4 * 64, lambda: eager("box"), lambda: BetweenUpdates(replace_a_weight))
    assert difference(plain, replayed) == 0.0


def reload_the_optimizer(policy):
    policy.optimizer.load_state_dict(copy.deepcopy(policy.optimizer.state_dict()))


def test_a_loaded_optimizer_is_stepped(monkeypatch):
    """The weights stay where they are; the gradient is another vector now."""
    plain, replayed = both(monkeypatch, 4 * 64, lambda: eager("box"), lambda: BetweenUpdates(reload_the_optimizer))
    assert difference(plain, replayed) == 0.0


def test_a_compiled_model_falls_back_to_lists(monkeypatch):
    """Its ragged last minibatch is eager; compiled are the others."""
    monkeypatch.setattr(recorded, "WAIT", 0)
    tally = Tally(monkeypatch)
    _, model = models("box")
    learn(model, 2 * 64)
    assert tally.count["_record"] == 0


def test_models_with_lists_can_be_copied(monkeypatch):
    monkeypatch.setattr(recorded, "WAIT", 0)
    model = learn(eager("box"), 64)
    assert model.engine.steppers["both"]._scripts
    assert copy.deepcopy(model.engine).steppers == {}
    assert pickle.loads(pickle.dumps(model.engine)).steppers == {}


def test_what_ran_is_said_and_what_keeps_it_from_being_faster_is_printed_once(capsys):
    plain = eager("box", verbose=1)
    learn(plain, 64)
    assert plain.engine.report().steps["both"].name == "eager"
    assert not plain.engine.report().steps["both"].is_lasting
    learn(plain, 4 * 64)
    assert str(plain.engine.report()) == "steps recorded; acting eager"
    assert "runs steps" not in capsys.readouterr().out
    own = eager("box", verbose=1, **CASES["torchs_own_optimizer"][1])
    learn(own, 3 * 64)
    said = "PPO runs steps eager (AdamW cannot step all weights as one vector); acting eager"
    assert capsys.readouterr().out.count(said) == 1
