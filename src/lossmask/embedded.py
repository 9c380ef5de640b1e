"""Where the model and the conversations that come with lossmask lie."""

from __future__ import annotations

from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"

DEMO_MODEL = _ASSETS / "demo"
"""Folder of a small causal model with its own byte-level BPE tokenizer and ChatML template."""

DEMO_CONVERSATIONS = _ASSETS / "demo_conversations.jsonl"
"""Conversations to fine-tune it on."""

DEMO_HELDOUT = _ASSETS / "demo_heldout.jsonl"
"""Conversations of the same kind, none of them among the former."""
