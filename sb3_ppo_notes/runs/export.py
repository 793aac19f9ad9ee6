"""``export``: a trained policy as a file that runs without this package."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch as th
import tyro
from rich.table import Table

from sb3_ppo_notes.export import Exported, export_policy
from sb3_ppo_notes.export.formats import check_format
from sb3_ppo_notes.formulas.checks import check_integer
from sb3_ppo_notes.runs.console import table_console
from sb3_ppo_notes.runs.trained import trained_model


@dataclass
class Export:
    """Write a trained policy as a file for ONNX or torch.export, with a JSON file that describes it; deterministic."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """A run's folder, as train has written it; one of its checkpoints; or a model's zip file."""
    to: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """What to write: policy.onnx, or policy.pt2 for torch.export."""
    env: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    """Id of the environment, for a zip file or a checkpoint that lies in no run's folder."""
    n_observations: int = 256
    """Observations of the environment that are played with the file, and must give what predict gives."""

    def __call__(self) -> int:
        """Export.

        :return: 0.
        :raises ValueError: for a run that is none, or a file that does not play as predict does.
        """
        check_format(self.to)
        check_integer("n_observations", self.n_observations, minimum=1)
        th.set_num_threads(1)
        model = trained_model(self.run, self.env)
        exported = export_policy(model, self.to, n_observations=self.n_observations)
        env = model.get_env()
        assert env is not None  # the file was tried in it
        env.close()
        console = table_console()
        console.print(_table(exported))
        console.print(f"written: {exported.path} and {exported.description.name}", soft_wrap=True)
        return 0


def _table(exported: Exported) -> Table:
    document = json.loads(exported.description.read_text())
    checked = document["checked"]
    table = Table(title=f"{document['policy']}: {checked['observations']} observations, by {checked['by']}")
    for heading in ("", "name", "shape", "type", "difference to predict"):
        table.add_column(heading)
    for kind in ("inputs", "outputs"):
        for each in document[kind]:
            difference = exported.differences.get(each["name"])
            told = "" if difference is None else f"{difference:.1e}"
            table.add_row(kind[:-1], each["name"], " × ".join(map(str, each["shape"])), each["dtype"], told)
        table.add_section()
    return table
