r"""The rule that decided how much a token counts.

In: an example with what it was built from. Out: a :class:`Rule` for each of its tokens, a decision
of policy, data or fit, with the weight that comes of it. That weight is held against the one that
``weighting`` gave the token, so that a rule is exact, or there is none. From the inside out::

    in a completion        stop policy > range of the data > empty think block > loss scale > part
                           > message
    outside of them        weights of prompt and scaffold > prefill, prompt, other messages, the end
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lossmask.attribution import Attributed, Source, lined_setting
from lossmask.completions import Turn
from lossmask.encoder import Encoder
from lossmask.errors import LossmaskError
from lossmask.message_weights import WeightedRange, read_sample_weight
from lossmask.parts import REASONING_PART, end_of_answer, parts_of, think_blocks
from lossmask.policy import PARTS, Policy
from lossmask.rendering import ChatTemplate
from lossmask.turn_tokens import TokenizedTurn
from lossmask.weighting import Weigher, first_visible, in_float32, own_beginning


@dataclass(frozen=True, slots=True)
class Rule:
    """What decides about one token.

    Attributes:
        name: Stable slug: ``train_on``, ``message_weight``, ``prefill``, ….
        reason: One sentence.
        weight: What comes of it, before the weight of the row.
    """

    name: str
    reason: str
    weight: float


class TokenRules:
    """The rules that decided about the tokens of one example.

    Args:
        encoder: What encoded it.
        row: The row, with what its examples were built from.
        number: Which of its examples, from 0.
    """

    def __init__(self, encoder: Encoder, row: Attributed, number: int) -> None:
        self.row = row
        self.encoder = encoder
        self.number = number
        self.example = row.outcome.examples[number]
        self.source: Source = row.sources[number]
        self.policy: Policy = encoder.policy

    def rule(self, token: int) -> Rule:
        """Return what decided about a token.

        Raises:
            LossmaskError: It would give the token another weight than it has.
        """
        rule = self._rule(token)
        weight = float(self.example.loss_weights[token])
        factor = read_sample_weight(self.row.normal.get("weight"))
        expected = float(in_float32(np.array([rule.weight]), factor)[0])
        if expected != weight:
            raise LossmaskError(
                f"token {token} has the weight {weight:g}, and the rule that is found for it, "
                f"{rule.name}, gives {expected:g}: please report this",
                reason="not_explained",
            )
        return rule

    def _rule(self, token: int) -> Rule:
        built = token + self.source.token_start
        was = float(self.source.example.loss_weights[built])
        if was and not self.example.loss_weights[token]:
            return Rule(
                "cut_reply",
                f"the reply it belongs to is cut off: cut_reply={self.encoder.fit.cut_reply}",
                0.0,
            )
        if self.source.group is None or self.source.weigher is None:
            return self._of_text(token)
        turn = self._turn_of(built)
        rule = self._outside(built) if turn is None else self._of_completion(turn, built)
        return self._noted(token, rule)

    def _noted(self, token: int, rule: Rule) -> Rule:
        """Add what happens to the loss of a token when a batch is made."""
        if not rule.weight:
            return rule
        if token == 0:
            note = "; yet it is the first token, which nothing predicts"
            return Rule("first_token", rule.reason + note, rule.weight)
        if self.example.ignorable is not None and self.example.ignorable[token]:
            share = f"{self.policy.ignore_probability:g}"
            note = f"; policy.ignore names it: with probability {share} a batch leaves it out"
            return Rule("ignore", rule.reason + note, rule.weight)
        return rule

    def _of_text(self, token: int) -> Rule:
        weight = float(self.example.loss_weights[token])
        factor = read_sample_weight(self.row.normal.get("weight"))
        if "input_ids" in self.row.normal:
            given = self.row.normal["loss_weights"][token + self.source.token_start]
            verb = "puts it into" if weight else "leaves it out of"
            return Rule("given", f"the row itself {verb} the loss", float(given))
        index = int(self.example.message_index[token])
        ranges = self.row.normal["weights"]
        if index < 0 or not ranges[index]["weight"]:
            return Rule("text_range", "it stands in no range of the text that is trained", 0.0)
        own = float(ranges[index]["weight"])
        at = int(self.example.offsets[token, 0]) + self.source.start
        if at >= len(self.row.normal["text"]) and weight != own * factor:
            own *= self.policy.weight_of("stop")
        return Rule("text_range", f"range {index} of the text is trained, with weight {own:g}", own)

    def _turn_of(self, built: int) -> TokenizedTurn | None:
        """Return the turn whose completion holds a token; the last one writes its weight."""
        assert self.source.group is not None
        holding = [
            turn
            for turn in self.source.group.turns
            if turn.prompt_length <= built < turn.completion_end
        ]
        return holding[-1] if holding else None

    def _of_completion(self, tokenized: TokenizedTurn, built: int) -> Rule:
        """Return what decided about a token of a completion, as ``Weigher`` does."""
        turn, weigher = tokenized.turn, self._weigher
        index, row_index = turn.message_index, self.source.number_of(turn.message_index)
        text = turn.text[turn.prompt_end : turn.completion_end]
        origins = turn.origins[turn.prompt_end : turn.completion_end]
        offsets = _offsets_of(self.source, built) - np.int32(turn.prompt_end)
        at = int(first_visible(text, offsets)[0])
        begins, message = own_beginning(turn), weigher.conversation.messages[index]
        end = end_of_answer(text, origins, turn.stop, weigher.terminators)
        parts = parts_of(text, origins, turn.leaves, begins=begins, end=end, message=message)
        part = PARTS[int(parts[at])]
        what = (
            f"it is the stop token of message {row_index}"
            if part == "stop"
            else (f"it is {_PART_NAMES[part]} of message {row_index}")
        )
        is_last = index == self._last_trained()
        if at >= end and (
            self.policy.stop == "never" or (self.policy.stop == "last" and not is_last)
        ):
            return Rule("stop", f"{what}, and policy stop={self.policy.stop} leaves it out", 0.0)
        scale = float(weigher.loss_scale(text, index, end)[at])
        item = self._range_at(turn, index, at + turn.prompt_end)
        if item is not None:
            name = f"the data weighs characters {item.start}:{item.end} of {item.path}"
            return Rule("span_weight", f"{what}: {name} {item.weight:g}", item.weight * scale)
        if self.policy.empty_think == "ignore":
            for start, stop, is_empty in think_blocks(text, begins):
                inside = start <= at < stop and is_empty
                if inside and (parts[start:stop] == REASONING_PART).all():
                    return Rule(
                        "empty_think", f"{what}, an empty think block: empty_think=ignore", 0.0
                    )
        given = weigher.conversation.weights[index]
        if not weigher.trained[index] and given is None:
            return self._outside(built)
        return self._of_part(what, part, index, scale)

    def _of_part(self, what: str, part: str, index: int, scale: float) -> Rule:
        """Return what decided about a token that part, message and loss scale weigh."""
        given, of_part = self._weigher.conversation.weights[index], self.policy.weight_of(part)
        weight = of_part * self._weigher.trained[index] * scale
        if given is not None:
            name, why = "message_weight", f"the data gives that message the weight {given:g}"
        else:
            name, why = "train_on", f"train_on={_train_on(self.policy)} trains that message"
        if of_part != 1:
            name, why = f"weights.{part}", f"{why}, policy weights.{part} is {of_part:g}"
        if scale != 1:
            name, why = "loss_scale", f"{why}, a rule of loss_scale gives {scale:g}"
        return Rule(name, f"{what}: {why}", weight)

    def _range_at(self, turn: Turn, index: int, at: int) -> WeightedRange | None:
        """Return the last range of the data that holds a character of a text."""
        ranges = self._weigher.conversation.ranges.get(index, ())
        holding = [item for item in ranges if self._weigher.inside(turn, index, item)[at]]
        return holding[-1] if holding else None

    def _last_trained(self) -> int:
        """Return the message whose stop tokens ``stop="last"`` trains; only the row's last one."""
        assert self.source.group is not None
        trained = [
            turn.turn.message_index
            for turn in self.source.group.turns
            if self._weigher.trained[turn.turn.message_index]
        ]
        return -1 if self.number else max(trained, default=-1)

    @property
    def _weigher(self) -> Weigher:
        assert self.source.weigher is not None
        return self.source.weigher

    def _outside(self, built: int) -> Rule:
        """Return what decided about a token outside of all completions."""
        assert self.source.group is not None
        turn = self.source.group.base.turn
        at = int(first_visible(turn.text, _offsets_of(self.source, built))[0])
        weight = float(self._weigher.outside(turn)[at])
        leaf, _ = turn.rendering.origin(at)
        index = -1 if leaf is None else leaf.message_index
        part = "prompt" if index >= 0 else "scaffold"
        if weight and not self.source.example.loss_weights[built]:
            reason = "an earlier example of the row trains it already"
            return Rule("earlier_example", reason, 0.0)
        if weight:
            name = f"weights.{part}"
            if (
                part == "scaffold"
                and self.policy.train_on == "all"
                and name not in self.policy.weights
            ):
                return Rule("train_on", "train_on=all trains what the template writes", weight)
            return Rule(name, f"it is outside of all answers: policy {name} is {weight:g}", weight)
        return self._not_trained(built, at, index)

    def _not_trained(self, built: int, at: int, index: int) -> Rule:
        """Return why a token that nothing weighs stays out of the loss."""
        turns = self.source.group.turns if self.source.group else ()
        own = [turn for turn in turns if turn.turn.message_index == index]
        following = min(
            (turn for turn in turns if turn.prompt_length > built),
            key=lambda turn: turn.prompt_length,
            default=None,
        )
        if index >= 0 and own and at < own[0].turn.prompt_end:
            reason = f"inference is given it: it is the prefill of message {self._number(index)}"
            return Rule("prefill", reason, 0.0)
        if self.policy.boundary == "exclude":
            for turn in turns:
                start, end = _offsets_of(self.source, built)[0].tolist()
                if start < turn.turn.prompt_end < end:
                    number = self._number(turn.turn.message_index)
                    why = f"it spans the end of the prompt of message {number}: boundary=exclude"
                    return Rule("boundary", why, 0.0)
        if index >= 0 and not own and (rule := self._not_chosen(index)) is not None:
            return rule
        if index >= 0 and own:
            number = self._number(index)
            where = "outside of the template's {% generation %} tags"
            if self.policy.spans != "tags":
                where = "outside of what is trained"
            return Rule("outside", f"it is {where} of message {number}", 0.0)
        if following is not None:
            return self._in_prompt(following, at)
        if turns:
            number = self._number(turns[-1].turn.message_index)
            reason = (
                f"it stands behind the end of message {number}, the last one that is trained here: "
                "the model never writes it"
            )
            return Rule("behind_the_end", reason, 0.0)
        return Rule("scaffold", "the template writes it, and nothing here is trained", 0.0)

    def _in_prompt(self, following: TokenizedTurn, at: int) -> Rule:
        """Return why a token before an answer is out of the loss."""
        turn, number = following.turn, self._number(following.turn.message_index)
        start = self._start_of_generation_prompt(turn)
        if start is not None and at >= start:
            reason = f"inference supplies it: it is in the generation prompt of message {number}"
            return Rule("generation_prompt", reason, 0.0)
        if turn.message_index in self._weigher.conversation.prefills:
            return Rule(
                "prompt", f"inference supplies it, up to the prefill of message {number}", 0.0
            )
        reason = f"inference supplies it: it is in the prompt of message {number}"
        return Rule("prompt", reason, 0.0)

    def _start_of_generation_prompt(self, turn: Turn) -> int | None:
        """Return where the constant generation prompt begins in a text, None if unknown."""
        setting = lined_setting(self.encoder)
        if not isinstance(setting.template, ChatTemplate):
            return None
        tools = self._weigher.conversation.tools
        invitation = setting.template.invitation(tools, setting.template_variables)
        if not invitation or not turn.text[: turn.prompt_end].endswith(invitation):
            return None
        return turn.prompt_end - len(invitation)

    def _not_chosen(self, index: int) -> Rule | None:
        """Return why a message has no completion in an example, None if it is only a prompt."""
        conversation, number = self._weigher.conversation, self._number(index)
        given, role = conversation.weights[index], conversation.messages[index]["role"]
        elsewhere = [
            place
            for place, example in enumerate(self.row.outcome.examples, start=1)
            if any(span.message_index == number for span in example.spans)
        ]
        if elsewhere:
            reason = (
                f"here message {number} is context: the template shows it unlike it was generated; "
                f"example {elsewhere[0]} trains it"
            )
            return Rule("history", reason, 0.0)
        if given == 0:
            reason = f"the data takes message {number} out of the loss (weight 0)"
            return Rule("message_weight", reason, 0.0)
        first = self.row.outcome.examples[0]
        for finding in first.findings:
            if finding.message_index == number and "not trained" in finding.detail:
                return Rule(finding.kind, f"message {number} is {finding.detail}", 0.0)
        if index not in self._weigher.trained:
            reason = (
                f"message {number} is of the role {role}, which train_on="
                f"{_train_on(self.policy)} does not train"
            )
            if role == "assistant":
                reason = f"train_on={_train_on(self.policy)} does not choose message {number}"
            return Rule("train_on", reason, 0.0)
        return None

    def _number(self, index: int) -> int:
        return self.source.number_of(index)


_PART_NAMES = {
    "content": "content",
    "reasoning": "reasoning",
    "tool_calls": "a tool call",
    "tool_calls.name": "the name of a tool call",
    "tool_calls.arguments": "the arguments of a tool call",
    "tool_calls.syntax": "the syntax of a tool call",
}


def _offsets_of(source: Source, built: int) -> Any:
    """Return the characters of one token of an example as it was built, int32 (1, 2)."""
    return source.example.offsets[built : built + 1]


def _train_on(policy: Policy) -> str:
    train_on = policy.train_on
    return train_on if isinstance(train_on, str) else ",".join(train_on)
