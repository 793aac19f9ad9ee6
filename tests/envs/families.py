"""Environments of others: one row a family, as ``docs/environments.md`` prints them and ``test_families.py`` runs them."""

import shlex
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from packaging.requirements import Requirement
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

#: Checks that a row passes, in the words of the table.
EQUAL, LEAN, COMPILED, RESUMED = "equal to stock", "LeanVecEnv", "compile", "resume"
MASKABLE = "MaskablePPO's to 1e-6"
ALL = (EQUAL, LEAN, COMPILED, RESUMED)


class Family(NamedTuple):
    """One row.

    :param name: of the library, and of the environment that was tried.
    :param pip: what is installed for it beside this package.
    :param modules: what must be importable, else the row is not tried.
    :param packages: whose versions count, by pip's names.
    :param tried: their versions when the row was tried last.
    :param words: options of ``train``, of ``compare``, ...; or lines of Python, where there is no id.
    :param limits: what does not work, and why.
    :param checks: what was compared, and was as it should be.
    :param policy: ``None`` for the one that the observations suggest.
    :param build: makes environments where there is no id: a ``VecEnv``, of the class that it is given if it takes one;
        or what our classes adapt.
    :param arguments: of both algorithms, beside the test's.
    """

    name: str
    pip: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    tried: str
    words: str
    limits: str = ""
    checks: tuple[str, ...] = ALL
    policy: str | None = None
    build: Callable[..., Any] | None = None
    arguments: Mapping[str, Any] = MappingProxyType({})

    @property
    def is_installed(self) -> bool:
        """All that the row needs is there, in a version that it needs."""
        if any(find_spec(module) is None for module in self.modules):
            return False
        requirements = map(Requirement, shlex.split(self.pip))
        return all(one.specifier.contains(version(one.name)) for one in requirements if one.specifier)

    @property
    def versions(self) -> str:
        return ", ".join(version(package) for package in self.packages)


class ConnectFour(gym.Env):
    """PettingZoo's connect_four against an opponent that plays at random; the rules say what is allowed."""

    def __init__(self) -> None:
        from pettingzoo.classic import connect_four_v3

        self.game = connect_four_v3.env()
        self.game.reset(seed=0)
        self.observation_space = spaces.Box(0, 1, (6, 7, 2), dtype=np.int8)
        self.action_space = spaces.Discrete(7)

    def action_masks(self) -> np.ndarray:
        return np.array(self.game.observe(self.game.agents[0])["action_mask"], dtype=bool)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.game.reset(seed=seed)
        self.me = self.game.agents[0]
        return self.game.observe(self.me)["observation"], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.game.step(int(action))
        if not any(self.game.terminations.values()):
            allowed = np.flatnonzero(self.game.observe(self.game.agent_selection)["action_mask"])
            self.game.step(int(self.np_random.choice(allowed)))
        is_over = any(self.game.terminations.values())
        return self.game.observe(self.me)["observation"], float(self.game.rewards[self.me]), is_over, False, {}


def connect_four(kind: type[VecEnv] = DummyVecEnv) -> Any:
    return make_vec_env(ConnectFour, n_envs=2, seed=0, vec_env_cls=kind)


def deep_sea(kind: type[VecEnv] = DummyVecEnv) -> Any:
    import mo_gymnasium
    from mo_gymnasium.wrappers import LinearReward

    def one() -> Any:
        return LinearReward(mo_gymnasium.make("deep-sea-treasure-v0"), np.array([0.8, 0.2]))

    return make_vec_env(one, n_envs=2, seed=0, vec_env_cls=kind)


def pistons() -> Any:
    import supersuit
    from pettingzoo.butterfly import pistonball_v6

    env = pistonball_v6.parallel_env(n_pistons=4, continuous=True, max_cycles=30)
    env = supersuit.frame_stack_v1(supersuit.resize_v1(supersuit.color_reduction_v0(env, mode="B"), 84, 84), 3)
    env = supersuit.pettingzoo_env_to_vec_env_v1(env)
    return supersuit.concat_vec_envs_v1(env, 1, num_cpus=1, base_class="stable_baselines3")


def envpool_cart_poles() -> Any:
    import envpool

    return envpool.make_gymnasium("CartPole-v1", num_envs=2, seed=1)


FAMILIES = [
    Family(
        "MiniGrid, image",
        "minigrid",
        ("minigrid",),
        ("minigrid",),
        "3.2.0",
        "--import minigrid --env MiniGrid-Empty-5x5-v0 "
        "--wrapper minigrid.wrappers:ImgObsWrapper gymnasium.wrappers:FlattenObservation",
        "without a wrapper its observations hold a text (`mission`), which SB3 cannot learn from: refused by name",
    ),
    Family(
        "MiniGrid, image and mission as one row",
        "minigrid",
        ("minigrid",),
        ("minigrid",),
        "3.2.0",
        "--env minigrid:MiniGrid-DoorKey-5x5-v0 --wrapper minigrid.wrappers:FlatObsWrapper",
    ),
    Family(
        "highway-env",
        "highway-env",
        ("highway_env",),
        ("highway-env",),
        "1.12.1",
        "--env highway_env:highway-fast-v0 --env-kwargs config.lanes_count=2 config.vehicles_count=5",
    ),
    Family(
        "highway-env, goals (Dict)",
        "highway-env",
        ("highway_env",),
        ("highway-env",),
        "1.12.1",
        "--env highway_env:parking-v0",
    ),
    Family(
        "Gymnasium-Robotics, PointMaze (Dict)",
        "gymnasium-robotics",
        ("gymnasium_robotics",),
        ("gymnasium-robotics", "mujoco"),
        "1.4.2, 3.17.0",
        "--import gymnasium_robotics --env PointMaze_UMaze-v3",
    ),
    Family(
        "Gymnasium-Robotics, Fetch (Dict)",
        "gymnasium-robotics 'mujoco<3.12'",
        ("gymnasium_robotics",),
        ("gymnasium-robotics", "mujoco"),
        "1.4.2, 3.10.0",
        "--import gymnasium_robotics --env FetchReach-v4",
        "with MuJoCo 3.12 and newer Gymnasium-Robotics itself cannot make it (`AssertionError` in `set_joint_qpos`)",
    ),
    Family(
        "MuJoCo",
        "gymnasium[mujoco]",
        ("mujoco",),
        ("mujoco",),
        "3.17.0",
        "--env Hopper-v5",
    ),
    Family(
        "ALE, pixels",
        "gymnasium[atari] opencv-python",
        ("ale_py", "cv2"),
        ("ale-py",),
        "0.12.1",
        "--import ale_py --env ALE/Pong-v5 --env-kwargs frameskip=1 "
        "--wrapper stable_baselines3.common.atari_wrappers:AtariWrapper",
    ),
    Family(
        "ALE, RAM",
        "gymnasium[atari]",
        ("ale_py",),
        ("ale-py",),
        "0.12.1",
        "--import ale_py --env ALE/Pong-v5 --env-kwargs obs_type=ram",
    ),
    Family(
        "dm_control by Shimmy",
        "dm-control shimmy 'mujoco<4'",
        ("dm_control", "shimmy"),
        ("dm-control", "shimmy", "mujoco"),
        "1.0.50, 2.0.1, 3.17.0",
        "--import shimmy --env dm_control/cartpole-swingup-v0 --wrapper gymnasium.wrappers:FlattenObservation",
    ),
    Family(
        "MO-Gymnasium",
        "mo-gymnasium",
        ("mo_gymnasium",),
        ("mo-gymnasium",),
        "1.3.2",
        'make_vec_env(lambda: LinearReward(mo_gymnasium.make("deep-sea-treasure-v0"), np.array([0.8, 0.2])))',
        "a reward of several numbers must be made one before `Monitor` sees it, which `--wrapper`, as rl_zoo3's, is "
        "around: give a function, or register it under an id",
        build=deep_sea,
        policy="MlpPolicy",
    ),
    Family(
        "PettingZoo, connect_four with masks",
        "'pettingzoo[classic]'",
        ("pettingzoo", "pygame"),
        ("PettingZoo",),
        "1.27.0",
        'NotesPPO("MlpPolicy", make_vec_env(YourGame, 8), action_masking=True)',
        "a game of several players is an environment of your own, with a method `action_masks`",
        checks=(MASKABLE, LEAN, COMPILED, RESUMED),
        build=connect_four,
        policy="MlpPolicy",
        arguments=MappingProxyType({"action_masking": True}),
    ),
    Family(
        "PettingZoo, pistonball by SuperSuit",
        "'pettingzoo[butterfly]' supersuit",
        ("pettingzoo", "supersuit", "pymunk"),
        ("PettingZoo", "supersuit"),
        "1.27.0, 3.11.0",
        'NotesPPO("CnnPolicy", concat_vec_envs_v1(env, 8, base_class="stable_baselines3"))',
        "it trains, and no more is known: SuperSuit's environments take no seed (`seed=0` fails, as with stock PPO), so "
        "that two runs of stock PPO differ as well",
        checks=(),
        policy="CnnPolicy",
        build=pistons,
        arguments=MappingProxyType({"seed": None}),
    ),
    Family(
        "EnvPool",
        "envpool",
        ("envpool",),
        ("envpool",),
        "1.2.5",
        'NotesPPO("MlpPolicy", envpool.make_gymnasium("CartPole-v1", num_envs=8, seed=0))',
        "its games live in C++, where no checkpoint reaches them: a resumed run begins new episodes and says so; every "
        "end at the time limit counts as one; `make_dm` is refused by name",
        checks=(EQUAL, COMPILED),
        policy="MlpPolicy",
        build=envpool_cart_poles,
        arguments=MappingProxyType({"seed": 1}),
    ),
]


def markdown_table() -> str:
    """The table of ``docs/environments.md``."""
    rows = ["| family | pip install | tried with | say | checked | limits |", "|---|---|---|---|---|---|"]
    for family in FAMILIES:
        checked = ", ".join(family.checks) or "trains"
        cells = (
            family.name,
            f"`{family.pip}`",
            family.tried,
            f"`{family.words}`",
            checked,
            family.limits or "none met",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
