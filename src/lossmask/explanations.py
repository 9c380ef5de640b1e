"""One line for every finding and for every reason of a refusal, for people."""

from __future__ import annotations

FINDINGS = {
    "no_stop_token": "no known stop token ends the turn; is there one to name with --stop?",
    "stop_appended": "the template ends the turn without a stop token; one is appended",
    "generation_prompt_mismatch": "the finished turn repeats only a part of the generation prompt",
    "header_respelled": "the finished turn spells its header unlike the generation prompt",
    "context_differs": "the example is the prompt as inference sees it, then the completion",
    "boundary_straddle": "a token spans the end of the prompt (see --boundary)",
    "unknown_token": "the tokenizer has no token for some text: its unknown token is trained",
    "content_dropped": "the template left out text of an assistant message: not trained",
    "arguments_torn": "the template tears the JSON string of tool arguments apart: not trained",
    "nothing_generated": "the template writes nothing for an assistant message: not trained",
    "no_prompt": "no prompt leads to an assistant message: not trained",
    "reasoning_dropped": "the template left out the reasoning: the answer is trained without it",
    "history_rewritten": "the template shows an earlier turn unlike it was generated (--history)",
    "system_dropped": "the template left out text of a system message",
    "message_dropped": "the template left out text of a message that is context",
    "tool_calls_dropped": "the template left out a tool call that is context",
    "tools_dropped": "the template does not show the tools",
    "part_dropped": "the template left out a content part that is not text",
    "key_dropped": "the template does not show other keys of a message (often meant to be so)",
    "text_trimmed": "the template cut white space off the ends of a text",
    "text_altered": "the template changed a text beyond cutting its ends",
}
"""Kind of a finding -> what it means."""

REASONS = {
    "broken_json": "the line is not JSON",
    "bad_input": "the row is not what it should be",
    "missing_key": "a key is missing",
    "unknown_role": "a message has a role that is not known",
    "empty_conversation": "the row holds no messages",
    "no_assistant": "no message is an assistant's",
    "nothing_to_train": "every assistant message has weight 0",
    "bad_conversation": "a message is not what it should be",
    "bad_tool_call": "a tool call is not what it should be",
    "lone_surrogate": "the text holds half a character",
    "control_token_in_content": "a message holds a control token as text: clean it, or "
    "--control-tokens escape",
    "cannot_escape": "a message holds a control token, and the tokenizer cannot be copied exactly",
    "template_error": "the template raised",
    "template_limits": "the template took too much time or memory",
    "cannot_trace": "who wrote which character cannot be told",
    "derivations_disagree": "two independent derivations of who wrote what disagree",
    "prompt_differs": "what precedes the answer is not what the prompt ends with",
    "foreign_text": "text of another message lies inside the completion",
    "stop_inside": "a stop token stands before the answer ends: inference would stop there",
    "unclosed_think": "the prompt opens a think block that the message never closes: give the data "
    "reasoning, or turn thinking off with --template-var",
    "content_dropped": "the template left out the text of every answer",
    "nothing_generated": "the template writes nothing for any answer",
    "no_prompt": "no prompt leads to any answer",
    "arguments_torn": "the template tears the JSON strings of tool arguments apart: give objects",
    "boundary_inside_token": "the prompt ends inside a token, and nothing spells the rest",
    "boundary_straddle": "a token spans the end of the prompt, and --boundary is error",
    "stop_not_a_token": "the stop text does not come out of the tokenizer as the stop token",
    "unusable_offsets": "the tokenizer changes the text so that tokens cannot be placed in it",
    "history_rewritten": "the template rewrites an earlier turn, and --history is error",
}
"""Reason of a refused row -> what it means."""
