"""What holds of every note."""

import ast
import html
import inspect
import re
from pathlib import Path

import pytest

from sb3_ppo_notes.notes import NOTES
from sb3_ppo_notes.notes.note import LANGUAGES, _run
from sb3_ppo_notes.notes.pages.rendering import article, code_that_ran, fragment
from sb3_ppo_notes.notes.pages.site import numbers_of
from sb3_ppo_notes.notes.pages.walk_pages import anchors
from sb3_ppo_notes.notes.seeds import QUESTIONS, SOURCES, asked_in
from tests.notes.test_equations import formulas

ROOT = Path(__file__).parent.parent.parent
HIRAGANA_OR_KATAKANA, HANGUL = re.compile("[\u3040-\u30ff]"), re.compile("[\uac00-\ud7a3]")
#: All experiments together; that keeps them quick on every machine, and needs no clock.
MOST_ENVIRONMENT_STEPS = 200_000
every_note = pytest.mark.parametrize("name", list(NOTES))


def failures(name, seed=0):
    """One line for each claim of a note that does not hold; an experiment that raises breaks all of them."""
    try:
        claims = NOTES[name].claims(seed)
    except Exception as error:  # whatever a deliberate bug makes of the experiment
        return [f"✗ [{name}] the experiment raised {type(error).__name__}: {error}"]
    return [f"✗ [{name}] {claim.sentence} {claim.numbers}" for claim in claims if not claim.holds]


@every_note
def test_every_claim_holds(name):
    failed = failures(name)
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@every_note
def test_every_claim_holds_with_another_seed(name, seed):
    failed = failures(name, seed)
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)


#: Note 28 shows when processes met, by the clock.
OF_THE_CLOCK = {"blocking"}


@pytest.mark.slow
@every_note
def test_an_experiment_is_the_same_twice(name):
    if name in OF_THE_CLOCK:
        pytest.skip("it shows times of day")
    note = NOTES[name]
    assert list(numbers_of(_run.__wrapped__(note, 0))) == list(numbers_of(note.run()))


@every_note
def test_claims_are_told_apart_by_their_sentences(name):
    sentences = [claim.sentence for claim in NOTES[name].claims()]
    assert len(sentences) >= 3
    assert len(set(sentences)) == len(sentences)


@every_note
def test_the_module_has_the_notes_name(name):
    note = NOTES[name]
    assert note.name == name
    assert note.module.NOTE is note
    assert note.module.__name__.endswith(f".n{note.number:02d}_{name.replace('-', '_')}")
    assert note.question == note.titles["en"]


@every_note
def test_titles_are_in_four_languages(name):
    titles = NOTES[name].titles
    assert tuple(titles) == LANGUAGES
    assert HIRAGANA_OR_KATAKANA.search(titles["ja"])
    assert HANGUL.search(titles["ko"])
    assert not HANGUL.search(titles["en"] + titles["ja"] + titles["fr"])


@every_note
def test_a_formula_is_the_products_and_not_a_copy(name):
    """Its equation stands in its docstring, and nowhere in the note."""
    note = NOTES[name]
    assert note.formulas
    for formula in note.formulas:
        assert callable(formula)
        assert formula.__module__.startswith("sb3_ppo_notes.")
        assert ".notes" not in formula.__module__
    # What is indented in Markdown is a block of code: an equation of the note's own.
    assert not re.search(r"^    ", note.answer(), flags=re.M)


# What is no measured number: identifiers with a figure in them, references, years, and 0, 1, 2 as in 1+ε, n−1 or x².
NO_NUMBER = re.compile(
    r"""arXiv:\d+\.\d+ | \beqs?\.\ \d+ | \bsections?\ [\d.]+ | \bnotes?\ \d+ | \#\d+ | \b(19|20)\d\d\b
      | [A-Za-zα-ω]+_?\d+\w* | (?<![\d.,])[012](?![\d.,]\d|\d)""",
    re.X,
)


@every_note
def test_no_number_in_the_prose(name):
    """A number that is written out is one that nobody compares with anything."""
    text = inspect.cleandoc(NOTES[name].module.__doc__)
    text = re.sub(r"\{[^{}]*\}", "…", text)
    assert not re.findall(r"\d+", NO_NUMBER.sub("", text))


def test_a_number_in_the_prose_would_be_noticed():
    assert NO_NUMBER.sub("", "eq. 7 of arXiv:1707.06347, A2C, k3, 1+ε, (1−λ), 2017").strip(" of,+ε(−λ)") == ""
    assert re.findall(r"\d+", NO_NUMBER.sub("", "it is 0.95, or 12"))


@every_note
def test_every_placeholder_is_filled(name):
    note = NOTES[name]
    answer = note.answer(note.run())
    assert not re.search(r"[{}]|\bnan\b|\binf\b|array\(|tensor\(", answer)
    assert len(answer) > 300


@every_note
def test_the_code_shown_is_the_code_that_ran(name):
    note = NOTES[name]
    shown = html.unescape(re.sub("<[^>]*>", "", article(note, seed=None)))
    assert inspect.getsource(note.module.experiment).strip() in shown
    for source in code_that_ran(note):
        assert source in inspect.getsource(note.module)
        assert source in shown


@every_note
def test_an_experiment_neither_draws_nor_prints(name):
    source = "\n".join(code_that_ran(NOTES[name]))
    assert "print(" not in source
    assert not re.search(r"\b(figure|axes|plt)\b", source)


def test_jupyter_shows_all_of_a_note():
    shown = NOTES["why-min"]._repr_html_()
    assert shown == fragment(NOTES["why-min"], seed=0)
    for part in ("<math", "<svg", "✓", "def</span> <span", "Why the minimum?"):
        assert part in shown


@every_note
def test_a_picture_has_words_and_marks(name):
    note = NOTES[name]
    frames = getattr(note.run(), "frames", {})
    assert bool(frames) == bool(note.slider)
    assert not frames or 5 <= len(frames) <= 9
    for figure in [note.figure(), *(note.figure(frame=frame) for frame in list(frames)[:1])]:
        assert figure.axes
        assert all(axes.has_data() or axes.texts for axes in figure.axes)
        assert any(axes.get_xlabel() or axes.get_ylabel() or axes.get_title() or axes.texts for axes in figure.axes)


@every_note
def test_steps_of_environments_are_counted(name):
    source = inspect.getsource(NOTES[name].module)
    takes_steps = bool(re.search(r"\.learn\(|\.step\(\w*action", source))
    assert hasattr(NOTES[name].run(), "environment_steps") or not takes_steps


def test_all_experiments_together_are_small():
    assert sum(getattr(NOTES[name].run(), "environment_steps", 0) for name in NOTES) <= MOST_ENVIRONMENT_STEPS


@every_note
def test_the_tests_it_names_exist(name):
    assert NOTES[name].tests
    for test in NOTES[name].tests:
        path, _, function = test.partition("::")
        functions = {
            node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)
        }
        assert function in functions, test


@every_note
def test_what_it_answers_was_asked(name):
    note = NOTES[name]
    assert note.answers
    assert set(note.answers) <= set(QUESTIONS)
    assert all(asked_in(answer) in SOURCES.values() for answer in note.answers)


#: Modules of formulas that are neither on the walk nor in a note, and why.
NEEDS_NONE = {
    "activity": "diagnostics of networks",
    "checks": "errors",
    "bernoulli": "as the categorical, for bits",
    "beta": "as the Gaussian, for bounded actions",
    "dimensions": "takes distributions apart",
    "squashed": "as the Gaussian, behind a tanh",
    "lstm": "an LSTM",
    "normalization": "running moments",
    "statistics": "of comparisons of runs",
}


def test_every_formula_is_on_the_walk_or_in_a_note_or_needs_none():
    shown = {*anchors(), *((f.__module__, f.__name__) for name in NOTES for f in NOTES[name].formulas)}
    for function in formulas():
        needs_none = set(NEEDS_NONE) & set(function.__module__.split("."))
        assert needs_none or (function.__module__, function.__name__) in shown, function


def test_there_are_seventy_questions():
    assert len(QUESTIONS) == 70
    assert all(question.endswith("?") for question in QUESTIONS.values())


@pytest.mark.skipif(len(NOTES) < 30, reason="not all notes are written")
def test_every_question_is_answered():
    answered = {answer for name in NOTES for answer in NOTES[name].answers}
    assert answered | {"A24"} == set(QUESTIONS)  # A24 is the table of symptoms


@pytest.mark.skipif(len(NOTES) < 30, reason="not all notes are written")
def test_there_are_thirty_notes_and_enough_claims():
    assert [NOTES[name].number for name in NOTES] == list(range(1, 31))
    assert sum(len(NOTES[name].claims()) for name in NOTES) >= 120


def test_an_unknown_note_is_a_key_error():
    with pytest.raises(KeyError, match="nonsense"):
        NOTES["nonsense"]


def test_a_reader_keeps_their_own_random_numbers():
    import random

    import numpy as np
    import torch as th

    note = NOTES["why-min"]
    th.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = th.rand(1).item(), np.random.rand(), random.random()
    th.manual_seed(3), np.random.seed(3), random.seed(3)
    note.run(seed=17)
    assert (th.rand(1).item(), np.random.rand(), random.random()) == expected
