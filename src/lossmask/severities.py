"""How bad each finding and each rejection is, what it does to training, and how to fix it.

One table for all that an audit counts: every kind of a finding once in :data:`FOUND`, every reason
of a rejection once in :data:`REJECTED`. A rejected row is always an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lossmask.explanations import FINDINGS, REASONS

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""

AUDITED = {
    "stop_never_trained": "no turn of the data has its stop token in the loss",
    "eval_leak": "the prompt of a row is a prompt of the evaluation data",
    "near_eval_leak": "the prompt of a row is nearly one of the evaluation data",
    "pad_is_stop": "the tokenizer's padding token is a stop token",
    "no_pad_token": "the tokenizer has no padding token",
    "bos_doubled": "an example begins with the beginning-of-sequence token twice",
    "control_token_in_content": "a message holds a control token as text, encoded as that token",
    "duplicate_conversation": "a conversation is there more than once",
    "duplicate_prompt": "a prompt is there more than once, with different answers",
    "near_duplicate_prompt": "a prompt is nearly the same as an earlier one",
    "history_expanded": "a row became several examples: the template rewrites earlier turns",
}
"""Kind of a finding that only an audit makes -> what it means."""

_NOT_TRAINED = "The row is not trained."


@dataclass(frozen=True, slots=True)
class Advice:
    """What to know about a kind of finding, or a reason.

    Attributes:
        severity: How bad it is.
        meaning: What was found.
        effect: What it does to training, one sentence.
        fix: How to fix it, one sentence.
    """

    severity: Severity
    meaning: str
    effect: str
    fix: str


def _error(kind: str, effect: str, fix: str) -> tuple[str, Advice]:
    return kind, Advice("error", _meaning(kind), effect, fix)


def _warning(kind: str, effect: str, fix: str) -> tuple[str, Advice]:
    return kind, Advice("warning", _meaning(kind), effect, fix)


def _note(kind: str, effect: str, fix: str) -> tuple[str, Advice]:
    return kind, Advice("note", _meaning(kind), effect, fix)


def _meaning(kind: str) -> str:
    return AUDITED[kind] if kind in AUDITED else FINDINGS[kind]


def _row(reason: str, fix: str) -> tuple[str, Advice]:
    return reason, Advice("error", REASONS[reason], _NOT_TRAINED, fix)


FOUND: dict[str, Advice] = dict(
    (
        # of the audit itself
        _error(
            "stop_never_trained",
            "The model never learns to end its turn and talks on.",
            "Name the token that ends a turn with --stop, or leave the policy's stop at train.",
        ),
        _error(
            "eval_leak",
            "The evaluation measures what was memorised.",
            "Remove these rows from the training data.",
        ),
        _warning(
            "near_eval_leak",
            "The evaluation may measure what was memorised.",
            "Compare the two rows, and remove the one from the training data if they ask the same.",
        ),
        _warning(
            "pad_is_stop",
            "A collator that masks labels by padding id takes the stop token out of the loss, and "
            "the model never learns to stop.",
            "Pad with lossmask's collators, which mask by position, or give the tokenizer another "
            "padding token.",
        ),
        _note(
            "no_pad_token",
            "Trainers take eos for padding, and a collator that masks labels by padding id then "
            "takes the stop token out of the loss.",
            "Pad with lossmask's collators, which mask by position, or give the tokenizer a "
            "padding token.",
        ),
        _warning(
            "bos_doubled",
            "The model is trained on a beginning that inference may never show it.",
            "Write the token in the template or let the tokenizer add it, not both.",
        ),
        _warning(
            "control_token_in_content",
            "The text of a message opens and closes turns.",
            "Clean the data, or encode such text as plain text with --control-tokens escape.",
        ),
        _warning(
            "duplicate_conversation",
            "The repeated rows count several times and are memorised first.",
            "Keep one of them.",
        ),
        _note(
            "duplicate_prompt",
            "The model learns a mixture of the answers.",
            "Keep one answer unless several are meant.",
        ),
        _note(
            "near_duplicate_prompt",
            "The same question counts several times.",
            "Keep one of them unless the difference matters.",
        ),
        _note(
            "history_expanded",
            "Each rewritten turn is trained as it was generated; its context is computed again.",
            "Nothing is wrong; --history last trains the last turn only, in one example.",
        ),
        # of encoding
        _warning(
            "no_stop_token",
            "The model does not learn to end these turns.",
            "Name the token that ends a turn with --stop, or append eos with --append-stop eos.",
        ),
        _note(
            "stop_appended",
            "The model learns to end the turn although the template does not show it.",
            "Nothing is wrong; --append-stop never leaves it out.",
        ),
        _note(
            "generation_prompt_mismatch",
            "What the generation prompt supplies is not trained, so the example is exact.",
            "Nothing is wrong with the loss; give the data reasoning where the template asks for "
            "it.",
        ),
        _note(
            "header_respelled",
            "The header is taken from the generation prompt, so the example is exact.",
            "Nothing is wrong with the loss; look at the template if it is yours.",
        ),
        _note(
            "context_differs",
            "The example shows the prompt as inference has it, not as the finished rendering does.",
            "Nothing is wrong with the loss; look at the template if it is yours.",
        ),
        _note(
            "boundary_straddle",
            "Tokens at the border differ between inference and a joint tokenization; --boundary "
            "inference, the default, trains those of inference.",
            "Keep --boundary inference.",
        ),
        _error(
            "unknown_token",
            "The model learns to write the unknown token.",
            "Clean the text, or use a tokenizer that can spell it.",
        ),
        _warning(
            "content_dropped",
            "The message is not trained: the model would learn an answer without it.",
            "Use a template that shows it, or move the text to where the template looks.",
        ),
        _warning(
            "arguments_torn",
            "The tool call is not trained.",
            "Give tool arguments as objects, not as JSON strings.",
        ),
        _warning(
            "nothing_generated",
            "The message is not trained.",
            "Use a template that shows such a message, or remove it from the data.",
        ),
        _warning(
            "no_prompt",
            "The message is not trained.",
            "Put the message that it answers before it.",
        ),
        _warning(
            "reasoning_dropped",
            "The model learns to answer without thinking.",
            "Use a template that shows reasoning, or the variable that turns it on "
            "(--template-var).",
        ),
        _warning(
            "history_rewritten",
            "Earlier turns are left out of the loss or trained as inference never shows them.",
            "Use --history expand, the default.",
        ),
        _warning(
            "message_not_shown",
            "The message is not trained.",
            "Use a template that shows messages of this role, or train others (--train-on).",
        ),
        _note(
            "role_trained",
            "The model learns to write messages of this role.",
            "Remove the weight from the data if that is not meant.",
        ),
        _warning(
            "tags_differ",
            "Text outside of what is generated is trained, or generated text is not.",
            "Leave the policy's spans at contract, or correct the tags of the template.",
        ),
        _warning(
            "special_token_doubled",
            "The model is trained on a beginning or end that inference may never show it.",
            "Remove the special token from the text of the data.",
        ),
        _warning(
            "system_dropped",
            "The model never sees these instructions.",
            "Use a template with system messages, or put the text into the first user message.",
        ),
        _warning(
            "message_dropped",
            "The model answers what it was not shown.",
            "Use a template that shows the message, or put its text where the template looks.",
        ),
        _warning(
            "tool_calls_dropped",
            "The model sees results of calls that it never saw.",
            "Use a template that shows tool calls.",
        ),
        _warning(
            "tools_dropped",
            "The model learns to call tools that it was not told of.",
            "Use a template that shows tools, or describe them in the system message.",
        ),
        _warning(
            "part_dropped",
            "The model answers about what it was not shown.",
            "Remove rows with such parts; lossmask trains text.",
        ),
        _note(
            "key_dropped",
            "The model does not see what stands under these keys.",
            "Nothing is wrong unless the text is meant to be seen: then move it to the content.",
        ),
        _note(
            "text_trimmed",
            "White space at the ends of the text is not trained.",
            "Nothing is wrong; trim the data to be rid of this note.",
        ),
        _warning(
            "text_altered",
            "The model sees or learns another text than the data holds.",
            "Compare the two with `lossmask show`, and clean the data or change the template.",
        ),
        _note(
            "turns_dropped",
            "The oldest exchanges are not seen.",
            "Allow more with --max-length.",
        ),
        _warning(
            "end_cut",
            "What is cut off is not trained.",
            "Allow more with --max-length, or drop such rows with --truncation drop.",
        ),
        _warning(
            "context_cut",
            "The answer is trained on a context that begins in the middle.",
            "Allow more with --max-length, or drop whole exchanges with --truncation drop_turns.",
        ),
        _warning(
            "reply_cut",
            "The reply is not trained, or without its end (--cut-reply).",
            "Allow more with --max-length.",
        ),
        _warning(
            "example_dropped",
            "One of the row's turns is not trained.",
            "Allow more with --max-length, or drop whole exchanges with --truncation drop_turns.",
        ),
    )
)
"""Kind of a finding -> what to know about it."""

REJECTED: dict[str, Advice] = dict(
    (
        _row("broken_json", "Write one JSON object per line."),
        _row("broken_row", "Correct the row in its file."),
        _row("unknown_format", "Say how rows are laid out with --layout."),
        _row("contradicting_weights", "Remove one of the two keys."),
        _row("stray_loss_key", "Move the key to where it is read, or remove it."),
        _row("interleaved_content", "Put the blocks into an order that messages can keep."),
        _row("marker_absent", "Correct the marker in --layout, or remove the row."),
        _row("empty_response", "Remove the row."),
        _row("bad_ranges", "Give ascending ranges inside of the text."),
        _row("bad_ids", "Tokenize the row with this tokenizer."),
        _row("special_tokens_vary", "Use a tokenizer that adds the same tokens to every text."),
        _row("range_not_located", "Weigh text that the template shows unchanged."),
        _row("no_tags", "Use a template with tags, or the policy spans=contract."),
        _row("no_chat_template", "Give a chat template with --chat-template."),
        _row("no_tokenizer", "Give the row as messages."),
        _row("bad_input", "Correct the row as the text of the rejection says."),
        _row("missing_key", "Add the key, or name the column that holds it with --layout."),
        _row("unknown_role", "Rename the role, or map it with --layout roles.NAME=ROLE."),
        _row("empty_conversation", "Remove the row."),
        _row("no_assistant", "Remove the row, or train another role with --train-on."),
        _row("nothing_to_train", "Give a message a weight that is not 0, or remove the row."),
        _row("bad_conversation", "Correct the message as the text of the rejection says."),
        _row("bad_tool_call", "Give each call a name, and arguments as an object."),
        _row("lone_surrogate", "Clean the text: it was cut in the middle of a character."),
        _row("control_token_in_content", "Clean the data, or use --control-tokens escape."),
        _row("cannot_escape", "Clean the data."),
        _row("template_error", "Give the template what it asks for, or use another one."),
        _row("template_limits", "Raise --max-seconds or --max-memory, or shorten the row."),
        _row("cannot_trace", "Change the expression of the template that the rejection names."),
        _row("derivations_disagree", "Report the template: no loss can be trusted for it."),
        _row("prompt_differs", "Give the turn what its prompt begins with."),
        _row("foreign_text", "Order the messages so that an answer is whole."),
        _row("stop_inside", "Remove the stop token from the answer."),
        _row("unclosed_think", "Give reasoning, or --template-var enable_thinking=false."),
        _row("content_dropped", "Use a template that shows the answers."),
        _row("nothing_generated", "Use a template that shows the answers."),
        _row("no_prompt", "Put a message before the answer."),
        _row("arguments_torn", "Give tool arguments as objects, not as JSON strings."),
        _row("boundary_inside_token", "Use --boundary include or exclude."),
        _row("boundary_straddle", "Use --boundary inference."),
        _row("stop_not_a_token", "Name a stop that is one token of this tokenizer."),
        _row("unusable_offsets", "Use a tokenizer whose tokens spell the text."),
        _row("history_rewritten", "Use --history expand."),
        _row("too_long", "Allow more with --max-length, or choose a --truncation."),
        _row("nothing_left", "Allow more with --max-length."),
        _row("reply_cut", "Allow more with --max-length, or use --cut-reply mask."),
    )
)
"""Reason of a rejected row -> what to know about it."""
