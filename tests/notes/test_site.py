"""The pages in a real browser, without a network and without scripts, and what may be in them at all."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from sb3_ppo_notes.notes import NOTES, PARTS
from sb3_ppo_notes.notes.pages.glossary import TERMS
from sb3_ppo_notes.notes.pages.searching import folded, question_asked
from sb3_ppo_notes.notes.pages.site import computed, index_page, text_page, walk_pages
from tests.notes.test_notes import HANGUL

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (apt-get install chromium)")
OFFLINE = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--disable-background-networking"]
OFFLINE += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000"]
MEASURE = """<script>
const sizes = elements => [...elements].map(element => Math.min(element.getBoundingClientRect().width,
                                                                element.getBoundingClientRect().height));
const seen = [...document.querySelectorAll("svg.plot")].filter(plot => plot.getBoundingClientRect().width > 0);
const result = document.createElement("pre");
result.id = "measured";
result.textContent = JSON.stringify({math: sizes(document.querySelectorAll("math")), plots: sizes(seen),
  wide: document.body.scrollWidth,
  loaded: performance.getEntriesByType("resource").map(entry => entry.name)});
document.body.append(result);
</script>"""
#: Most bytes of everything that the command writes.
LARGEST_SITE = 4_000_000


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One note and the index."""
    folder = tmp_path_factory.mktemp("site")
    result = computed("why-min", 0)
    (folder / "why-min.html").write_text(result.page)
    for name in NOTES:
        if name != "why-min":
            (folder / f"{name}.html").write_text(text_page(name))
    (folder / "index.html").write_text(index_page({"why-min": result}))
    (folder / "walk").mkdir()
    for name, page in walk_pages():
        (folder / "walk" / name).write_text(page)
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Everything that the command writes, with one experiment at a time."""
    from sb3_ppo_notes.__main__ import main

    folder = tmp_path_factory.mktemp("whole")
    assert main(["notes", "--outdir", str(folder), "--jobs", "1"]) == 0
    return folder


def browse(path, *switches, width=1000):
    command = [CHROMIUM, *OFFLINE, *switches, f"--window-size={width},900", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    measured = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, flags=re.S)
    return done.stdout, console, json.loads(measured[1]) if measured else None


def measured(path, folder, width):
    """The page measures itself: a copy that allows the script that does."""
    page = re.sub(r"script-src 'sha256-[^']*'", "", path.read_text())
    page = page.replace("style-src 'unsafe-inline'", "style-src 'unsafe-inline'; script-src 'unsafe-inline'")
    # A window of headless Chromium is 500 wide at least; the body may be narrower, and no rule here asks for the window.
    narrow = f"<style>body {{ max-width: {width}px; margin: 0; }}</style>"
    (folder / path.name).write_text(page.replace("</body>", narrow + MEASURE + "</body>"))
    _, console, sizes = browse(folder / path.name, width=max(width, 500))
    assert console == []
    return sizes


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("page", ["why-min", "index"])
def test_the_browser_has_nothing_to_complain_of(small, page):
    dom, console, _ = browse(small / f"{page}.html")
    assert console == []
    assert "Why the minimum?" in dom
    # The script, which its hash allows, has shown the search.
    assert "<p hidden" not in dom


@pytest.mark.slow
@needs_chromium
def test_without_scripts_all_is_there_but_the_search(small, tmp_path):
    """Only the index has a script; here its page forbids it, too."""
    page, number = re.subn(r"; script-src 'sha256-[^']*'", "", (small / "index.html").read_text())
    assert number == 1
    (tmp_path / "index.html").write_text(page)
    dom, console, _ = browse(tmp_path / "index.html")
    assert len(console) == 1
    assert "violates the following Content Security Policy" in console[0]
    assert "<p hidden" in dom
    assert "Why the minimum?" in dom
    assert "script-src" not in (small / "why-min.html").read_text()


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [360, 1200])
def test_equations_and_pictures_are_seen_and_nothing_is_loaded(small, width, tmp_path):
    sizes = measured(small / "why-min.html", tmp_path, width)
    assert len(sizes["math"]) >= 2
    assert min(sizes["math"]) > 10
    assert len(sizes["plots"]) == 2  # the picture, and one of the slider's seven
    assert min(sizes["plots"]) > 100
    assert sizes["loaded"] == []
    assert sizes["wide"] <= width


def test_no_rule_asks_how_broad_the_window_is(small):
    assert "width:" not in "".join(re.findall(r"@media[^{]*", (small / "why-min.html").read_text()))


@pytest.mark.slow
@needs_chromium
def test_typing_hides_what_does_not_fit(small, tmp_path):
    typed = """<script>field.value = "클리핑 범위"; field.dispatchEvent(new Event("input"));</script></body>"""
    page = re.sub(r"script-src 'sha256-[^']*'", "script-src 'unsafe-inline'", (small / "index.html").read_text())
    (tmp_path / "index.html").write_text(page.replace("</body>", typed))
    dom, console, _ = browse(tmp_path / "index.html")
    assert console == []
    shown = re.findall(r'<li data-words="[^"]*">(\d+)\.', dom)
    assert shown == ["13"]


@pytest.mark.slow
@needs_chromium
def test_every_page_of_the_site_is_seen(whole, tmp_path):
    for path in sorted(whole.rglob("*.html")):
        sizes = measured(path, tmp_path, 360)
        assert sizes["loaded"] == []
        assert sizes["wide"] <= 360, path.name
        assert all(size > 5 for size in [*sizes["math"], *sizes["plots"]]), path.name


@pytest.mark.slow
def test_the_site_is_small(whole):
    assert sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()) < LARGEST_SITE


class Links(HTMLParser):
    """Ids and what is referred to."""

    def __init__(self):
        super().__init__()
        self.ids, self.references, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.references += [attributes[name] for name in ("href", "src", "xlink:href") if name in attributes]
        assert tag not in ("img", "link", "iframe", "object", "embed", "video", "form"), tag
        assert not [name for name in attributes if name.startswith("on")], attributes


def links_of(path):
    parser = Links()
    parser.feed(path.read_text())
    return parser


def test_every_link_leads_somewhere(small):
    pages = {path: links_of(path) for path in small.rglob("*.html")}
    for path, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), path.name
        for reference in page.references:
            assert not reference.startswith(("http", "//")), f"{path.name}: {reference}"
            address, _, anchor = reference.partition("#")
            target = (path.parent / address).resolve() if address else path
            assert target in pages, f"{path.name}: {reference}"
            assert not anchor or anchor in pages[target].ids, f"{path.name}: {reference}"


def test_the_browser_is_told_to_load_nothing(small):
    for path in small.rglob("*.html"):
        page = path.read_text()
        assert "default-src 'none'" in page
        assert page.count("<script>") == (path == small / "index.html")
        assert "@import" not in "".join(re.findall(r"<style.*?</style>", page, flags=re.S))


def test_prose_is_text_and_no_html(small):
    from sb3_ppo_notes.notes.pages.rendering import markdown

    assert "<script" not in markdown("a <script>alert(1)</script> b")


def test_the_glossary_has_four_languages():
    assert 55 <= len(TERMS) <= 75
    assert len({term.en for term in TERMS}) == len(TERMS)
    for term in TERMS:
        assert all((term.en, term.ja, term.fr, term.ko))
        assert HANGUL.search(term.ko) or term.en == "Adam", term
        assert re.search("[\u3040-\u30ff\u4e00-\u9fff]", term.ja) or term.en == "Adam", term
    assert [term.en.casefold() for term in TERMS] == sorted(term.en.casefold() for term in TERMS)


@pytest.mark.skipif(len(NOTES) < 30, reason="not all notes are written")
def test_every_term_leads_to_a_note():
    assert {term.note for term in TERMS} <= set(NOTES)
    assert len({term.note for term in TERMS}) >= 24


def test_parts_follow_each_other_and_each_has_notes():
    assert list(NOTES.numbers.values()) == list(range(1, 31))
    assert list(dict.fromkeys(NOTES.parts.values())) == list(PARTS.values())


def test_a_search_answers_with_the_question_that_was_meant():
    assert (
        question_asked(NOTES["other-brakes"], "learning rate scheduler")
        == "What does the learning-rate scheduler follow?"
    )
    assert question_asked(NOTES["other-brakes"], "zebra") == ""
    assert folded("Normalize, sizes") == folded("normalise, sizes")
