"""The walk shows every line of its files once, links to what is there, and loses nothing of a docstring."""

import inspect
import io
import re
import tokenize
from html.parser import HTMLParser

import pytest

from sb3_ppo_notes.formulas import objectives
from sb3_ppo_notes.notes.pages import sections, walk_pages
from sb3_ppo_notes.notes.pages.docstrings import Parameter, block_html, inline, parsed
from sb3_ppo_notes.notes.pages.walk import BESIDE, STATIONS

MODULES = [f"sb3_ppo_notes.{module}" for station in STATIONS for module in station.modules]
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def tokens(text):
    """Strings of a text's tokens, docstrings aside."""
    stream, before = [], tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_docstring = token.type == tokenize.STRING and before in {*LAYOUT, tokenize.COMMENT} and '"""' in token.string
        if token.type not in LAYOUT and not is_docstring:
            stream.append(token.string)
        before = token.type
    return stream


@pytest.mark.parametrize("module", MODULES)
def test_sections_hold_the_whole_file_in_its_order_and_once(module):
    source = sections.source_of(module)
    numbers = [number for section in sections.sections_of(module) for number in section.lines]
    assert numbers == sorted(set(numbers))
    lines = source.text.splitlines()
    assert tokens("\n".join(lines[number - 1] for number in numbers) + "\n") == tokens(source.text)


def test_a_section_is_a_function_a_method_or_a_class_with_its_docstring():
    (section,) = (s for s in sections.sections_of("sb3_ppo_notes.formulas.objectives") if s.name == "clipped_surrogate")
    assert section.docstring == inspect.getdoc(objectives.clipped_surrogate)
    first = sections.source_of(section.module).text.splitlines()[section.lines[0] - 1]
    assert first.startswith("def clipped_surrogate(")
    names = [s.name for s in sections.sections_of("sb3_ppo_notes.algorithms.update")]
    assert names[:4] == ["", "Update", "Update.__init__", "Update.run"]


class Text(HTMLParser):
    """The text of the code of a page, line numbers aside, and its ids and links."""

    def __init__(self, page):
        super().__init__()
        self.code, self.ids, self.links, self._depth, self._number = [], [], [], 0, False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if tag == "a" else []
        self._depth += tag == "pre" and attributes.get("class") == "code"
        self._number = tag == "span" and attributes.get("class") == "n"

    def handle_endtag(self, tag):
        self._depth -= tag == "pre" and self._depth > 0
        self._number = False

    def handle_data(self, data):
        if self._depth and not self._number:
            self.code.append(data)


@pytest.fixture(scope="module")
def pages():
    links = walk_pages.Links(walk_pages.anchors(), {}, {})
    made = {
        walk_pages.page_of(station): "".join(walk_pages.station_body(station, links, lambda line: None))
        for station in STATIONS
    }
    return {name: Text(page) for name, page in (made | {"index.html": "".join(walk_pages.index_body(links))}).items()}


def test_the_code_of_a_page_is_the_code_of_its_files_to_the_letter(pages):
    for station in STATIONS:
        expected = []
        for module in station.modules:
            lines = sections.source_of(f"sb3_ppo_notes.{module}").text.splitlines()
            expected += [lines[n - 1] for s in sections.sections_of(f"sb3_ppo_notes.{module}") for n in s.lines]
        shown = "".join(pages[walk_pages.page_of(station)].code)
        assert shown.replace("\n", "") == "".join(expected), station.name


def test_every_link_of_the_walk_arrives(pages):
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), name
        for link in page.links:
            target, _, anchor = link.partition("#")
            assert (target or name) in pages, f"{name}: {link}"
            assert not anchor or anchor in pages[target or name].ids, f"{name}: {link}"
    assert sum(len(page.links) for page in pages.values()) > 500


def test_names_in_the_code_lead_to_what_they_name():
    targets = {r.target for r in sections.references_in("sb3_ppo_notes.rules.objectives")}
    assert ("sb3_ppo_notes.formulas.objectives", "clipped_surrogate") in targets
    own = {r.target for r in sections.references_in("sb3_ppo_notes.algorithms.update")}
    assert ("sb3_ppo_notes.algorithms.update", "Update._learn_epoch") in own


def test_a_reference_stands_where_its_name_does():
    for module in MODULES:
        lines = sections.source_of(module).text.splitlines()
        for reference in sections.references_in(module):
            name = lines[reference.line - 1][reference.column : reference.column + reference.length]
            assert re.fullmatch(r"\w+", name), f"{module}:{reference}"


def test_callers_are_those_that_name_a_function():
    places = sections.callers()[("sb3_ppo_notes.formulas.objectives", "clipped_surrogate")]
    assert ("sb3_ppo_notes.rules.objectives", "ClippedSurrogate.objective") in places


def test_every_room_is_on_the_walk_or_said_to_be_beside_it():
    rooms = {module.split(".")[1] for module in MODULES} | set(BESIDE)
    folders = {path.name for path in sections.PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders - rooms <= {"notes"}


def test_a_docstring_keeps_all_its_parts():
    docstring = parsed(inspect.getdoc(objectives.clipped_surrogate))
    assert docstring.heading.startswith("PPO's objective")
    assert docstring.parameters[0] == Parameter("ratio", "``[N]``", "ρ", "dimensionless")
    assert docstring.parameters[-1].name == "return"
    assert docstring.errors == (("ValueError", "if the shapes differ."),)
    assert docstring.example.startswith(">>> ratio")
    assert docstring.example.endswith("[0.5, 1.25, -0.75, -1.5]")


@pytest.mark.parametrize("module", MODULES)
def test_no_word_of_a_docstring_is_lost(module):
    for section in sections.sections_of(module):
        shown = "".join(walk_pages.docstring_html(parsed(section.docstring), lambda line: None))
        text = re.sub(r"<[^>]+>", " ", shown)
        for word in re.findall(
            r"[A-Za-z]{4,}", re.sub(r":\w+:`[^`]*`|:(param|return|raises)\b", "", section.docstring)
        ):
            assert word in text, f"{section.module}.{section.name}: {word}"


def test_blocks_of_a_docstring():
    assert (
        block_html("    a = b", lambda line: f"<math>{line}</math>") == '<div class="equation"><math>a = b</math></div>'
    )
    assert block_html("    a = b", lambda line: None) == '<pre class="equation">a = b</pre>'
    assert block_html("- one\n- two", lambda line: None) == "<ul><li>one</li><li>two</li></ul>"
    assert block_html("Source: X.\nDeviation: Y.", lambda line: None).count("<p ") == 2
    table = "    ====  ====\n    a     b\n    ====  ====\n    1     2\n    ====  ===="
    assert block_html(table, lambda line: None).count("<td>") == 2
    assert inline("a*b*c") == "a*b*c"
