"""A pytest plugin that puts our classes in the place of SB3's, so that SB3's own test-suite runs against them.

    python -m pytest -p tests.parity.rebind -k "PPO or A2C or on_policy" FOLDER_OF_SB3/tests

The tests take the classes by ``from stable_baselines3 import A2C, PPO``, so it has to happen before they are imported.
"""

import stable_baselines3
import stable_baselines3.a2c
import stable_baselines3.ppo

from sb3_ppo_notes import NotesA2C, NotesPPO


def pytest_configure(config):
    for module in (stable_baselines3, stable_baselines3.ppo, stable_baselines3.a2c):
        for name, ours in (("PPO", NotesPPO), ("A2C", NotesA2C)):
            if hasattr(module, name):
                setattr(module, name, ours)
