"""The HTML of a report: the page around it, its style, tables and pictures inside the text."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.image import imsave


def png(values: Any) -> str:
    """A matrix of values in [0, 1] as an image of one pixel an entry, in a data URL."""
    buffer = io.BytesIO()
    imsave(buffer, values, cmap=colormaps["Blues"], vmin=0, vmax=1, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def svg(figure: Figure) -> str:
    """A figure as an SVG element that scales with its column."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Identifiers must differ between the figures of one page.
    digest = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="', f'id="{digest}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{digest}-", text)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r' height="[^"]*pt"', "", text, count=1)
    )


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of a heading and rows, each with a name of its own (HTML, as the cells)."""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<div class=scroll><table><tr>{names}</tr>{body}</table></div>"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root {
  color-scheme: light dark; --page: #fff; --ink: #24292f; --soft: #57606a; --line: #d0d7de;
  --faint: #e7ecf1; --box: #f6f8fa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181d; --ink: #dfe5ea; --soft: #9aa5b0; --line: #39424b; --faint: #262d34;
    --box: #1c2229;
  }
  svg, .beta img { background: #fff; }
  svg { padding: 6px; border-radius: 6px; }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 8px 0 4px; overflow-wrap: anywhere; }
h2 {
  font-size: 1.25rem; margin: 40px 0 12px; padding-top: 12px; border-top: 1px solid var(--line);
}
h3 { font-size: 1rem; margin: 24px 0 4px; }
h4 { font-size: .95rem; margin: 16px 0 4px; }
.lead, .note, figcaption { color: var(--soft); }
.note, figcaption { font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td {
  padding: 6px 12px; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap;
}
th:first-child { text-align: left; font-weight: 500; white-space: normal; min-width: 11rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; }
.grid, .cells, .betas { display: grid; gap: 16px 24px; }
.grid { grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); }
.cells { grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
.cells figure { overflow-x: auto; }
.cells figure:only-child { max-width: 760px; }
.cells svg { min-width: 520px; }
.betas { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.beta > div { display: flex; border: 1px solid var(--line); }
.beta .ops { display: flex; flex-direction: column; flex: 0 0 5.2rem; font-size: .75rem; }
.beta .ops span { flex: 1 1 0; min-height: 0; padding: 0 6px; display: flex; align-items: center; }
.beta img { flex: 1 1 0; min-width: 0; height: 100%; image-rendering: pixelated; }
pre { background: var(--box); padding: 12px; font-size: .8rem; overflow-x: auto; }
td:last-child:has(code) { text-align: left; white-space: normal; min-width: 22rem; }
td code { font-size: .75rem; color: var(--soft); overflow-wrap: anywhere; }
.genotype { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; margin-top: 16px; }
@media (max-width: 640px) {
  main { padding: 12px 14px 48px; }
  th, td { padding: 6px 8px; }
}
"""
