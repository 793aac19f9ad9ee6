"""rl_zoo3's YAML files as configurations: its keys, and its Python-in-a-string without running it."""

from typing import Any

from sb3_ppo_notes.configs.tuned import is_atari
from sb3_ppo_notes.configs.values import ACTIVATIONS, OPTIMIZERS
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence.configuration import parse_expression

#: rl_zoo3's keys that say what runs and not how it learns, and our names for them.
OURS = {
    "n_timesteps": "total_timesteps",
    **{key: key for key in ("policy", "n_envs", "normalize", "frame_stack", "env_wrapper", "env_kwargs")},
}
#: Of sb3-contrib's RecurrentPPO, where they are not PPO's.
RECURRENT_DEFAULTS = {"n_steps": 128, "batch_size": 128}
#: Classes as rl_zoo3's files write them, by our names for them.
NAMES = {f"nn.{name}": name for name in ACTIVATIONS} | {
    f"{module}{name}": name for name in OPTIMIZERS for module in ("", "optim.", "th.optim.", "torch.optim.")
}
REFUSED = ("vec_env_wrapper", "callback", "monitor_kwargs")


def zoo_config(document: dict[str, Any], path: str, env: str | None, algo: str | None) -> dict[str, Any]:
    """One entry of a file of rl_zoo3's, in our keys.

    :param document: what the file holds: environment ids, ``atari`` and ``default``, and mappings of hyperparameters.
    :param path: the file's, for messages.
    :param env: whose entry; ``None`` if the file has but one.
    :param algo: which algorithm the file is for; its folder says so at rl_zoo3, the file does not.
    :return: some of a configuration's keys.
    :raises ValueError: if there is no such entry, or it holds what cannot be read.
    """
    ids = [key for key in document if key not in ("default", "atari")]
    if env is None:
        if len(ids) != 1:
            raise InvalidValueError(f"env must be given with {path}, which holds {', '.join(ids) or 'no environment'}")
        env = ids[0]
    # Gymnasium imports what stands before a colon, and registers the rest there: rl_zoo3.import_envs:PendulumNoVel-v1.
    task = env.rpartition(":")[2]
    key = next((key for key in (task, "atari" if is_atari(task) else "", "default") if key in document), None)
    if key is None:
        raise InvalidValueError(f"env must be one of {', '.join(ids)}, which {path} holds, got {env!r}")
    entry = {str(name): value for name, value in document[key].items()}
    for name in REFUSED:
        if entry.get(name) is not None:
            raise InvalidValueError(f"config {path} must not hold {name!r} (entry {key!r}): it cannot be taken over")
    config: dict[str, Any] = {"name": task, "source": f"{path}, entry {key}", "env": env, "algo": algo or "ppo"}
    config |= {ours: entry.pop(theirs) for theirs, ours in OURS.items() if theirs in entry}
    # One environment, where rl_zoo3's file says nothing.
    config.setdefault("n_envs", 1)
    # What it says nothing of has sb3-contrib's default there, where the policy has a memory.
    defaults = RECURRENT_DEFAULTS if "Lstm" in str(config.get("policy")) and config["algo"] == "ppo" else {}
    return config | {"hyperparameters": defaults | entry}


def parse_dict(text: str, name: str) -> dict[str, Any]:
    """The dictionary that a string like ``"dict(net_arch=[64], activation_fn=nn.Tanh)"`` stands for.

    It is read, not run: literals, ``dict(...)``, ``nn.`` and the name of an activation, and the names of optimisers.

    :param text: the string.
    :param name: of the key, for messages.
    :return: plain data, classes by their names.
    :raises ValueError: for anything else.

    >>> parse_dict("dict(log_std_init=-2, activation_fn=nn.ReLU, net_arch=dict(pi=[64], vf=[64]))", "policy_kwargs")
    {'log_std_init': -2, 'activation_fn': 'ReLU', 'net_arch': {'pi': [64], 'vf': [64]}}
    """
    try:
        value = parse_value(text)
        if not isinstance(value, dict):
            raise InvalidValueError("no dict")
    except ValueError as error:
        shown = " ".join(text.split())
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise InvalidValueError(
            f"{name} must be dict(name=literal, activation_fn=nn.Tanh, ...), of literals and names of activations "
            f"only, got {shown!r}"
        ) from error
    return value


def parse_value(text: str) -> Any:
    """What an expression of Python's stands for, read and not run: see :func:`parse_dict`.

    :param text: the expression.
    :return: plain data.
    :raises ValueError: for anything else.
    """
    return _plain(parse_expression(text.strip(), {"dict": lambda **items: items}, NAMES))


def _plain(value: Any) -> Any:
    """As YAML has it: lists for tuples, words for keys."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InvalidValueError("a key that is no name")
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
