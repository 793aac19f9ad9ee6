"""``notes``: thirty questions, each answered by an experiment that runs on the user's machine."""

import difflib
import inspect
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from sb3_ppo_notes._atomic import write_text
from sb3_ppo_notes.files import usable_processors, write_csv, write_json
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.notes import NOTES, Claim, Note
from sb3_ppo_notes.notes.equations.tree import blocks
from sb3_ppo_notes.notes.pages.notebooks import notebook
from sb3_ppo_notes.notes.pages.searching import question_asked, rank
from sb3_ppo_notes.notes.pages.site import Computed, computed, index_page, report, text_page, walk_pages
from sb3_ppo_notes.persistence import GracefulStop
from sb3_ppo_notes.runs.console import INTERRUPTED, ProgressBar


@dataclass
class Notes:
    """Thirty questions about PPO and A2C, each answered by an experiment.

    As pages, or one of them on the terminal.
    """

    names: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NOTE ...]")]] = ()
    """Notes to be shown on the terminal; none for pages of all of them."""
    search: str | None = None
    """Words in English, Japanese, French or Korean, or a symbol: which notes are about them."""
    list: bool = False
    """Only say which notes there are."""
    run: bool = True
    """Carry out the experiments; without, the pages hold text alone."""
    jobs: int = field(default_factory=lambda: min(2, usable_processors()))
    """Experiments at a time, each in a process of its own."""
    seed: int = 0
    """Of everything random; the claims are tested with 0, 1 and 2."""
    notebooks: bool = False
    """Write a Jupyter notebook of each note, too."""
    outdir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = field(default_factory=lambda: Path("notes"))
    """Where the pages, notes.json and a CSV of each note go."""

    def __call__(self) -> int:
        """Do it.

        :return: 0; 1 if a claim does not hold on this machine or nothing was found; 130 after Ctrl-C, 143 after
            SIGTERM.
        :raises ValueError: for an option out of range or a name that no note has, before anything is written.
        """
        check_integer("jobs", self.jobs, minimum=1)
        check_integer("seed", self.seed, minimum=0)
        for name in self.names:
            if name not in NOTES:
                nearest = difflib.get_close_matches(name, NOTES, n=3, cutoff=0.0)
                raise InvalidValueError(f"names must be notes, got {name!r}; the nearest are {', '.join(nearest)}")
        if self.outdir.exists() and not self.outdir.is_dir():
            raise InvalidValueError(f"outdir must be a folder, got the file {self.outdir}")
        console = Console()
        if self.list:
            return _print_notes(console, [*NOTES])
        if self.search is not None:
            return self._search(console, self.search)
        if self.names:
            return max(_show(console, NOTES[name], self.seed if self.run else None) for name in self.names)
        with GracefulStop(raises=True) as stop:
            try:
                return self._write_all(console)
            except KeyboardInterrupt:
                print("interrupted: pages that are written stay", file=sys.stderr)
                return stop.exit_code or INTERRUPTED

    def _search(self, console: Console, query: str) -> int:
        if not query.strip():
            raise InvalidValueError(f"search must be a word or a symbol, got {query!r}")
        ranked = {name: rank(note, query) for name, note in NOTES.items()}
        found = sorted(
            (importance, NOTES.numbers[name], name) for name, importance in ranked.items() if importance is not None
        )
        if not found:
            console.print(f"no note is about {query!r}; notes --list prints all titles", soft_wrap=True)
            return 1
        for _, number, name in found:
            asked = question_asked(NOTES[name], query)
            line = f"{number:2}  {name:26} {NOTES[name].question}" + (f"  ({asked})" if asked else "")
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(f"to read one: python -m sb3_ppo_notes notes {found[0][2]}", highlight=False, soft_wrap=True)
        return 0

    def _write_all(self, console: Console) -> int:
        results: dict[str, Computed | None] = dict.fromkeys(NOTES)
        self._write_texts(results)
        console.print(f"written: {self.outdir}/index.html and the text of {len(NOTES)} notes", soft_wrap=True)
        for name, page in walk_pages():
            write_text(self.outdir / "walk" / name, page)
        if not self.run:
            return 0
        with ProgressBar(
            len(NOTES), columns=(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        ) as bar:
            for result in self._computed():
                results[result.name] = result
                write_text(self.outdir / f"{result.name}.html", result.page)
                write_csv(self.outdir / f"{result.name}.csv", ("field", "values"), result.rows)
                write_text(self.outdir / "index.html", index_page(results))
                bar.advance(1, description=result.name)
        done = {name: result for name, result in results.items() if result is not None}
        write_json(self.outdir / "notes.json", report(done, self.seed))
        return _summary(console, done, self.outdir)

    def _write_texts(self, results: dict[str, Computed | None]) -> None:
        """What can be read while experiments are still running."""
        (self.outdir / "walk").mkdir(parents=True, exist_ok=True)
        for name, note in NOTES.items():
            write_text(self.outdir / f"{name}.html", text_page(name))
            if self.notebooks:
                write_text(self.outdir / f"{name}.ipynb", notebook(note))
        write_text(self.outdir / "index.html", index_page(results))

    def _computed(self) -> Iterator[Computed]:
        if self.jobs == 1:
            yield from (computed(name, self.seed) for name in NOTES)
            return
        # Fresh processes: a copy of this one would share its threads' locks.
        with ProcessPoolExecutor(self.jobs, multiprocessing.get_context("spawn")) as pool:
            try:
                for future in as_completed([pool.submit(computed, name, self.seed) for name in NOTES]):
                    yield future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _print_notes(console: Console, names: list[str]) -> int:
    for name in names:
        console.print(f"{NOTES.numbers[name]:2}  {name:26} {NOTES[name].question}", highlight=False, soft_wrap=True)
    return 0


def _show(console: Console, note: Note, seed: int | None) -> int:
    """One note on the terminal: answer, equations, numbers, claims."""
    claims = () if seed is None else note.claims(seed)
    result = None if seed is None else note.run(seed)
    console.print(Markdown(f"# {note.question}\n\n{note.answer(result)}"))
    for formula in note.formulas:
        for block in blocks(inspect.getdoc(formula) or ""):
            console.print(
                f"\n    {block.replace(chr(10), chr(10) + '    ')}", highlight=False, markup=False, soft_wrap=True
            )
        console.print(f"    ({formula.__module__}.{formula.__name__})", highlight=False, style="dim", soft_wrap=True)
    console.print()
    for claim in claims:
        _print_claim(console, claim)
    return int(not all(claim.holds for claim in claims))


def _print_claim(console: Console, claim: Claim, where: str = "") -> None:
    mark = "✓" if claim.holds else "✗"
    line = f"{mark} {where}{claim.sentence} {claim.numbers}"
    console.print(line, highlight=False, markup=False, soft_wrap=True, style=None if claim.holds else "red")


def _summary(console: Console, results: dict[str, Computed], outdir: Path) -> int:
    for name, result in results.items():
        marks = (
            "its experiment failed" if result.error else "".join("✓" if claim.holds else "✗" for claim in result.claims)
        )
        console.print(f"{NOTES.numbers[name]:2}  {name:26} {marks}", highlight=False, soft_wrap=True)
    for name, result in results.items():
        for claim in result.claims:
            if not claim.holds:
                _print_claim(console, claim, where=f"{name}: ")
        if result.error:
            line = result.error.strip().splitlines()[-1]
            console.print(f"✗ {name}: the experiment raised {line}", style="red", markup=False, soft_wrap=True)
    console.print(f"written: {outdir}/index.html, notes.json, and a page and a CSV of each note", soft_wrap=True)
    return int(not all(result.holds for result in results.values()))
