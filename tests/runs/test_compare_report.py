"""``report.html`` in a real browser, and what may be in it at all."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from sb3_ppo_notes.runs.compare import verdict as compare_verdict
from sb3_ppo_notes.runs.compare.output import write_files
from tests.runs.test_compare_verdict import FAILED, LONG, SCATTER, SHUFFLED, TASKS, outcome_of

# A browser is started for most of these.
pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (apt-get install chromium)")

MEASURE = """<script>
const seen = [...document.querySelectorAll("svg")].filter(plot => getComputedStyle(plot).display !== "none");
const plots = seen.map(plot => {
  const place = plot.getBoundingClientRect(), drawn = plot.getBBox();
  return {name: plot.getAttribute("aria-label"), width: place.width, height: place.height,
          drawn: Math.min(drawn.width, drawn.height), scale: plot.getScreenCTM().a,
          words: [...plot.querySelectorAll("text")].filter(text => text.getBoundingClientRect().width > 0).length};
});
const found = {plots, words: document.body.innerText, wide: document.documentElement.scrollWidth,
               loaded: performance.getEntriesByType("resource").map(entry => entry.name)};
const result = document.createElement("pre");
result.id = "measured";
result.textContent = JSON.stringify(found);
document.body.append(result);
</script>"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report with everything in it: a verdict of each kind, failed runs, an A/A check, a name that wants escaping."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_verdict, "RESAMPLES", 2000)
        arms = {"base": 0.9 + SCATTER, "same": 0.9 + SCATTER, LONG: 0.7 + SHUFFLED, "a<b>:x=$1,y=$2": 1.1 + SHUFFLED}
        outcome = outcome_of(arms, a_a=True, change={(LONG, "Pendulum-v1", seed): FAILED for seed in (0, 1)})
        folder = tmp_path_factory.mktemp("report")
        write_files(outcome, folder)
    return outcome, folder


@pytest.fixture(scope="module")
def page(made):
    return (made[1] / "report.html").read_text()


def browse(path, width=1000):
    """Open a page; what it measured of itself, and what the browser said."""
    switches = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--enable-logging=stderr",
    ]
    size = f"--window-size={width},900"
    command = [CHROMIUM, *switches, size, "--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    measured = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, flags=re.S)
    unescaped = measured and measured.group(1).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
    return done.stdout, console, json.loads(unescaped) if unescaped else None


@needs_chromium
def test_the_browser_has_nothing_to_complain_of(made):
    dom, console, _ = browse(made[1] / "report.html")
    assert console == []
    assert "as good: identical, bit for bit, on all 10 seeds of 2 tasks" in dom


@needs_chromium
def test_the_browser_would_complain_of_a_request(page, tmp_path):
    (tmp_path / "bad.html").write_text(page.replace("</body>", '<img src="http://localhost:9/x.png"></body>'))
    _, console, _ = browse(tmp_path / "bad.html")
    assert len(console) == 1
    assert "violates the following Content Security Policy" in console[0]


@needs_chromium
@pytest.mark.parametrize("width", [1200, 760, 500])
def test_every_plot_is_seen_and_nothing_is_loaded(made, page, width, tmp_path):
    # The page forbids scripts; the copy that measures itself has to allow its own.
    allowed = page.replace("style-src 'unsafe-inline'", "style-src 'unsafe-inline'; script-src 'unsafe-inline'")
    (tmp_path / "measured.html").write_text(allowed.replace("</body>", MEASURE + "</body>"))
    _, console, measured = browse(tmp_path / "measured.html", width)
    assert console == []
    assert measured["loaded"] == []
    names = [plot["name"] for plot in measured["plots"]]
    assert names == [
        "intervals of the verdict",
        "learning curves",
        "final return of every run",
        "performance profile",
        "diagnostics of CartPole-v1",
        "diagnostics of Pendulum-v1",
        "environment steps per second",
    ]
    for plot in measured["plots"]:
        assert min(plot["width"], plot["height"], plot["drawn"]) > 50, plot
        assert plot["width"] <= width
        # Letters are 9 to 12 units high, on a telephone too.
        assert plot["scale"] > 0.9, plot
        assert plot["words"] >= 5, plot
    assert measured["wide"] <= width
    for judgement in made[0].judgements:
        assert judgement.headline in measured["words"]
        assert judgement.meaning[0] in measured["words"]
    assert "A/A check" in measured["words"]


@needs_chromium
def test_a_screenshot_is_no_blank_page(made, tmp_path):
    import matplotlib.image

    path = tmp_path / "shot.png"
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,5000"]
    command = [CHROMIUM, *switches, f"--screenshot={path}", (made[1] / "report.html").as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    image = matplotlib.image.imread(path)
    assert image.shape[:2] == (5000, 1000)
    # Everywhere down the page there is something to be seen, and plots have colours.
    assert all(np.ptp(part[..., :3]) > 0.5 for part in np.array_split(image[:4000], 10))
    colourful = np.ptp(image[..., :3], axis=-1) > 0.3
    assert colourful.mean() > 0.003


def test_the_page_refers_to_nothing_outside(page):
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"@import|<script|<link|<iframe|<img|<object|<embed|\bsrc=", page)
    assert {target[0] for target in re.findall(r'href="([^"]*)"', page)} <= {"#"}
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#{name}" for name in re.findall(r'id="([^"]*)"', page)}
    assert "default-src 'none'" in page


def test_every_id_is_one_plots_own(page):
    by_plot = [set(re.findall(r'\bid="([^"]*)"', plot)) for plot in re.findall(r"<svg.*?</svg>", page, flags=re.S)]
    assert len(by_plot) == 2 * 7  # for broad pages and for narrow ones
    assert len(set.union(*by_plot)) == sum(map(len, by_plot))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set.union(*by_plot)


def test_every_tag_is_closed_and_names_are_escaped(page):
    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open_tags = []

        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "wbr"):
                self.open_tags.append(tag)

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

    balance = Balance()
    balance.feed(page)
    assert balance.open_tags == []
    assert "<b>:x" not in page
    assert "a&lt;b&gt;:x=$1" in page
    assert "the &lt;roof&gt; is on fire" in page
    assert "a &lt;machine&gt;" in page


def test_the_page_says_what_a_newcomer_needs(made, page):
    outcome, _ = made
    text = re.sub(r"<svg.*?</svg>|<[^>]*>", "", page, flags=re.S)
    for words in (
        "base is PPO of stable_baselines3, the baseline; same is PPO of stable_baselines3;",
        "4 algorithms trained on CartPole-v1 (4,000 steps), Pendulum-v1 (4,000 steps) with 10 seeds each",
        "better (preliminary)",
        "worse (preliminary)",
        "below 20 seeds the intervals cover about 93 % instead of 95 %",
        "0 plays like a random policy, 1 like the reference",
        "Runs that failed, each counted as a random policy",
        "The rule was fixed before anything was measured",
        outcome.about["command"],
        "stable_baselines3",
        "n_steps",
        "times as fast as base",
        "by processor time",
        "all runs together",
        "Each verdict stands for itself",
    ):
        assert words in text, words


def test_the_same_results_make_the_same_page(made, page, tmp_path):
    outcome, _ = made
    write_files(outcome, tmp_path)
    assert (tmp_path / "report.html").read_text() == page


def test_two_seeds_and_one_task_make_a_page_too(tmp_path):
    task = {"Pendulum-v1": TASKS["Pendulum-v1"]}
    failed = {("new", "Pendulum-v1", seed): FAILED for seed in range(2)}
    write_files(outcome_of({"base": 0.5, "new": 0.5}, tasks=task, seeds=2, change=failed), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "no verdict" in page
    assert "too few runs" in page
    assert 'id="verdict-' not in page
