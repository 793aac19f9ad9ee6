"""A search starts from what is known, and says what it could not start from."""

import importlib.util
import json

import pytest

from sb3_ppo_notes import NotesPPO
from tuning.space import Space
from tuning.space.setup import baseline_setup, constructor_arguments, environment_of, make_setup
from tuning.space.warm_starts import as_configuration, base_of, parse_entry, warm_starts, zoo_entry
from tuning.worker.settings import baselines

needs_zoo = pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="rl_zoo3's YAML is not installed")
SPACE = Space.default("notes_ppo")


def test_sb3s_defaults_are_a_point_of_both_spaces_and_come_back_exactly():
    for algo in ("notes_ppo", "notes_a2c"):
        start = warm_starts("Nowhere-v0", Space.default(algo))[0]
        assert (start.name, start.problem) == ("SB3 defaults", "")
        arguments = constructor_arguments(start.configuration, 1, {}, algo)
        defaults = as_configuration(arguments | {"policy_kwargs": {}}, Space.default(algo), "x")
        assert defaults == start.configuration
    model = NotesPPO(env="CartPole-v1", **constructor_arguments(warm_starts("X-v0", SPACE)[0].configuration, 1))
    stock = NotesPPO("MlpPolicy", "CartPole-v1")
    names = "learning_rate n_steps batch_size n_epochs gamma gae_lambda ent_coef vf_coef max_grad_norm target_kl"
    for name in names.split():
        assert getattr(model, name) == getattr(stock, name), name
    assert str(model.policy) == str(stock.policy)


def number(value):
    """lin_7e-4 and lin_0.0007 are the same schedule."""
    is_linear = isinstance(value, str) and value.startswith("lin_")
    return ("lin", float(value.removeprefix("lin_"))) if is_linear else value


@needs_zoo
@pytest.mark.parametrize(
    ("algo", "env_id"),
    [
        ("notes_ppo", "CartPole-v1"),
        ("notes_ppo", "Pendulum-v1"),
        ("notes_a2c", "Pendulum-v1"),
        ("notes_ppo", "LunarLander-v3"),
    ],
)
def test_rl_zoo3s_values_are_a_point_that_trains_what_rl_zoo3_trains(algo, env_id):
    entry = zoo_entry(env_id, algo)
    start = {start.name: start for start in warm_starts(env_id, Space.default(algo))}["rl_zoo3"]
    assert start.problem == ""
    tuned = constructor_arguments(start.configuration, entry["n_envs"], base_of(entry), algo)
    whole = baseline_setup("rl_zoo3", algo, entry).arguments
    for name, value in whole.items():
        if name != "policy_kwargs":
            assert number(tuned[name]) == number(value), name
    assert {key: tuned["policy_kwargs"][key] for key in whole["policy_kwargs"]} == whole["policy_kwargs"]


@needs_zoo
def test_what_cannot_be_written_as_a_point_is_told_and_not_bent():
    start = {start.name: start for start in warm_starts("BipedalWalker-v3", SPACE)}["rl_zoo3"]
    assert start.configuration is None
    assert start.problem.startswith("rl_zoo3 'clip_range'=0.18 outside one of")


@needs_zoo
def test_flaw_12_entries_are_read_and_never_evaluated():
    entry = zoo_entry("MountainCarContinuous-v0", "notes_ppo")
    assert entry["policy_kwargs"] == {"log_std_init": -3.29, "ortho_init": False}
    assert json.loads(json.dumps(entry)) == entry
    assert "n_timesteps" not in base_of(entry)


@pytest.mark.parametrize(
    "words",
    [
        "__import__('os').system('touch x')",
        "dict(a=open('x'))",
        "dict(**{})",
        "dict(a=[i for i in (1,)])",
        "1 +",
        "dict([(1, 2)])",
    ],
)
def test_flaw_12_words_that_would_run_are_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^policy_kwargs must be dict"):
        parse_entry({"policy_kwargs": words})
    assert not list(tmp_path.iterdir())


def test_words_of_rl_zoo3s_are_understood():
    words = "dict(log_std_init=-1.5, net_arch=dict(pi=[8, 8], vf=(9,)), activation_fn=nn.ReLU, x={'a': None}, optimizer_class=RMSpropTFLike)"
    assert parse_entry({"policy_kwargs": words})["policy_kwargs"] == {
        "log_std_init": -1.5,
        "net_arch": {"pi": [8, 8], "vf": [9]},
        "activation_fn": "ReLU",
        "x": {"a": None},
        "optimizer_class": "RMSpropTFLike",
    }
    assert parse_entry({"normalize": "dict(norm_obs=False)"}) == {"normalize": {"norm_obs": False}}


def test_a_number_that_yaml_reads_as_a_word_is_no_schedule(tmp_path):
    """1e-3 has no dot, so that YAML 1.1 makes a string of it, as it does of lin_1e-3."""
    start = warm_starts("CartPole-v1", SPACE, [written(tmp_path, "learning_rate: 1e-3\nent_coef: 1e-2")])[-1]
    assert (start.configuration["learning_rate"], start.configuration["lr_schedule"]) == (1e-3, "constant")
    assert start.configuration["ent_coef"] == 0.01


def test_what_a_run_of_ours_cannot_serve_is_refused_in_a_base():
    with pytest.raises(ValueError, match="^base must not hold 'vec_env_wrapper', got 'a.b'"):
        base_of({"vec_env_wrapper": "a.b"})


def test_an_entrys_wrappers_and_arguments_are_those_of_its_environments():
    entry = parse_entry({"env_wrapper": "a.b", "env_kwargs": "dict(goal=[1, 2])", "n_envs": 2})
    environment = {"env_wrapper": ["a.b"], "env_kwargs": {"goal": [1, 2]}}
    assert environment_of(base_of(entry)) == environment
    assert make_setup("one", "notes_ppo", {}, base_of(entry)).environment == environment
    assert {str(setup.environment) for setup in baselines("CartPole-v1", "notes_ppo", environment)} == {
        str(environment)
    }


def test_without_an_entry_there_is_none():
    assert zoo_entry("Nowhere-v0", "notes_ppo") == {}
    assert [start.name for start in warm_starts("Nowhere-v0", SPACE)] == ["SB3 defaults"]


def written(tmp_path, content):
    path = tmp_path / "mine.yml"
    path.write_text(content)
    return path


@pytest.mark.parametrize("indented", [False, True])
def test_a_users_file_may_have_the_environments_id_or_not(tmp_path, indented):
    lines = [
        "gamma: 0.98",
        "n_steps: 32",
        "learning_rate: lin_1.0e-3",
        "ent_coef: 0",
        "policy_kwargs: dict(net_arch=[64])",
    ]
    content = "CartPole-v1:\n  " + "\n  ".join(lines) if indented else "\n".join(lines)
    start = warm_starts("CartPole-v1", SPACE, [written(tmp_path, content)], {"max_grad_norm": 1.0})[-1]
    assert start.name == "mine.yml"
    mine = {
        key: start.configuration[key]
        for key in ("one_minus_gamma", "n_steps_pow", "learning_rate", "lr_schedule", "net_arch")
    }
    assert mine == dict(one_minus_gamma=0.02, n_steps_pow=5, learning_rate=1e-3, lr_schedule="linear", net_arch="tiny")
    assert start.configuration["max_grad_norm"] == 1.0
    assert constructor_arguments(start.configuration, 8)["ent_coef"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gamma: 1.2", r"^warm start 'gamma'=1.2 outside \[0.9, 0.9999\] \(in mine.yml\)"),
        ("gamma: .nan", r"^warm start 'gamma'=nan outside"),
        ("gamma: high", r"^warm start 'gamma'='high' outside"),
        ("n_steps: 100", r"^warm start 'n_steps'=100 outside the powers of 2 in \[8, 4096\]"),
        ("learning_rate: lin_x", r"^warm start 'learning_rate'='lin_x' outside"),
        ("learning_rate: 1.0", r"^warm start 'learning_rate'=1.0 outside \[1e-05, 0.005\]"),
        ("n_epochs: 7", r"^warm start 'n_epochs'=7 outside one of"),
        ("policy_kwargs: dict(net_arch=[7])", r"^warm start 'net_arch'=\[7\] outside"),
        (
            "policy_kwargs: dict(activation_fn=nn.Softsign)",
            r"^policy_kwargs must be dict\(.*names of activations.*Softsign",
        ),
        ("bogus: 1", "^warm start 'bogus' is neither a parameter of the space nor an argument of notes_ppo"),
        ("Pendulum-v1: {gamma: 0.9}", "^warm start must map names to values"),
        ("- 1", "^warm start must map names to values"),
        ("a: [", "^warm start must be a readable YAML file"),
    ],
)
def test_a_users_file_outside_the_space_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        warm_starts("CartPole-v1", SPACE, [written(tmp_path, content)])


def test_a_varied_rule_starts_from_stock():
    space = SPACE.vary(["rule.value_objective"])
    assert warm_starts("X-v0", space)[0].configuration["rule.value_objective"] == "stock"
