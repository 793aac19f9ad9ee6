"""A note as a Jupyter notebook: its text, its equations, the code of its experiment to be changed and run again."""

import ast
import inspect
import json
from typing import Any

from sb3_ppo_notes.notes.equations import tree as equations
from sb3_ppo_notes.notes.equations.markup import equation_latex
from sb3_ppo_notes.notes.note import Note

FIGURE = """import matplotlib.pyplot as plt

figure = plt.figure(figsize=(7, 4), layout="constrained")
picture(result, figure)"""
CLAIMS = 'for claim in claims(result):\n    print("✓" if claim.holds else "✗", claim.sentence, claim.numbers)'


def notebook(note: Note) -> str:
    """The file's text, in nbformat 4.5; nothing has been run in it.

    :param note: the note.
    :return: JSON.
    """
    cells = [
        _cell("text", "markdown", f"# {note.question}\n\n{note.answer()}"),
        _cell("equations", "markdown", _equations(note)),
        _cell("experiment", "code", _code(note)),
        _cell("run", "code", "result = experiment(seed=0)\nresult"),
        _cell("picture", "code", FIGURE),
        _cell("claims", "code", CLAIMS),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _cell(name: str, kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": name, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _equations(note: Note) -> str:
    lines = []
    for formula in note.formulas:
        for block in equations.blocks(inspect.getdoc(formula) or ""):
            for piece in equations.pieces(block):
                is_prose = isinstance(piece, equations.Prose)
                lines.append(piece.text if is_prose else f"$${equation_latex(piece)}$$")  # type: ignore[arg-type]
        lines.append(f"`{formula.__module__}.{formula.__name__}`")
    return "\n\n".join(lines)


def _code(note: Note) -> str:
    """The note's module without its text, which stands above, and without its name, which is only the page's."""
    source = inspect.getsource(note.module)
    tree = ast.parse(source)
    left_out = [tree.body[0], *(node for node in tree.body if isinstance(node, ast.Assign) and _assigns(node, "NOTE"))]
    lines = source.splitlines()
    for node in reversed(left_out):
        del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines).strip()


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
