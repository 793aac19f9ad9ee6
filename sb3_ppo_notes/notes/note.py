"""What a note is: a question, an answer, an experiment that anybody can run, a picture, and claims that are checked.

A note is one module, ``n13_why_min.py``: its number and its name. There

* the docstring is the text: the first line the question, then the answer in Markdown. Every number in it is a
  placeholder, ``{ratios[2]:.2f}``, and comes from the experiment's result;
* ``NOTE = Note(...)`` says what it is called, what it answers, and which formulas it is about;
* ``experiment(seed=0)`` returns a ``NamedTuple`` of numbers and arrays. It calls the product; it neither draws nor
  prints. Environment steps that it takes are counted in a field ``environment_steps``;
* ``picture(result, figure)`` draws them;
* ``claims(result)`` yields what the text asserts;
* where a result has a field ``frames``, ``frame(result, frame, figure)`` draws one position of the slider.

Every claim names the deliberate bug that has to turn it red, ``mutant=``, by its name in ``tests/mutants.py`` or, where
no other test is about it, in ``tests/notes/mutants.py``. The name is written out as a literal: ``test_note_mutants.py``
reads it without running anything, plants the bug in a copy of the package, and asks for this very claim to fail.
A claim about the formula takes a bug of the formula; one about the algorithm a bug of the algorithm; where the claim is
a theorem that no line of the product could break (a sum of probabilities, a closed form), the bug is one in the note's
own experiment. Claims are told apart by their sentences: a sentence says what holds, and carries no measured number.
"""

import importlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from string import Formatter
from types import ModuleType
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.charts import INK

LANGUAGES = ("en", "ja", "fr", "ko")
STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
#: Inches: as broad as a telephone, so that letters can be read there.
FIGURE_SIZE = (5.6, 3.2)
#: Of what is drawn as pixels within a picture of lines and letters.
RASTER_DPI = 144


@dataclass(frozen=True)
class Claim:
    """A sentence and the numbers that have to bear it out: ``Claim("…", measured, expected, tolerance, mutant="…")``.

    Without ``expected`` what was measured is a yes or no. ``relation="<"`` compares in place of the equality.
    """

    sentence: str
    measured: Any
    expected: Any = True
    tolerance: float = 0.0
    relation: Literal["=", "<", ">", "≤", "≥"] = "="
    mutant: str = field(kw_only=True)

    @property
    def holds(self) -> bool:
        """``True`` if every number is as expected; a tolerance of 0 means equal to the bit."""
        if self.relation == "=" and self.tolerance == 0:
            return bool(np.array_equal(self.measured, self.expected))
        measured, expected = np.asarray(self.measured, float), np.asarray(self.expected, float)
        if self.relation == "=":
            return bool(np.all(np.abs(measured - expected) <= self.tolerance))
        compare = {"<": np.less, ">": np.greater, "≤": np.less_equal, "≥": np.greater_equal}[self.relation]
        return bool(np.all(compare(measured, expected)))

    @property
    def numbers(self) -> str:
        """Measured and expected numbers, in words."""
        if self.expected is True:
            return "yes" if self.holds else "no"
        relation = "" if self.relation == "=" else f"{self.relation} "
        tolerance = f" ± {self.tolerance:g}" if self.tolerance else ""
        return f"measured {_written(self.measured)}, expected {relation}{_written(self.expected)}{tolerance}"


class Frame(NamedTuple):
    """One position of a note's slider: the quantity's value, and the arrays that are drawn there."""

    position: float
    curves: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Note:
    """A note's name, titles and subjects; its text, experiment, picture and claims are in the module of its name.

    :param name: a word or three, joined by hyphens: ``why-min``.
    :param number: 1 to 30; with the name it is the module's name.
    :param titles: the question in English, Japanese, French and Korean: ``en``, ``ja``, ``fr``, ``ko``.
    :param answers: ids of ``seeds.py``.
    :param formulas: functions of ``formulas`` (and others of the product) whose equations belong to the answer.
    :param tests: ids of tests that assert the same elsewhere, ``tests/…py::test_…``.
    :param slider: what the frames' positions are, where there are any.
    """

    name: str
    number: int
    titles: Mapping[str, str]
    answers: tuple[str, ...]
    formulas: tuple[Callable[..., Any], ...]
    tests: tuple[str, ...]
    slider: str = ""

    @property
    def module(self) -> ModuleType:
        """The module with its text and its functions."""
        file = f"n{self.number:02d}_{self.name.replace('-', '_')}"
        (part,) = (path.parent.name for path in Path(__file__).parent.glob(f"*/{file}.py"))
        return importlib.import_module(f"{__package__}.{part}.{file}")

    @property
    def question(self) -> str:
        """The first line of its text."""
        return inspect.cleandoc(self.module.__doc__ or "").splitlines()[0]

    def answer(self, result: Any = None) -> str:
        """The answer in Markdown.

        :param result: of its experiment; without one each number is an ellipsis.
        :return: everything below the question.
        """
        text = inspect.cleandoc(self.module.__doc__ or "").partition("\n")[2].strip()
        return _Placeholders().vformat(text, (), result._asdict()) if result is not None else _Blanks().format(text)

    def run(self, seed: int = 0) -> Any:
        """Carry out its experiment, once in a process for each seed; whoever calls keeps their own random numbers.

        :param seed: of everything random in it.
        :return: a ``NamedTuple``.
        """
        return _run(self, seed)

    def claims(self, seed: int = 0) -> tuple[Claim, ...]:
        """Its claims, beside what was measured.

        :param seed: of the experiment.
        :return: in the order of the text.
        """
        return tuple(self.module.claims(self.run(seed)))

    def figure(self, seed: int = 0, frame: str | None = None) -> Figure:
        """Its picture.

        :param seed: of the experiment.
        :param frame: the name of a slider's position, for the picture there.
        :return: a figure of Matplotlib's, which belongs to no window.
        """
        result = self.run(seed)
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=FIGURE_SIZE, dpi=RASTER_DPI, layout="constrained")
            if frame is None:
                self.module.picture(result, figure)
            else:
                self.module.frame(result, result.frames[frame], figure)
        return figure

    def _repr_html_(self) -> str:
        """Shown by Jupyter: text, equations, picture, claims."""
        from sb3_ppo_notes.notes.pages.rendering import fragment

        return fragment(self, seed=0)


@cache
def _run(note: Note, seed: int) -> Any:
    with _own_randomness():
        return note.module.experiment(seed)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Generators as they were afterwards, and one thread, by which sums are rounded alike on machines of all sizes."""
    python_state, numpy_state, threads = random.getstate(), np.random.get_state(), th.get_num_threads()  # noqa: NPY002
    with th.random.fork_rng(devices=[]):
        th.set_num_threads(1)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            th.set_num_threads(threads)


class _Placeholders(Formatter):
    """Scalars of tensors and arrays are written as numbers are; a minus is a minus and no hyphen."""

    def format_field(self, value: Any, format_spec: str) -> str:
        number = value.item() if isinstance(value, th.Tensor | np.ndarray) and value.size in (1, ()) else value
        return str(super().format_field(number, format_spec)).replace("-", "−")


class _Blanks(Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return None, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        return "…"


def _written(value: Any) -> str:
    """A number in six digits, several of them in brackets, at most eight."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        return str(value)
    numbers = [f"{number + 0.0:.6g}".replace("-", "−") for number in array.ravel()[:8].tolist()]
    rest = ", …" if array.size > 8 else ""
    return numbers[0] if array.ndim == 0 else f"({', '.join(numbers)}{rest})"
