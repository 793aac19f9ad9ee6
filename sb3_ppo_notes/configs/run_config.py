"""The configuration of one training run: where it comes from, what it may hold, how it is written down."""

import dataclasses
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.configs.assignments import assign
from sb3_ppo_notes.configs.environments import import_packages
from sb3_ppo_notes.configs.rules import rule_from_data
from sb3_ppo_notes.configs.values import with_numbers
from sb3_ppo_notes.configs.zoo import parse_dict, zoo_config
from sb3_ppo_notes.envs.make import did_you_mean
from sb3_ppo_notes.files import versions
from sb3_ppo_notes.formulas.checks import (
    InvalidTypeError,
    InvalidValueError,
    check_choice,
    check_flag,
    check_fraction,
    check_integer,
    check_positive,
)
from sb3_ppo_notes.recipes import RECIPES

ALGORITHMS: dict[str, Any] = {"ppo": NotesPPO, "a2c": NotesA2C}
PRESETS = files("sb3_ppo_notes") / "configs" / "presets"
SHIPPED = tuple(sorted(path.name.removesuffix(".yaml") for path in PRESETS.iterdir()))
#: Experiment trackers that a run can be followed in, by the names of their packages.
TRACKERS = ("wandb", "mlflow", "trackio", "aim")
#: Arguments of a constructor that a configuration says elsewhere, or cannot say in YAML.
NOT_IN_YAML = (
    *("self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"),
    *("rollout_buffer_class", "rollout_buffer_kwargs", "processes", "shards"),
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that is needed to repeat a run: plain data, the same in memory and in ``config.yaml``.

    :param name: last part of the name of the run's folder.
    :param source: where the values come from.
    :param algo: a key of ``ALGORITHMS``.
    :param env: id of a registered environment.
    :param imports: packages to import first, which register environments.
    :param recipe: a key of ``RECIPES``, whose values ``hyperparameters`` come on top of; ``None`` for stock SB3's.
    :param policy: name of a policy; ``None`` for the one that the observations suggest, or the recipe's.
    :param n_envs: environments stepped side by side; ``None`` for the recipe's, or 8.
    :param total_timesteps: environment steps, of all environments together.
    :param seed: of all random generators.
    :param device: ``"cpu"``, ``"cuda"``, …
    :param normalize: whether ``VecNormalize`` is put around the environments, or its arguments.
    :param frame_stack: frames that make one observation, ``None`` for the environment's own observations.
    :param env_wrapper: import paths of ``gymnasium.Wrapper`` classes, the innermost first; with arguments as
        ``{path: {name: value}}``.
    :param env_kwargs: arguments of the environment.
    :param hyperparameters: arguments of the algorithm, by SB3's names; classes by their names.
    :param eval_every: environment steps between two evaluations, ``None`` for one at the end only.
    :param n_eval_episodes: of each evaluation.
    :param video_every: environment steps between two videos, ``None`` for no videos.
    :param checkpoint_every: environment steps between two checkpoints, 0 for one at the end only.
    :param track: one of ``TRACKERS`` that the log goes to besides, ``None`` for none.
    :param shards: parts that a training on several processes is cut into, each with its share of the environments;
        ``None`` for a run of one process.
    :param versions: of what it was run with; information, nothing depends on it.
    """

    name: str
    source: str = "SB3's defaults"
    algo: str = "ppo"
    env: str = "CartPole-v1"
    imports: list[str] = field(default_factory=list)
    recipe: str | None = None
    policy: str | None = None
    n_envs: int | None = None
    total_timesteps: int = 100_000
    seed: int = 0
    device: str = "cpu"
    normalize: bool | dict[str, Any] = False
    frame_stack: int | None = None
    env_wrapper: list[Any] = field(default_factory=list)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    eval_every: int | None = None
    n_eval_episodes: int = 20
    video_every: int | None = None
    checkpoint_every: int = 20_000
    track: str | None = None
    shards: int | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("name", "source", "env", "device"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key):
                raise InvalidTypeError(f"{key} must be a word, got {getattr(self, key)!r}")
        check_choice("algo", self.algo, tuple(ALGORITHMS))
        if self.recipe is not None:
            check_choice("recipe", self.recipe, tuple(RECIPES))
            check_choice("algo", self.algo, (RECIPES[self.recipe].algorithm,))
        policies = ALGORITHMS[self.algo].policy_aliases
        check_choice("policy", self.policy, (*policies, None))
        check_choice("track", self.track, (*TRACKERS, None))
        for key in ("total_timesteps", "n_eval_episodes"):
            check_integer(key, getattr(self, key), minimum=1)
        for key in ("seed", "checkpoint_every"):
            check_integer(key, getattr(self, key), minimum=0)
        for key in ("n_envs", "frame_stack", "eval_every", "video_every", "shards"):
            if getattr(self, key) is not None:
                check_integer(key, getattr(self, key), minimum=1, because=" or nothing")
        for key in ("env_kwargs", "hyperparameters", "versions"):
            if not isinstance(getattr(self, key), dict):
                raise InvalidTypeError(f"{key} must be names and values, got {getattr(self, key)!r}")
        check_known("hyperparameters", self.hyperparameters, hyperparameter_names(ALGORITHMS[self.algo]))
        if "rule" in self.hyperparameters:
            rule_from_data(self.hyperparameters["rule"])
        if not isinstance(self.normalize, bool):
            check_normalize(self.normalize)


def hyperparameter_names(algorithm: Any) -> list[str]:
    """Arguments of a constructor that a configuration holds as hyperparameters.

    :param algorithm: NotesPPO or NotesA2C.
    :return: their names.
    """
    return [name for name in inspect.signature(algorithm.__init__).parameters if name not in NOT_IN_YAML]


def check_normalize(arguments: Any) -> None:
    """Refuse what ``VecNormalize`` would take and stumble over later.

    :param arguments: names and values.
    :raises TypeError: for anything else.
    :raises ValueError: naming the argument.
    """
    if not isinstance(arguments, dict):
        raise InvalidTypeError(f"normalize must be true, false or names and values, got {arguments!r}")
    check_known("normalize", arguments, list(inspect.signature(VecNormalize.__init__).parameters)[2:])
    for key, value in arguments.items():
        name = f"normalize.{key}"
        if key in ("clip_obs", "clip_reward", "epsilon"):
            check_positive(name, value)
        elif key == "gamma":
            check_fraction(name, value)
        elif key == "norm_obs_keys":
            if not (value is None or (isinstance(value, list) and all(isinstance(part, str) for part in value))):
                raise InvalidTypeError(f"{name} must be a list of words, got {value!r}")
        else:
            check_flag(name, value)


KEYS = tuple(key.name for key in dataclasses.fields(RunConfig))


def resolve_config(
    config: str | None, options: dict[str, Any], assignments: Iterable[str] = ()
) -> tuple[RunConfig, list[str]]:
    """The configuration of a run, from a file and the command line.

    :param config: a shipped name, a YAML file, or ``None``.
    :param options: of the command line, which take precedence; ``None`` where nothing was said.
    :param assignments: ``name=value`` for hyperparameters, which take precedence, too.
    :return: the configuration, its packages imported, and what the user should be told about how it came about.
    :raises ValueError: if it cannot be.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if config is not None and "recipe" in options:
        raise InvalidValueError(
            f"recipe must be left out when config is given, got {options['recipe']!r} and {config!r}"
        )
    in_file = {} if config is None else read_config(config, options.get("env"), options.get("algo"))
    if "algo" in options and in_file.get("algo", options["algo"]) != options["algo"]:
        raise InvalidValueError(
            f"algo must be {in_file['algo']!r}, as config {config} says, or left out, got {options['algo']!r}"
        )
    values = in_file | options
    if values.get("recipe") in RECIPES:
        values.setdefault("algo", RECIPES[values["recipe"]].algorithm)
        values.setdefault("source", f"recipe {values['recipe']}")
    algorithm = ALGORITHMS.get(values.get("algo", "ppo"))
    if assignments and algorithm is not None:
        values = assign(values, assignments, hyperparameter_names(algorithm), KEYS)
    values.setdefault("name", f"{values.get('recipe') or values.get('algo', 'ppo')}-{values.get('env', RunConfig.env)}")
    for key in ("total_timesteps", "n_envs", "eval_every", "video_every", "checkpoint_every"):
        if isinstance(values.get(key), float) and values[key].is_integer():
            values[key] = int(values[key])  # 1e6 is a float in YAML
    run = RunConfig(**values)
    if run.n_envs is None:
        run = dataclasses.replace(run, n_envs=8 if run.recipe is None else RECIPES[run.recipe].n_envs)
    import_packages(run.imports)
    run, notes = _fit_batch_size(run)
    notes += [
        f"config was written with {name} {in_file['versions'][name]}, this is {present}: the numbers may be others"
        for name, present in versions().items()
        if in_file.get("versions", {}).get(name, present) != present
    ]
    return dataclasses.replace(run, versions=versions()), notes


def _fit_batch_size(run: RunConfig) -> tuple[RunConfig, list[str]]:
    """A larger minibatch than the rollout, of fewer environments than it was tuned for, is the whole rollout."""
    sizes = run.hyperparameters
    if not all(isinstance(sizes.get(key), int) for key in ("batch_size", "n_steps")):
        return run, []
    size = sizes["n_steps"] * (run.n_envs or 1)
    if sizes["batch_size"] <= size:
        return run, []
    note = f"batch_size {sizes['batch_size']} is larger than a rollout: its {size} samples are one minibatch"
    return dataclasses.replace(run, hyperparameters=sizes | {"batch_size": size}), [note]


def read_config(config: str, env: str | None = None, algo: str | None = None) -> dict[str, Any]:
    """The values that a configuration file gives.

    :param config: a shipped name or a YAML file, ours or rl_zoo3's.
    :param env: whose entry of rl_zoo3's file.
    :param algo: which algorithm rl_zoo3's file is for.
    :return: values by the names of :class:`RunConfig`; what is not said is left out.
    :raises ValueError: naming the file, and the key where there is one.
    """
    path = PRESETS / f"{config}.yaml" if config in SHIPPED else Path(config)
    if not path.is_file():
        raise InvalidValueError(f"config must be one of {', '.join(SHIPPED)} or a YAML file, got {config!r}")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"config {config} must be plain YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or not document:
        raise InvalidValueError(f"config {config} must hold names and values, got {type(document).__name__}")
    if not set(document) & set(KEYS) and all(isinstance(value, dict) for value in document.values()):
        values = zoo_config(document, Path(config).name, env, algo)
    else:
        for key in set(document) - set(KEYS):
            if key in inspect.signature(NotesPPO.__init__).parameters:
                raise InvalidValueError(f"config {config} must hold {key!r} under hyperparameters, not beside them")
        check_known(f"config {config}", document, KEYS)
        values = {key: value for key, value in document.items() if value is not None}
        name = {"name": config if config in SHIPPED else Path(config).stem}
        values = name | {"source": f"file {Path(config).name}"} | values
    return _plain(values)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Python in strings as what it stands for, ``1e-4`` (a word in YAML, without a dot) as a number."""
    values = dict(values)
    if isinstance(values.get("normalize"), str):
        values["normalize"] = parse_dict(values["normalize"], "normalize")
    if isinstance(values.get("env_kwargs"), str):
        values["env_kwargs"] = parse_dict(values["env_kwargs"], "env_kwargs")
    for name in ("env_wrapper", "imports"):
        if isinstance(values.get(name), str | dict):
            values[name] = [values[name]]
    if isinstance(values.get("hyperparameters"), dict):
        hyperparameters = dict(values["hyperparameters"])
        if isinstance(hyperparameters.get("policy_kwargs"), str):
            hyperparameters["policy_kwargs"] = parse_dict(hyperparameters["policy_kwargs"], "policy_kwargs")
        values["hyperparameters"] = with_numbers(hyperparameters)
    return values


def config_yaml(config: RunConfig) -> str:
    """A configuration as the YAML that :func:`read_config` reads.

    :param config: the configuration.
    :return: the text of ``config.yaml``.
    """
    values = dataclasses.asdict(config)
    if config.shards is None:
        del values["shards"]  # an older release reads it, too
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def check_known(name: str, values: Any, known: Iterable[str]) -> None:
    """Refuse unknown keys, with a suggestion.

    :param name: what holds them, first word of the message.
    :param values: names and values.
    :param known: the names that there are.
    :raises ValueError: naming the first unknown one.
    """
    for key in values:
        if key not in known:
            hint = did_you_mean(str(key), known) or f" (known are {', '.join(known)})"
            raise InvalidValueError(f"{name} must not hold the unknown key {key!r}{hint}")
