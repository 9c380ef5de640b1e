"""Data and assets -> one HTML page that needs nothing else and runs nothing else.

In: plain data, names of files in ``assets/web``. Out: the page. Data is JSON in a script element
that no browser runs, with every character escaped that could end it; scripts put it into the page
as text nodes only. The content security policy allows the page's own scripts and styles, by their
hash, and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

__all__ = ["html_page", "json_for_html"]

_ESCAPED = re.compile("[<>&\x7f\u2028\u2029\ud800-\udfff]")  # half a character is no UTF-8


def html_page(
    title: str,
    data: Mapping[str, Any],
    *,
    scripts: Sequence[str],
    styles: Sequence[str],
    connects: bool = False,
) -> str:
    """Return a self-contained page.

    Its body is an empty ``<div id="app">``; scripts read the data by ``lossmask.data()``.

    Args:
        title: Of the page; any text.
        data: Any JSON values, strings of any kind in them.
        scripts: Files of ``assets/web``, run in this order behind ``page.js``.
        styles: Files of ``assets/web``, behind ``page.css``.
        connects: Whether its scripts may talk to the server that the page came from.
    """
    sources = [_asset(name) for name in ("page.js", *scripts)]
    sheets = [_asset(name) for name in ("page.css", *styles)]
    policy = {
        "default-src": ["'none'"],
        "script-src": [_hash(source) for source in sources],
        "style-src": [_hash(sheet) for sheet in sheets],
        "img-src": ["data:"],  # the icon, which browsers would ask a server for
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    if connects:
        policy["connect-src"] = ["'self'"]
    rules = "; ".join(f"{name} {' '.join(values)}" for name, values in policy.items())
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{rules}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            *(f"<style>{sheet}</style>" for sheet in sheets),
            '</head>\n<body>\n<div id="app"></div>',
            "<noscript>This page draws itself with JavaScript, which is switched off.</noscript>",
            f'<script type="application/json" id="data">{json_for_html(data)}</script>',
            *(f"<script>{source}</script>" for source in sources),
            "</body>\n</html>\n",
        ]
    )


def json_for_html(data: Any) -> str:
    r"""Return JSON that can stand in a script element: nothing in it ends or begins a tag.

    Example:
        >>> json_for_html({"text": "</script><!--"})
        '{"text":"\\u003c/script\\u003e\\u003c!--"}'
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # these characters stand in strings only, where JSON allows the escape
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _asset(name: str) -> str:
    return (files("lossmask") / "assets" / "web" / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
