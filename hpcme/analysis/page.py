"""Pieces of a self-contained HTML page: text, tables, figures as data, and the page around them.

The page loads nothing: no scripts, no fonts, no files, no addresses; its own policy (Content-Security-Policy) forbids
it.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #1c2330; font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 0 1rem 3rem; }
header { background: #12324f; color: #fff; padding: 1.4rem 1rem; }
header > div { max-width: 1148px; margin: 0 auto; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
header p { margin: .4rem 0 0; color: #d6e2ee; overflow-wrap: anywhere; }
nav { margin-top: .8rem; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; }
nav a { color: #fff; }
section { background: #fff; border: 1px solid #dde1e7; border-radius: 8px; padding: 1rem 1.2rem; margin-top: 1.1rem; }
h2 { margin: 0 0 .5rem; font-size: 1.25rem; }
h3 { margin: 1rem 0 .3rem; font-size: 1rem; }
p { margin: .5rem 0; max-width: 75ch; overflow-wrap: anywhere; }
ul.facts { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap; gap: .6rem; }
ul.facts li { flex: 1 1 140px; background: #f4f7fa; border-left: 4px solid #0072B2; padding: .45rem .7rem; }
ul.facts b { display: block; font-size: 1.15rem; overflow-wrap: anywhere; }
ul.facts span { color: #4b5768; font-size: .85rem; }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(2, minmax(0, 1fr)); }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .88rem; color: #3d4858; }
.scroll { overflow-x: auto; max-width: 100%; margin-top: .6rem; }
.scroll.tall { max-height: 24rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #3d4858; font-size: .88rem; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e4e8ed; text-align: right; white-space: nowrap; }
th { background: #eef2f6; position: sticky; top: 0; }
td.text, th.text { text-align: left; }
table.wrap td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.wrap td:first-child { white-space: nowrap; }
pre { background: #f4f7fa; border: 1px solid #dde1e7; border-radius: 4px; padding: .6rem .8rem; overflow-x: auto;
  font-size: .85rem; line-height: 1.4; max-height: 28rem; }
pre code { font-size: inherit; }
summary { cursor: pointer; font-weight: 600; margin-top: .8rem; }
.warn { background: #fff4e5; border-left: 4px solid #D55E00; padding: .5rem .8rem; }
@media (max-width: 760px) {
  .figures { grid-template-columns: minmax(0, 1fr); }
  main { padding: 0 .5rem 2rem; }
  section { padding: .8rem .7rem 1rem; }
  h1 { font-size: 1.35rem; }
}
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; } pre { max-height: none; } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def text(words: Any) -> str:
    """Words as HTML text."""
    return html.escape(str(words), quote=True)


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph of plain words."""
    return f"<p{f' class={kind}' if kind else ''}>{text(words)}</p>"


def code(words: str) -> str:
    """A block of code."""
    return f"<pre><code>{text(words)}</code></pre>"


def folded(title: str, content: str, opened: bool = False) -> str:
    """Content that is shown on request."""
    return f"<details{' open' if opened else ''}><summary>{text(title)}</summary>{content}</details>"


def facts(items: Iterable[tuple[str, str]]) -> str:
    """Key figures: (what, value)."""
    return (
        '<ul class="facts">'
        + "".join(f"<li><b>{text(value)}</b><span>{text(what)}</span></li>" for what, value in items)
        + "</ul>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", kind: str = "") -> str:
    """A table that scrolls in its own box; numbers stand to the right. kind: "wrap" breaks long cells, "tall" scrolls
    down too."""
    left = [any(isinstance(row[i], str) and not _numeric(row[i]) for row in rows) for i in range(len(header))]
    mark = [' class="text"' if is_left else "" for is_left in left]
    head = "".join(f'<th scope="col"{m}>{text(name)}</th>' for name, m in zip(header, mark, strict=True))
    lines = ("".join(f"<td{m}>{text(cell)}</td>" for cell, m in zip(row, mark, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    wrap = ' class="wrap"' if kind == "wrap" else ""
    box = "scroll tall" if kind == "tall" else "scroll"
    content = f"{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="{box}" tabindex="0"><table{wrap}>{content}</table></div>'


def _numeric(cell: str) -> bool:
    return bool(cell) and (cell[0].isdigit() or cell[0] in "-+.<") and not any(letter in cell for letter in ":_")


def picture(figure, caption: str) -> str:
    """A matplotlib figure as data within the page; the caption stands below and is what a screen reader says."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=170)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def pictures(parts: Iterable[str]) -> str:
    """Pictures side by side, below each other in a narrow window."""
    return f'<div class="figures">{"".join(parts)}</div>'


def page(title: str, lines: Sequence[str], sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page: a title, lines below it, and sections (short name, heading, content)."""
    links = "".join(f'<a href="#{text(name)}">{text(heading)}</a>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{text(name)}"><h2>{text(heading)}</h2>{content}</section>' for name, heading, content in sections
    )
    below = "".join(f"<p>{text(line)}</p>" for line in lines)
    top = f"<header><div><h1>{text(title)}</h1>{below}<nav>{links}</nav></div></header>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{top}<main>{body}</main></body></html>\n"
    )
