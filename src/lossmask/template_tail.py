"""What a template writes behind its loop over the messages, and whether that can vary.

In: the syntax tree of a template. Out: the loops at its outermost level behind which it writes the
same whatever the conversation is: nothing, or the generation prompt where it is asked for. Together
with ``look_ahead`` that proves what a prompt renders to without rendering it.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import nodes

_ASKED = "add_generation_prompt"
_VARYING = frozenset(
    {"messages", "loop", "tools", "documents", "strftime_now", "lipsum", "self"}
)  # `self` holds the blocks, which see whatever the template has set
_OPAQUE = (nodes.Block, nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport, nodes.Macro)
_OF_VALUES = frozenset(
    {
        "capitalize",
        "d",
        "default",
        "join",
        "length",
        "lower",
        "replace",
        "string",
        "title",
        "tojson",
    }
    | {"trim", "upper"}
)  # filters whose result is a value; that of others may be an iterator, which is used up


def loops_with_constant_tail(template: nodes.Template) -> list[nodes.For]:
    """Return the outermost loops behind which a template writes what no conversation changes."""
    outputs = [node for node in template.body if not _writes_nothing(node)]
    return [
        node
        for place, node in enumerate(outputs)
        if isinstance(node, nodes.For)
        and not node.else_
        and _is_constant(outputs[:place], node, outputs[place + 1 :])
    ]


def _is_opaque(node: nodes.Node) -> bool:
    return any(isinstance(each, _OPAQUE) for each in [node, *node.find_all(nodes.Node)])


def _is_random(node: nodes.Node) -> bool:
    return any(each.name == "random" for each in node.find_all(nodes.Filter))


def _is_value(node: nodes.Node) -> bool:
    """Return whether an expression is one that using it does not change.

    What a call returns may be a namespace, a joiner or a cycler, which a loop changes under any
    name that it is given.
    """
    inner = [node, *node.find_all((nodes.Call, nodes.Filter))]
    return all(
        not isinstance(each, nodes.Call)
        and not (isinstance(each, nodes.Filter) and each.name not in _OF_VALUES)
        for each in inner
    )


def _writes_nothing(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Output) and not node.nodes


def _is_constant(head: Sequence[nodes.Node], loop: nodes.For, tail: Sequence[nodes.Node]) -> bool:
    before = [*head, loop]
    if any(_ASKED in _loaded(node) for node in before):
        return False
    if any(_is_opaque(node) or _is_random(node) for node in tail):
        return False
    stored = set[str]().union(*map(_stored, before))
    settled = _settled(head, stored)
    used = set[str]().union(*map(_loaded, tail))
    return not used & _VARYING and not (used & stored) - settled


def _settled(head: Sequence[nodes.Node], stored: set[str]) -> set[str]:
    """Return the variables that are set once, before the loop, to what no conversation changes."""
    settled: set[str] = set()
    seen: list[str] = [name for node in head for name in _stored(node)]
    for node in head:
        if not (isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name)):
            continue
        name, used = node.target.name, _loaded(node.node)
        is_constant = not used & _VARYING and not (used & stored) - settled - {name}
        if is_constant and _is_value(node.node) and seen.count(name) == 1:
            settled.add(name)
    return settled


def _loaded(node: nodes.Node) -> set[str]:
    names = [node] if isinstance(node, nodes.Name) else []
    return {each.name for each in [*names, *node.find_all(nodes.Name)] if each.ctx == "load"}


def _stored(node: nodes.Node) -> list[str]:
    """Return the names a node sets, once for each time it does."""
    found = [node, *node.find_all(nodes.Node)]
    names = [each.name for each in found if isinstance(each, nodes.Name) and each.ctx != "load"]
    names += [each.name for each in found if isinstance(each, (nodes.NSRef, nodes.Macro))]
    return names
