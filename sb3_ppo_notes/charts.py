"""The colours of all pictures, and a picture as part of a page."""

import io
import re
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart by the colour-blind too.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
#: Stands for the page's own ink, black on a light page and white on a dark one, where a page puts it in its place.
INK = "#1c1f23"
# Text stays text: sharp at every size, found by the browser's search, and read aloud.
SVG_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "comparison", "font.family": "sans-serif"}


def svg(figure: Figure, name: str, described: str, kind: str) -> str:
    """A figure as an element of a page.

    :param figure: the figure.
    :param name: unique in the page; begins every id.
    :param described: what is to be seen, for those who do not see it.
    :param kind: ``"broad"`` or ``"narrow"``: on which pages it is seen.
    :return: one ``svg`` element that is as wide as its place and refers to nothing outside of the page.
    """
    stream = io.StringIO()
    with matplotlib.rc_context(SVG_SETTINGS):
        FigureCanvasSVG(figure)
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    # Within HTML an svg element needs neither prologue nor name spaces.
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    size = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg {size.group() if size else ""} class="plot {kind}" role="img" aria-label="{described}">'
    return head + text[text.index(">") + 1 :].strip()
