"""The house: who may import whom, what is documented, what is accepted and ignored."""

import ast
import graphlib
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import sb3_ppo_notes

PACKAGE = Path(sb3_ppo_notes.__file__).parent
# Each room may import from itself and from the rooms above it.
ROOMS = [
    "formulas",
    "rules",
    "kernels",
    "processes",
    "envs",
    "policies",
    "rollouts",
    "recipes",
    "engine",
    "algorithms",
    "callbacks",
    "persistence",
    "configs",
    "export",
    "notes",
    "runs",
    "zoo",
]
OUTSIDE = {
    "formulas": {"numpy", "torch"},
    "rules": {"numpy", "torch"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
TUNING = PACKAGE.parent / "tuning"
TUNING_FILES = sorted(TUNING.rglob("*.py"))
TUNING_MODULES = [name for _, name, _ in pkgutil.walk_packages([str(TUNING)], "tuning.")]
TUNING_ROOMS = ["space", "selection", "storage", "worker", "report", "commands", "study"]
# What a user of the package may import, and so may tuning.
PUBLIC_MODULES = {
    "sb3_ppo_notes",
    "sb3_ppo_notes.allocator",
    "sb3_ppo_notes.callbacks",
    "sb3_ppo_notes.configs.build",
    "sb3_ppo_notes.configs.environments",
    "sb3_ppo_notes.configs.rules",  # rules in files, as train reads them
    "sb3_ppo_notes.configs.values",
    "sb3_ppo_notes.configs.zoo",
    "sb3_ppo_notes.files",
    "sb3_ppo_notes.formulas.checks",  # the errors
    "sb3_ppo_notes.formulas.statistics",
    "sb3_ppo_notes.pages",
    "sb3_ppo_notes.persistence",
    "sb3_ppo_notes.recipes",
    "sb3_ppo_notes.rollouts",
    "sb3_ppo_notes.rules",
    "sb3_ppo_notes.runs.options",  # commands and their help
}
MODULES = [
    name for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "sb3_ppo_notes.") if not name.endswith("__main__")
]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def room_of(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def test_imports_only_from_rooms_above():
    for path in FILES:
        check_imports_only_from_rooms_above(path)


def check_imports_only_from_rooms_above(path):
    room = room_of(path)
    if room not in ROOMS:
        return  # __init__, __main__, _version: the front door; _atomic, allocator, files, pages: beside the rooms
    allowed = (
        set(ROOMS[: ROOMS.index(room) + 1])
        - ({"callbacks"} if room == "persistence" else set())
        - ({"envs"} if room == "kernels" else set())
    )
    for module in imports_of(path):
        if module.startswith("sb3_ppo_notes."):
            front = {"_version", "_atomic", "_remarks", "allocator", "charts", "files", "pages"}
            assert module.split(".")[1] in allowed | front, f"{path}: {module}"
        elif module == "sb3_ppo_notes":
            assert room in ("configs", "notes", "runs", "zoo"), f"{path}: only they may use the front door"


def test_algorithms_enter_the_engine_by_its_one_door():
    """Whoever reads PPO need not open it, and whoever makes it faster cannot touch PPO."""
    engine = importlib.import_module("sb3_ppo_notes.engine")
    assert set(engine.__all__) <= {
        "Engine",
        "EngineReport",
        "Execution",
        "Phase",
        "Step",
        "StepSettings",
        "Stepper",
        "Trains",
    }
    for path in FILES:
        if room_of(path) == "algorithms":
            inside = [module for module in imports_of(path) if module.startswith("sb3_ppo_notes.engine.")]
            assert not inside, f"{path}: {inside}"
        if room_of(path) in ("persistence", "callbacks", "export", "runs"):
            assert not any(module.startswith("sb3_ppo_notes.engine") for module in imports_of(path)), path


def test_who_reads_the_update_need_not_read_much_else():
    ours = {module for module in imports_of(PACKAGE / "algorithms" / "update.py") if module.startswith("sb3_ppo_notes")}
    assert len(ours) <= 8
    assert len((PACKAGE / "algorithms" / "update.py").read_text().splitlines()) <= 150


def test_formulas_and_rules_know_numpy_and_torch_only():
    for path in FILES:
        check_formulas_and_rules_know_numpy_and_torch_only(path)


def check_formulas_and_rules_know_numpy_and_torch_only(path):
    room = room_of(path)
    if room not in OUTSIDE:
        return
    import sys

    for module in imports_of(path):
        top = module.split(".")[0]
        assert top == "sb3_ppo_notes" or top in OUTSIDE[room] or top in sys.stdlib_module_names, f"{path}: {module}"


def test_the_package_never_imports_optuna():
    assert not [path for path in FILES if any(module.split(".")[0] == "optuna" for module in imports_of(path))]


@pytest.mark.parametrize("path", TUNING_FILES, ids=lambda path: path.name)
def test_tuning_uses_the_public_api_only(path):
    ours = {module for module in imports_of(path) if module.split(".")[0] == "sb3_ppo_notes"}
    assert ours <= PUBLIC_MODULES, f"{path}: {ours - PUBLIC_MODULES}"


def test_tuning_imports_only_from_rooms_above():
    """So that each of its modules can be imported first: a package's own imports hide a circle from the test below."""
    for path in TUNING_FILES:
        room = path.relative_to(TUNING).parts[0].removesuffix(".py")
        for module in imports_of(path):
            if module.startswith("tuning."):
                assert module.split(".")[1] in TUNING_ROOMS[: TUNING_ROOMS.index(room) + 1], f"{path}: {module}"


def test_the_package_never_imports_tuning():
    assert TUNING_FILES
    assert not [path for path in FILES if any(module.split(".")[0] == "tuning" for module in imports_of(path))]


def is_documented_elsewhere(cls, method):
    """Interfaces of Optuna's and SB3's are theirs to explain, unless we say more."""
    theirs = [base for base in cls.__mro__[1:] if base.__module__.startswith(("optuna", "stable_baselines3"))]
    is_silent = cls.__module__.startswith("tuning.") or not vars(cls)[method].__doc__
    return is_silent and any(method in vars(base) for base in theirs)


def public_objects():
    for name in [*MODULES, *TUNING_MODULES]:
        module = importlib.import_module(name)
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or getattr(value, "__module__", None) != name:
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{name}.{attribute}", value
                if inspect.isclass(value):
                    for method, function in vars(value).items():
                        if inspect.isfunction(function) and is_documented_elsewhere(value, method):
                            continue
                        if not method.startswith("_") and inspect.isfunction(function):
                            yield f"{name}.{attribute}.{method}", function


PUBLIC = dict(public_objects())
# Read by whoever changes them, not looked up: there a docstring says what a name and types do not. The functions of a
# note, n01_… to n30_…, are the same in each: note.py says what they take.
A_NOTE = re.compile(r"sb3_ppo_notes\.notes\.\w+\.n\d\d_")
INNER = (
    "sb3_ppo_notes.engine.",
    "sb3_ppo_notes.kernels.",
    "sb3_ppo_notes.processes.",
    "sb3_ppo_notes.runs.",
    "sb3_ppo_notes.zoo.",
    "tuning.",
)
# Rooms of which a user looks up what they export, and nothing else.
EXPORTING = ("callbacks", "envs", "export", "persistence")


def is_inner(name):
    room, *rest = name.split(".")[1:]
    return bool(name.startswith(INNER) or A_NOTE.match(name)) or (
        room in EXPORTING and rest[1] not in importlib.import_module(f"sb3_ppo_notes.{room}").__all__
    )


def test_every_public_name_is_documented():
    for name in PUBLIC:
        check_every_public_name_is_documented(name)


def check_every_public_name_is_documented(name):
    documented = PUBLIC[name]
    text = inspect.getdoc(documented) or ""
    assert text, f"{name} has no docstring"
    # LaTeX in a docstring that is not raw turns \b and \f into control characters.
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text), f"{name} has a control character in its docstring"
    if inspect.isfunction(documented):
        parameters = [p for p in inspect.signature(documented).parameters if p not in ("self", "cls")]
        missing = [parameter for parameter in parameters if f":param {parameter}:" not in text]
        assert is_inner(name) or not missing, f"{name} does not document {missing}"
        stale = [p for p in re.findall(r":param (\w+):", text) if p not in parameters]
        assert not stale, f"{name} documents {stale}, which it does not take"


@pytest.mark.parametrize("name", ["NotesPPO", "NotesA2C"])
def test_every_constructor_argument_is_documented(name):
    algorithm = getattr(sb3_ppo_notes, name)
    parameters = inspect.signature(algorithm.__init__).parameters
    text = inspect.getdoc(algorithm)
    assert all(f":param {parameter}:" in text for parameter in parameters if parameter != "self")


def formulas():
    for name, function in PUBLIC.items():
        if name.startswith("sb3_ppo_notes.formulas.") and inspect.isfunction(function) and ".checks." not in name:
            yield name


@pytest.mark.parametrize("name", list(formulas()))
def test_every_formula_has_its_parts(name):
    text = inspect.getdoc(PUBLIC[name])
    assert ">>>" in text, f"{name} has no example"
    assert ":return:" in text
    assert "``[" in text or "scalar" in text, f"{name} states no shape"
    # Sums over independent components and plain look-ups need no paper.
    is_trivial = any(word in name for word in ("multi_categorical", "sum_over", "next_values", "_mode"))
    assert is_trivial or "Source:" in text, f"{name} cites no source"


def test_a_folder_holds_what_one_can_survey():
    folders = {path.parent for path in [*FILES, *TUNING_FILES]}
    modules = {folder: [path for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in folders}
    assert not {str(folder): len(paths) for folder, paths in modules.items() if len(paths) > 16}


def test_sizes():
    for path in [*FILES, *TUNING_FILES]:
        check_sizes(path)


def check_sizes(path):
    text = path.read_text()
    # One reason to change, not a number of lines, decides where a file ends; a long one explains itself.
    explains = re.search(r"\blong\b|\blines\b", ast.get_docstring(ast.parse(text)) or "")
    assert len(text.splitlines()) <= 400 or explains, f"{path} has {len(text.splitlines())} lines and does not say why"
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        # The claims of a note are a table.
        if not isinstance(node, ast.FunctionDef) or node.name in ("__init__", "claims"):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if body:
            code = [
                line
                for line in lines[body[0].lineno - 1 : node.end_lineno]
                if line.strip() and not line.strip().startswith("#")
            ]
            assert len(code) <= 40, f"{path}: {node.name} has {len(code)} lines of code"
        if "formulas" in str(path):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            assert len(arguments) <= 6, f"{path}: {node.name} has {len(arguments)} parameters"


def arguments_read_while_learning(algorithm):
    """Which of a constructor's own arguments a model looks at, once it is built and learns."""
    read = set()

    class Watched(algorithm):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    model = Watched("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu", seed=0)
    read.clear()
    model.learn(64)
    return {argument for argument in own_arguments(algorithm) if {argument, f"_given_{argument}"} & read}


def own_arguments(algorithm):
    """Those that are not handed to SB3's constructor, which keeps and uses them."""
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    handed_over = {*inspect.signature(OnPolicyAlgorithm.__init__).parameters, "self"}
    return set(inspect.signature(algorithm.__init__).parameters) - handed_over


@pytest.mark.parametrize("name", ["NotesPPO", "NotesA2C"])
def test_no_argument_is_accepted_and_ignored(name):
    algorithm = getattr(sb3_ppo_notes, name)
    read = arguments_read_while_learning(algorithm)
    # Used when the optimiser is built: tests/parity compares both with stock. And when a group of processes is joined:
    # tests/processes.
    elsewhere = {"processes", "shards"} | ({"use_rms_prop", "rms_prop_eps"} if name == "NotesA2C" else set())
    assert own_arguments(algorithm) - read == elsewhere


def test_an_argument_that_is_kept_and_never_looked_at_would_be_noticed():
    class Ignoring(sb3_ppo_notes.NotesPPO):
        def __init__(self, policy, env, ignored=None, *, n_steps=64, device="cpu", seed=0):
            super().__init__(policy, env, n_steps=n_steps, device=device, seed=seed)
            self.ignored = ignored

    assert own_arguments(Ignoring) == {"ignored"}
    assert arguments_read_while_learning(Ignoring) == set()


def imported_modules(path, package):
    """Modules of ours that a file imports, at its top or hidden in a function; not those that only types are from."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from submodules & ALL_MODULES or {node.module}


ALL_MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in [*FILES, *TUNING_FILES]
}


@pytest.mark.parametrize(("files", "package"), [(FILES, "sb3_ppo_notes"), (TUNING_FILES, "tuning")])
def test_no_two_modules_import_each_other(files, package):
    graph = {}
    for path in files:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if path.name != "__init__.py":  # a package's own imports are those of its modules
            graph[name] = set(imported_modules(path, package))
    graphlib.TopologicalSorter(graph).prepare()


def test_top_level_holds_nothing_else():
    root = PACKAGE.parent
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    import subprocess

    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    top = {name.split("/")[0] for name in tracked if name and not name.startswith(".")}
    assert top <= {"pyproject.toml", "sb3_ppo_notes", "tests", "tuning", "README.md"}
