"""Strings that become script, markup or style where a page takes them for more than text.

Each that runs sets a global, ``CANARY``.
"""

from __future__ import annotations

CANARY = "injected"
_RUN = f"window.{CANARY}=1"

INJECTIONS = (
    f"<script>{_RUN}</script>",
    f"</script><script>{_RUN}</script>",
    f"<!--<script>{_RUN}//",
    f'<img src=x onerror="{_RUN}">',
    f"<svg/onload={_RUN}>",
    f"javascript:{_RUN}",
    f"a\u2028{_RUN}\u2029b",
    f"]]><script>{_RUN}</script>",
    f"{{{{{_RUN}}}}} ${{{_RUN}}} <%={_RUN}%>",
    f"\"'><body onload={_RUN}>",
    f"' onmouseover='{_RUN}' x='",
    f'" autofocus onfocus="{_RUN}" tabindex=1 "',
    f"</title></style></textarea><script>{_RUN}</script>",
    "}*{display:none!important}/*",
    "__proto__ constructor",
    f"\\u003cscript\\u003e{_RUN}\\u003c/script\\u003e",
    f"&lt;script&gt;{_RUN}&lt;/script&gt;",
)
