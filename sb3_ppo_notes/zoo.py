"""rl_zoo3's own commands for our algorithms: ``python -m sb3_ppo_notes.zoo train | enjoy | record_video | optimize``.

Whatever of rl_zoo3 is used that it does not document for others stands in this file, by name, and is looked for first.
"""

import importlib
import importlib.metadata
import importlib.util
import runpy
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import MaskableEvalCallback
from sb3_ppo_notes.callbacks.evaluation import predictor
from sb3_ppo_notes.callbacks.video import render_headless
from sb3_ppo_notes.configs.values import constructor_arguments
from sb3_ppo_notes.envs.errors import environment_error
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.policies.masks import METHOD

USAGE = """usage: python -m sb3_ppo_notes.zoo {train,optimize,enjoy,record_video} ...

rl_zoo3's commands, which know notes_ppo and notes_a2c here. --help behind one of them shows its options.

  train         train an agent (--algo notes_ppo if not given, with rl_zoo3's values for PPO)
  optimize      train -optimize: search hyperparameters
  enjoy         play a trained agent (of the folder logs if not given)
  record_video  film one
"""
#: Our algorithms by rl_zoo3's kind of name, and the stock ones whose hyperparameters and samplers they take.
ALGORITHMS: dict[str, tuple[type[OnPolicyAlgorithm], str]] = {
    "notes_ppo": (NotesPPO, "ppo"),
    "notes_a2c": (NotesA2C, "a2c"),
}
#: rl_zoo3's module of each command, and a package that it needs and does not ask for.
COMMANDS = {
    "train": ("rl_zoo3.train", None),
    "optimize": ("rl_zoo3.train", "pandas"),
    "enjoy": ("rl_zoo3.enjoy", "requests"),
    "record_video": ("rl_zoo3.record_video", "moviepy"),
}
#: What is read, called or replaced in rl_zoo3, and may be gone in another version.
NAMES = {
    "rl_zoo3": ("ALGOS", "create_test_env"),
    "rl_zoo3.utils": ("create_test_env",),
    "rl_zoo3.exp_manager": ("EvalCallback", "TrialEvalCallback"),
    "rl_zoo3.hyperparams_opt": ("HYPERPARAMS_SAMPLER", "HYPERPARAMS_CONVERTER"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of rl_zoo3's commands; exit code 0 done, 2 bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    try:
        _run(words[0], words[1:])
    except Exception as error:  # an environment's may be of any kind
        line = environment_error(error)
        if line is None and not _is_refusal(error):
            raise
        print(f"error: {line or error}", file=sys.stderr)
        return 2
    return 0


def _is_refusal(error: Exception) -> bool:
    """Raised by rl_zoo3 or us about what the user gave, and not somewhere in a library or an environment."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if not isinstance(error, ValueError | TypeError | AssertionError | OSError):
        return False
    name = str(frame.f_globals.get("__name__"))  # of this file, run by python -m, it is __main__
    return frame.f_globals is globals() or name.partition(".")[0] in ("rl_zoo3", "sb3_ppo_notes")


def _run(command: str, words: list[str]) -> None:
    if command not in COMMANDS:
        raise InvalidValueError(f"command must be one of {', '.join(COMMANDS)}, got {command!r}")
    if command == "optimize":
        words = ["-optimize", *words]
    options = _options(command, words)
    module, needed = COMMANDS["optimize" if getattr(options, "optimize", False) else command]
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise _missing(needed)
    zoo = {name: _import(name) for name in NAMES}
    _check_names(zoo)
    _register(zoo)
    if options.algo in ALGORITHMS:
        words = _with_defaults(words, options)
        _mask_evaluations(zoo["rl_zoo3.exp_manager"])
        _play_with_masks(zoo, options.algo)
    if command == "record_video":
        render_headless()
        words = _import_packages(words)
    sys.argv = [f"sb3_ppo_notes.zoo {command}", *words]
    _call(module)


def _options(command: str, words: Sequence[str]) -> Namespace:
    """Those of the command's options that matter here, abbreviated as it allows; the others are left to it."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--algo", default="notes_ppo")
    if command in ("train", "optimize"):
        parser.add_argument("-conf", "--conf-file")
        parser.add_argument("-optimize", "--optimize-hyperparameters", dest="optimize", action="store_true")
    else:
        parser.add_argument("-f", "--folder")
    return parser.parse_known_args(words)[0]


def _with_defaults(words: list[str], options: Namespace) -> list[str]:
    """The command line with what rl_zoo3 has no default of ours for; said twice the later one, the user's, counts."""
    defaults = ["--algo", options.algo]
    if getattr(options, "conf_file", "") is None:
        defaults += ["-conf", str(_hyperparameters(ALGORITHMS[options.algo][1]))]
    if getattr(options, "folder", "") is None:
        # Where train puts agents. rl_zoo3's default is a folder it would fill from the Hub, which has none of ours.
        defaults += ["-f", "logs"]
    return [*defaults, *words]


def _import_packages(words: list[str]) -> list[str]:
    """The command line without ``--gym-packages``, imported: rl_zoo3's other commands have it, record_video has not."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--gym-packages", nargs="+", default=[])
    options, others = parser.parse_known_args(words)
    for package in options.gym_packages:
        importlib.import_module(package)
    return others


def _hyperparameters(stock: str) -> Path:
    path = Path(str(_import("rl_zoo3").__file__)).parent / "hyperparams" / f"{stock}.yml"
    if not path.is_file():
        raise InvalidValueError(f"conf-file must be given: rl_zoo3 {_version()} has no {path}")
    return path


# -- what rl_zoo3 is told ---------------------------------------------------------------------------------------------


class ZooAlgorithm:
    """One of our algorithms as rl_zoo3's table has them: built from what its YAML says, loaded to go on or to play.

    :param algorithm: our class.
    """

    def __init__(self, algorithm: Any):
        self.algorithm = algorithm
        self.__name__ = algorithm.__name__
        #: What an agent that is loaded plays in; ``None`` where it goes on to train.
        self.played: VecEnv | None = None

    def __call__(self, **arguments: Any) -> Any:
        """A model. A ``rule`` and classes may be plain data, and every schedule ``lin_…``."""
        return self.algorithm(**constructor_arguments(arguments))

    def load(self, path: Any, **arguments: Any) -> Any:
        """A model; one that plays asks the environments for masks by itself, which rl_zoo3 does not."""
        model = self.algorithm.load(path, **constructor_arguments(arguments))
        if self.played is None:
            return model
        if model.action_masking and not self.played.has_attr(METHOD):
            raise InvalidValueError(
                f"env must have a method {METHOD}(), as in training: this agent chooses among the actions that are "
                f"allowed, got {self.played}, which has none"
            )
        return predictor(model, self.played)


def _register(zoo: dict[str, Any]) -> None:
    options = zoo["rl_zoo3.hyperparams_opt"]
    for name, (algorithm, stock) in ALGORITHMS.items():
        zoo["rl_zoo3"].ALGOS[name] = ZooAlgorithm(algorithm)
        for table in (options.HYPERPARAMS_SAMPLER, options.HYPERPARAMS_CONVERTER):
            table[name] = table[stock]


def _mask_evaluations(manager: Any) -> None:
    """Let evaluations while it trains, and those of a trial, allow only what the environment allows."""
    manager.EvalCallback = MaskableEvalCallback
    bases = (manager.TrialEvalCallback, MaskableEvalCallback)
    manager.TrialEvalCallback = type("MaskableTrialEvalCallback", bases, {})


def _play_with_masks(zoo: dict[str, Any], algo: str) -> None:
    """Let an agent that is loaded to play know the environment it plays in."""
    create: Callable[..., VecEnv] = zoo["rl_zoo3.utils"].create_test_env
    algorithm = zoo["rl_zoo3"].ALGOS[algo]

    def create_test_env(*args: Any, **kwargs: Any) -> VecEnv:
        algorithm.played = env = create(*args, **kwargs)
        return env

    # enjoy takes it from the one, record_video from the other.
    zoo["rl_zoo3"].create_test_env = zoo["rl_zoo3.utils"].create_test_env = create_test_env


# -- the package, which may be another or not there -------------------------------------------------------------------


def _call(module: str) -> None:
    """Its ``main``: a function of the module's name, or the module itself as a script."""
    function = getattr(_import(module), module.rpartition(".")[2], None)
    if callable(function):
        function()
    else:
        del sys.modules[module]  # it has only been looked at, and is run as if for the first time
        runpy.run_module(module, run_name="__main__")


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(error.name or module) from error


def _missing(package: str) -> InvalidValueError:
    return InvalidValueError(
        f"zoo needs {package.partition('.')[0]}, which is not installed: pip install 'sb3-ppo-notes[zoo]'"
    )


def _check_names(zoo: dict[str, Any]) -> None:
    for module, names in NAMES.items():
        for name in names:
            if not hasattr(zoo[module], name):
                raise InvalidValueError(
                    f"rl_zoo3 must have {module}.{name}, as 2.9.2 has; installed is {_version()}, without it"
                )


def _version() -> str:
    return importlib.metadata.version("rl_zoo3")


if __name__ == "__main__":
    sys.exit(main())
