"""Configurations: shipped, of a run, of rl_zoo3; what is read, what is refused, and that nothing in them is ever run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from gymnasium import spaces
from torch import nn, optim

from sb3_ppo_notes.configs.build import build_model, check_policy, suggest_policy
from sb3_ppo_notes.configs.run_config import SHIPPED, RunConfig, config_yaml, read_config, resolve_config
from sb3_ppo_notes.configs.tuned import zoo_entry
from sb3_ppo_notes.configs.values import with_classes
from sb3_ppo_notes.configs.zoo import parse_dict, zoo_config
from sb3_ppo_notes.rules import HuberValueError, KLPenalty

ZOO = """
default:
  n_timesteps: !!float 1e6
  policy: 'MlpPolicy'
atari:
  env_wrapper:
    - stable_baselines3.common.atari_wrappers.AtariWrapper
  frame_stack: 4
  policy: 'CnnPolicy'
  n_envs: 8
  n_timesteps: !!float 1e7
  learning_rate: lin_2.5e-4
Walker-v0: &walker
  normalize: "dict(norm_obs=True, norm_reward=False)"
  n_timesteps: !!float 2e6
  n_envs: 2
  n_steps: 8
  batch_size: 256
  learning_rate: 3e-5
  use_sde: True
  policy_kwargs: "dict(log_std_init=-2.7,
                       ortho_init=False,
                       activation_fn=nn.ReLU,
                       net_arch=dict(pi=[256, 256], vf=[256, 256])
                       )"
Hopper-v0:
  <<: *walker
  normalize: true
  env_wrapper: gymnasium.wrappers.FlattenObservation
  clip_range: lin_0.4
  policy_kwargs: "dict(optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(eps=1e-5))"
"""


@pytest.fixture
def zoo(tmp_path):
    path = tmp_path / "ppo.yml"
    path.write_text(ZOO)
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_name_their_source_and_survive_being_written(name, tmp_path):
    config, notes = resolve_config(name, {})
    assert (config.name, notes) == (name, [])
    assert config.source.startswith("rl_zoo3 2.9.2, hyperparams/ppo.yml, ")
    (tmp_path / "config.yaml").write_text(config_yaml(config))
    assert resolve_config(str(tmp_path / "config.yaml"), {}) == (config, [])


def test_shipped_configurations_are_those_that_are_promised():
    assert SHIPPED == ("atari-pong", "cartpole", "halfcheetah", "lunarlander", "pendulum", "reacher")
    cartpole = resolve_config("cartpole", {})[0]
    assert cartpole.hyperparameters["learning_rate"] == "lin_0.001"
    assert (cartpole.n_envs, cartpole.total_timesteps, cartpole.hyperparameters["n_epochs"]) == (8, 100_000, 20)


def test_a_configuration_is_plain_yaml():
    text = config_yaml(resolve_config("halfcheetah", {})[0])
    assert "!!" not in text
    assert yaml.safe_load(text)["hyperparameters"]["policy_kwargs"]["net_arch"] == {"pi": [256, 256], "vf": [256, 256]}


def test_options_take_precedence_and_defaults_come_last():
    config, _ = resolve_config("cartpole", dict(total_timesteps=7, seed=None, env="Acrobot-v1", video_every=3))
    assert (config.total_timesteps, config.seed, config.env, config.video_every) == (7, 0, "Acrobot-v1", 3)
    assert (config.n_envs, config.hyperparameters["gamma"]) == (8, 0.98)
    plain, _ = resolve_config(None, dict(algo="a2c"))
    assert (plain.name, plain.n_envs, plain.hyperparameters, plain.source) == (
        "a2c-CartPole-v1",
        8,
        {},
        "SB3's defaults",
    )
    recipe, _ = resolve_config(None, dict(recipe="tsukurinagara"))
    assert (recipe.algo, recipe.n_envs, recipe.name) == ("a2c", 16, "tsukurinagara-CartPole-v1")


def test_a_minibatch_larger_than_the_rollout_of_fewer_environments_is_the_rollout():
    config, notes = resolve_config("cartpole", dict(n_envs=2))
    assert config.hyperparameters["batch_size"] == 64
    assert notes == ["batch_size 256 is larger than a rollout: its 64 samples are one minibatch"]


def test_other_versions_are_told(tmp_path):
    config = dataclasses.replace(resolve_config("cartpole", {})[0], versions={"torch": "1.0"})
    (tmp_path / "old.yaml").write_text(config_yaml(config))
    _, notes = resolve_config(str(tmp_path / "old.yaml"), {})
    assert len(notes) == 1
    assert notes[0].startswith("config was written with torch 1.0, this is ")


# -- rl_zoo3's files -------------------------------------------------------------------------------------------


def test_rl_zoo3s_entry_is_read(zoo):
    config, notes = resolve_config(zoo, dict(env="Walker-v0"))
    assert (config.algo, config.env, config.n_envs, config.total_timesteps) == ("ppo", "Walker-v0", 2, 2_000_000)
    assert config.normalize == {"norm_obs": True, "norm_reward": False}
    assert config.source == "ppo.yml, entry Walker-v0"
    # rl_zoo3 leaves one short minibatch of 16 samples; 3e-5 is a word in YAML.
    assert notes == ["batch_size 256 is larger than a rollout: its 16 samples are one minibatch"]
    assert config.hyperparameters == {
        "n_steps": 8,
        "batch_size": 16,
        "learning_rate": 3e-5,
        "use_sde": True,
        "policy_kwargs": {
            "log_std_init": -2.7,
            "ortho_init": False,
            "activation_fn": "ReLU",
            "net_arch": {"pi": [256, 256], "vf": [256, 256]},
        },
    }


def test_rl_zoo3s_anchors_wrappers_and_optimisers(zoo):
    config, _ = resolve_config(zoo, dict(env="Hopper-v0"))
    assert (config.normalize, config.hyperparameters["clip_range"]) == (True, "lin_0.4")
    assert config.env_wrapper == ["gymnasium.wrappers.FlattenObservation"]
    kwargs = with_classes(config.hyperparameters["policy_kwargs"])
    assert kwargs["optimizer_class"].__name__ == "RMSpropTFLike"
    assert kwargs["optimizer_kwargs"] == {"eps": 1e-5}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["PendulumNoVel-v1", "MountainCarContinuousNoVel-v0"])
def test_rl_zoo3s_tuned_gsde_with_a_memory_is_trained(task, tmp_path):
    """Its own file and its own environments; shortened to one rollout of a few steps."""
    import rl_zoo3

    file = str(Path(rl_zoo3.__file__).parent / "hyperparams" / "ppo_lstm.yml")
    config, _ = resolve_config(file, dict(env=f"rl_zoo3.import_envs:{task}"))
    assert (config.name, config.policy, config.hyperparameters["use_sde"]) == (task, "MlpLstmPolicy", True)
    # The file of PendulumNoVel-v1 leaves it to RecurrentPPO, whose minibatches are larger than PPO's.
    assert config.hyperparameters["batch_size"] == {"PendulumNoVel-v1": 128}.get(task, 256)
    short = dict(config.hyperparameters, n_steps=16, batch_size=16, n_epochs=1)
    model = build_model(dataclasses.replace(config, hyperparameters=short))
    model.learn(16)
    assert model.num_timesteps == 16 * config.n_envs
    assert np.isfinite(model.last_report.policy_loss)


def test_rl_zoo3s_atari_and_default_entries_serve_other_environments(zoo):
    atari, _ = resolve_config(zoo, dict(env="ALE/Pong-v5"))
    assert (atari.frame_stack, atari.policy, atari.n_envs, atari.total_timesteps) == (4, "CnnPolicy", 8, 10**7)
    assert atari.env_wrapper == ["stable_baselines3.common.atari_wrappers.AtariWrapper"]
    assert atari.hyperparameters == {"learning_rate": "lin_2.5e-4"}
    default, _ = resolve_config(zoo, dict(env="CartPole-v1", algo="a2c"))
    assert (default.algo, default.n_envs, default.hyperparameters) == ("a2c", 1, {})


def test_the_only_entry_needs_no_name(tmp_path):
    (tmp_path / "one.yml").write_text("Pendulum-v1:\n  n_timesteps: 100\n  gamma: 0.9\n")
    config, _ = resolve_config(str(tmp_path / "one.yml"), {})
    assert (config.env, config.total_timesteps, config.hyperparameters) == ("Pendulum-v1", 100, {"gamma": 0.9})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dict()", {}),
        ("{'net_arch': [64, 64]}", {"net_arch": [64, 64]}),
        ("dict(a=-1.5, b=None, c=True, d='x', e=(1, 2))", {"a": -1.5, "b": None, "c": True, "d": "x", "e": [1, 2]}),
        ("dict(activation_fn=nn.Tanh)", {"activation_fn": "Tanh"}),
        ("dict(optimizer_class=th.optim.Adam)", {"optimizer_class": "Adam"}),
    ],
)
def test_pythons_dictionaries_are_read(text, value):
    assert parse_dict(text, "policy_kwargs") == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch sentinel')",
        "dict(a=__import__('os').system('touch sentinel'))",
        "dict(a=open('sentinel', 'w'))",
        "dict(activation_fn=nn.Module)",
        "dict(activation_fn=nn.Tanh())",
        "dict(activation_fn=os.Tanh)",
        "dict(a=[x for x in (1,)])",
        "dict(a=(lambda: 1)())",
        "dict(a=1 + 1)",
        "dict(a=f'{1}')",
        "dict(a=b'x')",
        "dict(**{'a': 1})",
        "dict([('a', 1)])",
        "{1: 2}",
        "{**{'a': 1}}",
        "[1]",
        "nn.Tanh",
        "dict(",
        "",
        "dict(a=" + "[" * 3000 + "]" * 3000 + ")",
        "import os",
    ],
)
def test_anything_but_literals_and_known_names_is_refused_and_not_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^policy_kwargs must be dict\(name=literal, activation_fn=nn.Tanh") as error:
        parse_dict(text, "policy_kwargs")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
    assert not Path("sentinel").exists()


def test_names_become_classes_and_unknown_ones_are_refused():
    assert with_classes(dict(activation_fn="ELU", optimizer_class="AdamW")) == dict(
        activation_fn=nn.ELU, optimizer_class=optim.AdamW
    )
    with pytest.raises(ValueError, match="activation_fn must be one of Tanh, ReLU, .*, got 'Module'"):
        with_classes(dict(activation_fn="Module"))
    with pytest.raises(TypeError, match="policy_kwargs must be names and values, got 3"):
        with_classes(3)


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "env: CartPole-v1\ntotal_timestep: 4",
            "must not hold the unknown key 'total_timestep' (did you mean 'total_tim",
        ),
        ("env: CartPole-v1\nn_steps: 4", "config config.yml must hold 'n_steps' under hyperparameters"),
        (
            "env: CartPole-v1\nhyperparameters: {n_step: 4}",
            "hyperparameters must not hold the unknown key 'n_step' (did",
        ),
        (
            "env: CartPole-v1\nhyperparameters: {rule: 4}",
            "rule must map slots to choices of sb3_ppo_notes.rules, got 4",
        ),
        ("env: CartPole-v1\nhyperparameters: {rule: {policy_objective: {Clip: {}}}}", "'Clip' is no choice"),
        ("env: CartPole-v1\nnormalize: {norm: 4}", "normalize must not hold the unknown key 'norm'"),
        ("env: CartPole-v1\nnormalize: 4", "normalize must be true, false or names and values, got 4"),
        ("env: CartPole-v1\nnormalize: {clip_obs: x}", "normalize.clip_obs must be > 0 and finite, got str 'x'"),
        ("env: CartPole-v1\nnormalize: {epsilon: 0}", "normalize.epsilon must be > 0 and finite, got 0"),
        ("env: CartPole-v1\nnormalize: {gamma: 7}", "normalize.gamma must be in [0, 1], got 7"),
        ("env: CartPole-v1\nnormalize: {norm_obs: 2}", "normalize.norm_obs must be True or False, got int 2"),
        ("env: CartPole-v1\nnormalize: {norm_obs_keys: a}", "normalize.norm_obs_keys must be a list of words, got 'a'"),
        ("env: CartPole-v1\nalgo: sac", "algo must be one of 'ppo', 'a2c', got 'sac'"),
        ("env: CartPole-v1\npolicy: Mlp", "policy must be one of 'MlpPolicy'"),
        ("env: CartPole-v1\nhyperparameters: 4", "hyperparameters must be names and values, got 4"),
        ("env: CartPole-v1\ntotal_timesteps: 0", "total_timesteps must be an int >= 1, got 0"),
        ("env: CartPole-v1\ntotal_timesteps: 1.5", "total_timesteps must be an int >= 1, got float 1.5"),
        ("env: CartPole-v1\nn_envs: 0", "n_envs must be an int >= 1 or nothing, got 0"),
        ("env: CartPole-v1\nseed: -1", "seed must be an int >= 0, got -1"),
        ("env: 4", "env must be a word, got 4"),
        ("recipe: skrl\nalgo: a2c", "algo must be one of 'ppo', got 'a2c'"),
        (
            "env: !!python/object/apply:os.system ['touch sentinel']",
            "must be plain YAML: could not determine a constructor",
        ),
        ("env: [", "must be plain YAML"),
        ("", "must hold names and values, got NoneType"),
        ("- 1", "must hold names and values, got list"),
        ("word: 1", "must not hold the unknown key 'word'"),
        ("A-v0: {callback: x.Y}", "must not hold 'callback' (entry 'A-v0')"),
        ("A-v0: {policy_kwargs: 'dict(a=open)'}", "policy_kwargs must be dict(name=literal"),
        ("A-v0: {normalize: 'exit()'}", "normalize must be dict(name=literal"),
        ("A-v0: {}\nB-v0: {}", "env must be given with config.yml, which holds A-v0, B-v0"),
    ],
)
def test_bad_files_are_refused_in_one_line(text, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yml").write_text(text)
    with pytest.raises((ValueError, TypeError)) as error:
        resolve_config("config.yml", {})
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("sentinel").exists()


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="must be plain YAML"):
        read_config(str(tmp_path / "binary.yaml"))


@pytest.mark.parametrize(
    ("config", "options", "line"),
    [
        ("cartpol", {}, "config must be one of atari-pong, cartpole, .* or a YAML file, got 'cartpol'"),
        ("cartpole", dict(recipe="skrl"), "recipe must be left out when config is given"),
        ("cartpole", dict(algo="a2c"), "algo must be 'ppo', as config cartpole says, or left out, got 'a2c'"),
        (None, dict(video_every=0), "video_every must be an int >= 1 or nothing, got 0"),
        (None, dict(eval_every=0), "eval_every must be an int >= 1 or nothing, got 0"),
        (None, dict(recipe="skrll"), "recipe must be one of 'skrl'"),
    ],
)
def test_contradictions_are_refused(config, options, line):
    with pytest.raises(ValueError, match=line):
        resolve_config(config, options)


def test_an_entry_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "two.yml").write_text("A-v0: {}\nB-v0: {}")
    with pytest.raises(ValueError, match=r"env must be one of A-v0, B-v0, which .*two.yml holds, got 'C-v0'"):
        resolve_config(str(tmp_path / "two.yml"), dict(env="C-v0"))


def test_every_key_of_a_configuration_is_documented():
    assert all(f":param {field.name}:" in RunConfig.__doc__ for field in dataclasses.fields(RunConfig))


# -- policies ---------------------------------------------------------------------------------------------------


PLAIN, IMAGE = spaces.Box(-1, 1, (4,)), spaces.Box(0, 255, (36, 36, 3), "uint8")


@pytest.mark.parametrize(
    ("policy", "space", "is_fitting"),
    [
        ("MlpPolicy", PLAIN, True),
        ("MlpLstmPolicy", IMAGE, True),
        ("MlpPolicy", spaces.Dict(a=PLAIN), False),
        ("CnnPolicy", IMAGE, True),
        ("CnnLstmPolicy", spaces.Box(0, 1, (3, 36, 36)), True),
        ("CnnPolicy", PLAIN, False),
        ("MultiInputPolicy", spaces.Dict(a=PLAIN), True),
        ("MultiInputLstmPolicy", PLAIN, False),
    ],
)
def test_a_policy_that_cannot_see_is_refused(policy, space, is_fitting):
    if is_fitting:
        check_policy(policy, space)
        return
    with pytest.raises(ValueError, match=f"policy must be one for observations of .*, got '{policy}'"):
        check_policy(policy, space)


def test_policies_are_suggested_by_observations():
    image = IMAGE
    assert suggest_policy(image) == "CnnPolicy"
    assert suggest_policy(spaces.Dict(a=image)) == "MultiInputPolicy"


def test_a_rule_in_a_file_is_the_models_rule(tmp_path):
    """As tuning's best.yml writes it; config.yaml of the run says it again."""
    words = {
        "policy_objective": {"KLPenalty": {"coefficient": 2.0}},
        "value_objective": {"HuberValueError": {"beta": 1.0}},
    }
    text = yaml.safe_dump({"CartPole-v1": {"n_envs": 2, "n_steps": 16, "batch_size": 16, "rule": words}})
    (tmp_path / "best.yml").write_text(text)
    run, _ = resolve_config(str(tmp_path / "best.yml"), {})
    model = build_model(run)
    assert model.rule.policy_objective == KLPenalty(coefficient=2.0)
    assert model.rule.value_objective == HuberValueError(1.0)


@pytest.mark.parametrize("env", ["PongNoFrameskip-v4", "PongNoFrameskip-v0", "ALE/Pong-v5", "ale_py:ALE/Pong-v5"])
def test_train_and_compare_call_the_same_environments_atari(env):
    document = {"atari": {"n_timesteps": 7}, "default": {"n_timesteps": 8}}
    assert zoo_config(document, "ppo.yml", env, None)["total_timesteps"] == 7
    assert zoo_entry("ppo", env)[0] == "atari"
