"""What the command starts before it knows what it is to do."""

from __future__ import annotations

import sys

import pytest

from lossmask import cli, inherited_encoder


@pytest.mark.parametrize(
    ("words", "starts", "without_torch"),
    [
        (["prepare", "chats.jsonl"], True, True),
        (["audit", "chats.jsonl"], True, True),
        (["prepare", "--help"], False, True),
        (["show", "chats.jsonl"], False, True),
        (["train", "prepared"], False, False),
        (["--version"], False, False),
        (["no-such-command"], False, False),
    ],
)
def test_commands_with_workers_start_their_server_at_once(
    monkeypatch: pytest.MonkeyPatch, words: list[str], starts: bool, without_torch: bool
) -> None:
    done: list[str] = []
    monkeypatch.setattr(inherited_encoder, "_without_torch", False)
    monkeypatch.setattr(cli, "start_ahead", lambda: done.append("server"))
    monkeypatch.setattr(cli, "main", lambda: done.append("command"))
    monkeypatch.setattr(sys, "argv", ["lossmask", *words])
    cli.run()
    assert done == (["server", "command"] if starts else ["command"])
    assert inherited_encoder.is_torch_left_out() is without_torch
