"""KLCallback and EntropyCallback: what they log, when they warn, stop and call back, on our algorithms and on stock ones."""

import json
import logging
import math
import warnings

import pytest
import torch as th
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.report import KLEstimates, UpdateReport
from sb3_ppo_notes.callbacks import DiagnosticsCallback, EntropyCallback, KLCallback, TrainingWarning
from tests import environments

SMALL = dict(n_steps=32, batch_size=32, n_epochs=3, seed=0, device="cpu")
ALL = (KLCallback, EntropyCallback, DiagnosticsCallback)


def trained(callback, algorithm=NotesPPO, env="box", policy="MlpPolicy", steps=256, log=None, **arguments):
    settings = SMALL if issubclass(algorithm, PPO | NotesPPO) else dict(seed=0, device="cpu")
    model = algorithm(policy, make_vec_env(lambda: environments.make(env), 2, seed=0), **settings | arguments)
    if log is not None:
        model.set_logger(log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return model.learn(steps, callback=callback)


def last_line(folder):
    return json.loads((folder / "progress.json").read_text().splitlines()[-1])


def test_everything_lands_in_every_output(tmp_path, capsys):
    log = configure(str(tmp_path), ["stdout", "csv", "json", "tensorboard"])
    trained([KLCallback(every=1), EntropyCallback(every=1), DiagnosticsCallback(every=1)], log=log)
    log.close()
    keys = ["kl/k1", "kl/k2", "kl/k3", "kl/exact", "kl/by_epoch/2", "entropy/mean", "entropy/0", "std/1",
            "gradient/actor", "ratio/max", "scale/return_std", "units/dormant", "weights/change", "warnings"]  # fmt: skip
    line, shown = last_line(tmp_path), capsys.readouterr().out
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    events = EventAccumulator(str(tmp_path)).Reload()
    for key in keys:
        assert f"notes/{key}" in line, key
        assert f"notes/{key}" in header, key
        assert f"notes/{key}" in events.Tags()["scalars"], key
        assert f" {key} " in shown, key
    assert line["notes/kl/k3"] == pytest.approx(line["train/approx_kl"]), "SB3's key keeps its name and window"
    assert "custom_scalars__config__" in events.Tags()["tensors"]


@pytest.mark.parametrize("algorithm", [NotesPPO, NotesA2C])
def test_parameters_are_bit_equal_with_every_callback_on(algorithm):
    callbacks = [KLCallback(every=1), EntropyCallback(every=1), DiagnosticsCallback(every=1)]
    watched, alone = trained(callbacks, algorithm), trained(None, algorithm)
    assert all(map(th.equal, watched.policy.parameters(), alone.policy.parameters()))


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_a_stock_model_is_not_changed_either(algorithm):
    callbacks = [KLCallback(every=1), EntropyCallback(every=1), DiagnosticsCallback(every=1)]
    watched, alone = trained(callbacks, algorithm), trained(None, algorithm)
    assert all(map(th.equal, watched.policy.parameters(), alone.policy.parameters()))


def test_stock_and_notes_are_seen_alike():
    """What stock exposes is the same to the bit: the models are."""
    lines = []
    for algorithm in (PPO, NotesPPO):
        callback = [KLCallback(every=1), EntropyCallback(every=1), DiagnosticsCallback(every=1)]
        trained(callback, algorithm, steps=192)
        lines.append(callback[2].history)
    stock, notes = lines
    assert len(stock) == len(notes) == 3
    for one, other in zip(stock, notes, strict=True):
        for name in ("kl", "clip_fraction", "explained_variance", "scale/advantage_std", "std/min", "weights/change",
                     "units/rank", "action/outside", "advantage/kurtosis"):  # fmt: skip
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
        assert math.isnan(one["gradient/norm"])
        assert not math.isnan(other["gradient/norm"])
        assert one["kl_error"] == pytest.approx(other["kl_error"], rel=1e-2)


def test_what_stock_does_not_show_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, "sb3_ppo_notes"):
        trained(KLCallback(verbose=1), PPO)
    assert [record.message for record in caplog.records] == [
        "KLCallback watches a stock PPO, which does not show the KL of single epochs and minibatches, k1 and k2 while it "
        "learns, when it stopped early; NotesPPO and NotesA2C do"
    ]


@pytest.mark.parametrize("callback", ALL)
def test_other_algorithms_are_refused(callback):
    with pytest.raises(TypeError, match=f"{callback.__name__} needs NotesPPO, NotesA2C, PPO or A2C .* got SAC"):
        SAC("MlpPolicy", "Pendulum-v1", learning_starts=5).learn(10, callback=callback())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KLCallback(kl_max=0.0), r"kl_max must be > 0"),
        (lambda: KLCallback(kl_max=math.nan), r"kl_max must be > 0"),
        (lambda: KLCallback(kl_max=0.01, kl_min=0.02), r"kl_min must be < kl_max, got kl_min=0.02 and kl_max=0.01"),
        (lambda: KLCallback(estimator="k4"), r"estimator must be one of"),
        (lambda: KLCallback(estimator="exact", exact=False), r"exact must be True"),
        (lambda: KLCallback(patience=0), r"patience must be an int >= 1"),
        (lambda: KLCallback(every=0), r"every must be an int >= 1"),
        (lambda: EntropyCallback(relative_low=1.5), r"relative_low must be in \(0, 1\) or None, got 1.5"),
        (lambda: EntropyCallback(std_low=5.0), r"std_low must be < std_high, got std_low=5.0"),
        (lambda: EntropyCallback(std_high=math.inf), r"std_high must be > 0"),
        (lambda: EntropyCallback(relative_low="0.1"), r"relative_low must be .* got str '0.1'"),
        (lambda: KLCallback(on_leave=3), r"on_leave must be a function of an UpdateReport or None, got 3"),
        (lambda: EntropyCallback(on_leave="stop"), r"on_leave must be a function .* got 'stop'"),
        (lambda: DiagnosticsCallback(off=["nonsense"]), r"off must hold names of symptoms .* got \['nonsense'\]"),
        (lambda: DiagnosticsCallback(off="never_clips"), r"off must be a collection of names, got the str"),
        (lambda: DiagnosticsCallback(limits={"never_clips": math.nan}), r"limits\['never_clips'\] must be a finite"),
        (lambda: DiagnosticsCallback(limits={"nonsense": 1.0}), r"limits must hold names"),
        (lambda: DiagnosticsCallback(deep_every=0), r"deep_every must be an int >= 1"),
        (lambda: DiagnosticsCallback().plot("x.png"), r"history must hold an update"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(("arguments", "learning_rate", "word"), [
    (dict(kl_max=0.03), 3e-2, "too far"), (dict(kl_max=None, kl_min=1e-4), 1e-9, "hardly moves"),
])  # fmt: skip
def test_kl_outside_its_band_warns_once_calls_back_and_stops(arguments, learning_rate, word):
    seen = []
    callback = KLCallback(**arguments, patience=2, stop=True, on_leave=seen.append, every=1)
    model = trained(callback, learning_rate=learning_rate, steps=1000)
    assert list(callback.warned) == ["large" if "far" in word else "small"]
    assert word in callback.warned.popitem()[1]
    assert len(seen) == 1
    assert model.num_timesteps == 128 + 2, "two updates, and the one step that asks whether to go on"


def test_a_kl_inside_its_band_is_left_alone():
    callback = KLCallback(kl_min=1e-8, patience=1, stop=True, every=1)
    assert trained(callback).num_timesteps == 256
    assert not callback.warned


def test_the_warning_is_a_warning():
    model = NotesPPO("MlpPolicy", make_vec_env(lambda: environments.make("box"), 2), learning_rate=3e-2, **SMALL)
    with pytest.warns(TrainingWarning, match=r"the policy moves too far: .* lower learning_rate or n_epochs") as caught:
        model.learn(512, callback=KLCallback(patience=1, every=1))
    assert len([each for each in caught if each.category is TrainingWarning]) == 1


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "exact"])
def test_the_estimator_that_is_named_decides(estimator):
    reports = []
    callback = KLCallback(kl_max=1e-9, estimator=estimator, patience=1, on_leave=reports.append, every=1)
    trained(callback, learning_rate=1e-2)
    values = [getattr(each.kl[-1] if estimator != "exact" else each.kl_after[-1], estimator) for each in reports]
    assert reports
    assert all(value > 1e-9 for value in values)


@pytest.mark.parametrize("env", sorted(environments.SPACES))
@pytest.mark.parametrize("algorithm", [NotesPPO, PPO])
def test_entropy_of_every_action_space(env, algorithm):
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(env, "MlpPolicy")
    callback = EntropyCallback(every=1)
    model = trained(
        callback,
        algorithm,
        env,
        policy,
        steps=64,
        policy_kwargs=dict(features_extractor_class=Small) if env == "image" else None,
    )
    logged = model.logger.name_to_value
    dimensions = {"box": 2, "multi_discrete": 2, "multi_binary": 3}.get(env, 1)
    by_dimension = [logged[f"notes/entropy/{index}"] for index in range(dimensions)]
    assert f"notes/entropy/{dimensions}" not in logged
    assert sum(by_dimension) == pytest.approx(logged["notes/entropy/mean"], rel=0.05)
    if env == "box":
        assert [logged[f"notes/std/{index}"] for index in range(2)] == pytest.approx([1.0, 1.0], rel=0.05)
    else:
        assert logged["notes/entropy/relative"] == pytest.approx(1.0, abs=0.05)


class Small(th.nn.Module):
    def __init__(self, observation_space):
        super().__init__()
        self.features_dim = 4
        self.net = th.nn.Sequential(th.nn.Flatten(), th.nn.Linear(36 * 36, 4), th.nn.ReLU())

    def forward(self, observations):
        return self.net(observations)


@pytest.mark.parametrize(
    ("kwargs", "env", "rule", "word"),
    [
        (dict(log_std_init=-4.0), "box", "std_low", "action dimension 0 hardly varies"),
        (dict(log_std_init=2.0), "box", "std_high", "runs away: it is 7"),
    ],
)
def test_a_deviation_outside_its_band_warns_and_stops(kwargs, env, rule, word):
    callback = EntropyCallback(patience=2, stop=True, every=1)
    model = trained(callback, policy_kwargs=kwargs, env=env, steps=1000)
    assert list(callback.warned) == [rule]
    assert word in callback.warned[rule]
    assert model.num_timesteps == 128 + 2


def test_a_collapsed_policy_is_noticed():
    model = NotesPPO("MlpPolicy", make_vec_env(lambda: environments.make("discrete"), 2, seed=0), **SMALL)
    with th.no_grad():
        model.policy.action_net.bias[0] = 12.0
    callback = EntropyCallback(patience=1, every=1)
    with pytest.warns(TrainingWarning, match="hardly explores any more: its entropy is 0.0% of the largest possible"):
        model.learn(128, callback=callback)


def test_recurrent_and_masked_policies_are_watched():
    for policy, kwargs in (("MlpLstmPolicy", dict(policy_kwargs=dict(lstm_hidden_size=8))), ("MlpPolicy", {})):
        callbacks = [KLCallback(every=1), EntropyCallback(every=1), DiagnosticsCallback(every=1)]
        model = trained(callbacks, env="discrete", policy=policy, **kwargs)
        assert {"notes/kl/exact", "notes/entropy/relative", "notes/units/rank"} <= set(model.logger.name_to_value)


def test_a_look_stands_for_2048_steps_unless_told_otherwise():
    for every, looks in ((None, 1), (2, 7), (1, 13)):
        callback = DiagnosticsCallback(every=every)
        trained(callback, NotesA2C, steps=130, n_steps=5)
        assert len(callback.history) == looks


def test_learning_on_goes_on_watching():
    callback = KLCallback(kl_max=1e-9, patience=1, stop=True, every=1)
    model = trained(callback, learning_rate=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        model.learn(64, callback=callback, reset_num_timesteps=False)
    assert model.num_timesteps == 64 + 2 + 64, "a new learn() has not been stopped yet"


def test_the_exact_kl_is_measured_after_the_update():
    """Against torch's own divergence between the policy before and the policy after."""
    env = make_vec_env(lambda: environments.make("discrete"), 1, seed=0)
    model = NotesPPO("MlpPolicy", env, n_steps=32, batch_size=8, n_epochs=2, learning_rate=1e-2, seed=0, device="cpu")
    before = {}

    class Keep(KLCallback):
        def _on_rollout_end(self):
            super()._on_rollout_end()
            observations = th.as_tensor(self.model.rollout_buffer.observations[:, 0])
            before["observations"] = observations
            before["distribution"] = self.model.policy.get_distribution(observations).distribution

    model.learn(32, callback=Keep(every=1))
    after = model.policy.get_distribution(before["observations"]).distribution
    expected = th.distributions.kl_divergence(before["distribution"], after).mean().item()
    assert model.logger.name_to_value["notes/kl/exact"] == pytest.approx(expected, rel=1e-4)
    assert expected > 0


def test_an_update_inside_the_band_starts_the_count_again():
    """Two, one inside, two: never three in a row."""
    callback = KLCallback(kl_max=0.5, patience=3, exact=False, every=1)
    callback.model = trained(None)
    for kl in (1.0, 1.0, 0.1, 1.0, 1.0):
        callback._watch(UpdateReport(*[0.0] * 8, 9, None, kl=(KLEstimates(kl, kl, kl),)))
    assert not callback.warned
    with pytest.warns(TrainingWarning, match="too far"):
        callback._watch(UpdateReport(*[0.0] * 8, 9, None, kl=(KLEstimates(1.0, 1.0, 1.0),)))
