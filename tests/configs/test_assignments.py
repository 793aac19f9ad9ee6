"""Hyperparameters as words of a command line."""

import pytest

from sb3_ppo_notes.configs.run_config import resolve_config


def resolve(*words, config=None, **options):
    return resolve_config(config, options, words)[0]


def hyperparameters(*words, **options):
    return resolve(*words, **options).hyperparameters


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("n_steps=64", 64),
        ("learning_rate=lin_3e-4", "lin_3e-4"),
        ("learning_rate=3e-4", 3e-4),
        ("ent_coef = 0.01", 0.01),
        ("compile=true", True),
        ("target_kl=None", None),
        ("target_kl=null", None),
        ("precision=bfloat16", "bfloat16"),
        ("policy_kwargs={net_arch: [64, 64], activation_fn: ReLU}", {"net_arch": [64, 64], "activation_fn": "ReLU"}),
        ("policy_kwargs=dict(net_arch=[64], activation_fn=nn.ReLU)", {"net_arch": [64], "activation_fn": "ReLU"}),
        ("policy_kwargs.activation_fn=nn.ReLU", {"activation_fn": "ReLU"}),
        ("policy_kwargs.net_arch=[64,64]", {"net_arch": [64, 64]}),
        ("policy_kwargs.net_arch.pi=[64]", {"net_arch": {"pi": [64]}}),
        ("policy_kwargs.optimizer_kwargs.eps=1e-5", {"optimizer_kwargs": {"eps": 1e-5}}),
        ("policy_kwargs.optimizer_kwargs={betas: [9e-1, 0.99]}", {"optimizer_kwargs": {"betas": [0.9, 0.99]}}),
        (
            "rule.value_objective={HuberValueError: {beta: 1.0}}",
            {"value_objective": {"HuberValueError": {"beta": 1.0}}},
        ),
    ],
)
def test_values_are_read_as_in_rl_zoo3s_files(word, value):
    name = word.partition("=")[0].partition(".")[0].strip()
    assert hyperparameters(word) == {name: value}


def test_what_is_beside_hyperparameters_is_set_too():
    run = resolve("policy=MlpLstmPolicy", "normalize.norm_reward=false", "frame_stack=4", "gamma=0.9")
    assert (run.policy, run.normalize, run.frame_stack) == ("MlpLstmPolicy", {"norm_reward": False}, 4)
    assert run.hyperparameters == {"gamma": 0.9}
    assert resolve("normalize=true").normalize is True


def test_a_configuration_is_the_ground_on_which_words_stand(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "env: CartPole-v1\nnormalize: {norm_obs: false}\n"
        "hyperparameters: {n_steps: 64, gamma: 0.9, policy_kwargs: {net_arch: [32], activation_fn: ReLU}}\n"
    )
    words = ("gamma=0.5", "policy_kwargs.net_arch=[8]", "normalize.clip_obs=5.0")
    run = resolve(*words, config=str(file))
    assert run.hyperparameters == {
        "n_steps": 64,
        "gamma": 0.5,
        "policy_kwargs": {"net_arch": [8], "activation_fn": "ReLU"},
    }
    assert run.normalize == {"norm_obs": False, "clip_obs": 5.0}
    assert hyperparameters("n_steps=8", config="cartpole")["n_epochs"] == 20  # the preset's


def test_a_recipe_has_words_on_top():
    run = resolve("n_steps=8", recipe="tsukurinagara")
    assert (run.algo, run.recipe, run.hyperparameters) == ("a2c", "tsukurinagara", {"n_steps": 8})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["n_step=64"], r"set must not hold the unknown name 'n_step' \(did you mean 'n_steps'\?\)"),
        (["xyz=64"], r"set must not hold the unknown name 'xyz' \(known are learning_rate, "),
        (["n_envs=64"], r"set must not hold 'n_envs', which is no hyperparameter: it is an option, or a key"),
        (["hyperparameters.gamma=1"], "set must not hold 'hyperparameters', which is no hyperparameter"),
        (["seed=1"], "set must not hold 'seed', which is no hyperparameter"),
        (["n_steps"], "set must be name=value or name.key=value, got 'n_steps'"),
        (["n_steps="], "set must be name=value or name.key=value, got 'n_steps='"),
        (["=3"], "set must be name=value or name.key=value, got '=3'"),
        (["policy_kwargs..a=3"], "set must be name=value or name.key=value"),
        (["n_steps=8", "n_steps=9"], "set must hold n_steps once, got 'n_steps=8' and 'n_steps=9'"),
        (["n_steps=["], r"set must have values as in YAML, got n_steps=\["),
        (["policy_kwargs=dict(a=open('x'))"], "policy_kwargs must be dict"),
        (
            ["normalize.norm_obss=true"],
            r"normalize must not hold the unknown key 'norm_obss' \(did you mean 'norm_obs'",
        ),
        (["policy=Mlp"], "policy must be one of 'MlpPolicy'"),
    ],
)
def test_words_that_cannot_be_are_refused(words, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        resolve(*words)


def test_names_are_those_of_the_algorithm():
    assert hyperparameters("use_rms_prop=false", algo="a2c") == {"use_rms_prop": False}
    with pytest.raises(ValueError, match="unknown name 'clip_range'"):
        resolve("clip_range=0.1", algo="a2c")
