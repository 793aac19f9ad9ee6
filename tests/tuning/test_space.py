"""The search space: what is sampled can be built, what is outside is refused, and rl_zoo3 understands its names."""

import json
import math

import numpy as np
import optuna
import pytest

from tuning.space import Dimension, Space
from tuning.space.rules import rule_choices

ALGORITHMS = ("notes_ppo", "notes_a2c")


def asked(space, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    return space.sample(trial), trial


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_what_is_sampled_lies_in_the_space_and_is_json(algo):
    space = Space.default(algo).vary([f"rule.{slot}" for slot in rule_choices(algo)])
    for seed in range(20):
        configuration, trial = asked(space, seed)
        space.validate(configuration)
        assert configuration == trial.params
        assert json.loads(json.dumps(configuration)) == configuration
        drawn = space.random(np.random.default_rng(seed))
        space.validate(drawn)
        assert json.loads(json.dumps(drawn)) == drawn


def test_random_points_cover_the_whole_range_on_the_logarithm():
    rng = np.random.default_rng(0)
    rates = [Space.default("notes_ppo").random(rng)["learning_rate"] for _ in range(2000)]
    assert math.log10(np.median(rates)) == pytest.approx((math.log10(1e-5) + math.log10(5e-3)) / 2, abs=0.1)
    powers = [Space.default("notes_ppo").random(rng)["n_steps_pow"] for _ in range(500)]
    assert set(powers) == set(range(3, 13))


def test_what_is_fixed_is_not_asked():
    space = Space(
        "notes_ppo", (Dimension("n_epochs", "choice", choices=(10,)), Dimension("vf_coef", "float", 0.1, 1.0))
    )
    configuration, trial = asked(space)
    assert set(trial.params) == {"vf_coef"}
    assert configuration["n_epochs"] == 10
    space.validate(configuration)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(n_epochs=7), r"^warm start 'n_epochs'=7 outside one of 1, 4, 5, 10, 20$"),
        (dict(learning_rate=1.0), r"^warm start 'learning_rate'=1.0 outside \[1e-05, 0.005\]$"),
        (dict(learning_rate=math.nan), r"^warm start 'learning_rate'=nan outside"),
        (dict(learning_rate="3e-4"), r"^warm start 'learning_rate'='3e-4' outside"),
        (dict(n_steps_pow=7.5), r"^warm start 'n_steps_pow'=7.5 outside \[3, 12\]$"),
        (dict(n_epochs=True), r"^warm start 'n_epochs'=True outside"),
        (dict(bogus=1), r"^warm start 'bogus' is no parameter of the space"),
    ],
)
def test_what_is_outside_is_refused_with_name_value_and_range(changes, message):
    space = Space.default("notes_ppo")
    configuration = space.random(np.random.default_rng(0)) | changes
    with pytest.raises(ValueError, match=message):
        space.validate(configuration, "warm start")


def test_what_is_missing_is_named():
    configuration = Space.default("notes_ppo").random(np.random.default_rng(0))
    del configuration["net_arch"]
    with pytest.raises(ValueError, match="^configuration must give 'net_arch'"):
        Space.default("notes_ppo").validate(configuration)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_fingerprint_is_json_and_comes_back(algo):
    space = Space.default(algo).vary([f"rule.{slot}" for slot in rule_choices(algo)])
    assert Space.from_fingerprint(json.loads(json.dumps(space.fingerprint())), algo) == space


def test_a_changed_choice_changes_the_fingerprint_under_its_key():
    space = Space.default("notes_ppo")
    fixed = [
        one if one.name != "net_arch" else Dimension("net_arch", "choice", choices=("tiny",))
        for one in space.dimensions
    ]
    one, other = space.fingerprint(), Space("notes_ppo", tuple(fixed)).fingerprint()
    assert [key for key in one if one[key] != other[key]] == ["net_arch"]


def test_rollouts_fit_twice_into_a_trial():
    space = {one.name: one for one in Space.default("notes_ppo").fit(8, 20_000).dimensions}
    assert 2 ** space["n_steps_pow"].high * 8 * 2 <= 20_000 < 2 ** (space["n_steps_pow"].high + 1) * 8 * 2
    steps = {one.name: one for one in Space.default("notes_a2c").fit(8, 2000).dimensions}["n_steps"]
    assert steps.choices == (5, 8, 16, 32, 64)
    assert Space.default("notes_ppo").fit(8, 10**7) == Space.default("notes_ppo")
    for algo in ALGORITHMS:
        with pytest.raises(ValueError, match="^total_timesteps must leave room for two rollouts"):
            Space.default(algo).fit(8, 60)


def test_varying_adds_choices_of_the_rule_once():
    space = Space.default("notes_ppo").vary(["rule.policy_objective", "rule.value_objective", "rule.policy_objective"])
    new = {one.name: one.choices for one in space.dimensions[len(Space.default("notes_ppo").dimensions) :]}
    assert new == {
        "rule.policy_objective": ("stock", "kl_penalty_paper", "batch_ppo"),
        "rule.value_objective": ("stock", "clipped", "pessimistic", "huber"),
    }
    assert space.vary(["rule.policy_objective"]) == space
    with pytest.raises(ValueError, match=r"^vary must be among .*rule.kl_controls.*, got 'rule.bogus'"):
        space.vary(["rule.bogus"])


def test_an_unknown_algorithm_or_a_parameter_given_twice_is_refused():
    with pytest.raises(ValueError, match="^algo must be one of notes_ppo, notes_a2c, got 'sac'"):
        Space.default("sac")
    dimension = Dimension("vf_coef", "float", 0.1, 1.0)
    with pytest.raises(ValueError, match="^space must hold each parameter once, got 'vf_coef' twice"):
        Space("notes_ppo", (dimension, dimension))


def test_a_file_narrows_the_default_space(tmp_path):
    path = tmp_path / "space.yml"
    path.write_text(
        "learning_rate: {low: 1e-4, high: 1.0e-3}\nn_epochs: [5, 10]\nnet_arch: small\nrule.value_objective: [stock, huber]\n"
        "n_steps_pow: {low: 4, high: 6}\n"
    )
    space = {one.name: one for one in Space.from_yaml(path, "notes_ppo").dimensions}
    assert space["learning_rate"] == Dimension("learning_rate", "float", 1e-4, 1e-3, log=True)
    assert space["n_epochs"].choices == (5, 10)
    assert space["net_arch"].is_fixed
    assert space["rule.value_objective"].choices == ("stock", "huber")
    assert space["n_steps_pow"] == Dimension("n_steps_pow", "int", 4, 6)
    assert space["vf_coef"] == Dimension("vf_coef", "float", 0.1, 1.0)


def test_a_file_replaces_the_default_space(tmp_path):
    path = tmp_path / "space.yml"
    path.write_text("replace: true\nvf_coef: {low: 0.2, high: 0.4}\n")
    assert [one.name for one in Space.from_yaml(path, "notes_a2c").dimensions] == ["vf_coef"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bogus: [1]", "^space must name parameters of notes_ppo, got 'bogus'"),
        ("learning_rate: {low: 0.1, high: 0.01}", "learning_rate must have low > 0 <= high"),
        ("learning_rate: {low: -0.1, high: 0.01}", "learning_rate must have low > 0"),
        ("learning_rate: {lo: 0.1}", "learning_rate must be a list, one value, or a mapping .* unknown key 'lo'"),
        ("learning_rate: {low: x, high: 1}", "learning_rate must have a low and a high float, got 'x'"),
        ("n_steps_pow: {low: 2.5, high: 4}", "n_steps_pow must have a low and a high int, got 2.5"),
        ("clip_range: [0.2, -0.1]", "clip_range must be in .*, got -0.1"),
        ("clip_range: [lin_x]", "clip_range must be in .*, got 'lin_x'"),
        ("clip_range: {low: 0.1, high: 0.2, kind: word}", "clip_range must have kind int or float, got 'word'"),
        ("net_arch: [huge]", "net_arch must be in one of tiny, small, medium, got 'huge'"),
        ("net_arch: {low: 1, high: 2}", "net_arch must be a list or one value, got a range"),
        ("n_epochs: [0]", "n_epochs must be in .*, got 0"),
        ("n_epochs: []", "n_epochs must have at least 1 choice"),
        ("n_epochs: [1, 1]", "n_epochs must list each choice once"),
        ("rule.value_objective: [bogus]", "rule.value_objective must be in one of stock, .*, got 'bogus'"),
        ("use_sde: {low: 1}", "use_sde must be a list, one value, or a mapping .*'high' is missing"),
        ("- 1", "^space must map names to ranges"),
        ("a: [", "^space must be a readable YAML file"),
        ("a: !!python/object/apply:os.system [ls]", "^space must be a readable YAML file"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path, content, message):
    path = tmp_path / "space.yml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Space.from_yaml(path, "notes_ppo")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^space must be a readable YAML file, got"):
        Space.from_yaml(tmp_path / "none.yml", "notes_ppo")
