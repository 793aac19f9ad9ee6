"""``report``: everything a study found, as files; each is there whole or not at all, none is a pickle."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

from sb3_ppo_notes.files import write_bytes
from tuning.report.checklist import checklist
from tuning.report.data import StudyRecord, plain, without_passwords
from tuning.report.export import best_yaml
from tuning.report.numbers import importances, optimism_of, ranking
from tuning.report.page import markdown, page
from tuning.report.pictures import pictures_of
from tuning.report.sections import sections_of


def write_report(record: StudyRecord, folder: str | Path) -> list[Path]:
    """Write trials.csv, study.json, report.html, report.md with its pictures, CHECKLIST.md and best.yml.

    Passwords are hidden in every file; without a completed trial there is no best.yml.
    """
    record, folder = without_passwords(record), Path(folder)
    pictures = pictures_of(record)
    sections = sections_of(record, list(pictures))
    title = f"Tuning {record.algo} on {record.env_id}: {record.name}"
    files: dict[str, str | bytes] = {
        "report.html": page(title, sections, pictures),
        "report.md": markdown(title, sections),
        "CHECKLIST.md": checklist(record),
        "trials.csv": trials_csv(record),
        "study.json": study_json(record),
    }
    files |= {f"{name}.png": picture for name, picture in pictures.items()}
    if ranking(record):
        files["best.yml"] = best_yaml(record)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content.encode() if isinstance(content, str) else content)
    return [folder / name for name in files]


def trials_csv(record: StudyRecord) -> str:
    """One row a trial: its end, its scores, its configuration, its evaluations."""
    names = list(dict.fromkeys(name for trial in record.trials for name in trial.configuration))
    marks = sorted({step for trial in record.trials for step in trial.evaluations})
    seeds = sorted({seed for trial in record.trials for seed in trial.finalist_scores})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fixed = [
        "number",
        "state",
        "reason",
        "origin",
        "is_winner",
        "score",
        "finalist_mean",
        "env_steps",
        "seconds",
        "error",
    ]
    fresh, evaluations = [f"seed_{seed}" for seed in seeds], [f"return_at_{step}" for step in marks]
    writer.writerow([*fixed, *names, *fresh, *evaluations])
    for trial in record.trials:
        scores = list(trial.finalist_scores.values())
        mean = statistics.fmean(scores) if scores else None
        ended = [trial.number, trial.state, trial.reason, trial.origin, int(trial.number == record.winner)]
        costs = [trial.score, mean, trial.env_steps, round(trial.seconds, 3), trial.error]
        values = [trial.configuration.get(name) for name in names]
        values += [trial.finalist_scores.get(seed) for seed in seeds]
        writer.writerow([*ended, *costs, *values, *(trial.evaluations.get(step) for step in marks)])
    return buffer.getvalue()


def study_json(record: StudyRecord) -> str:
    """The whole record, and what was computed from it."""
    document: dict[str, Any] = plain(record)
    document["optimism"] = plain(optimism_of(record))
    document["importances"] = plain(importances(record))
    document["ranking"] = [trial.number for trial in ranking(record)]
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
