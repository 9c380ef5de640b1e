r"""Alpaca batches as in "Build a Large Language Model (From Scratch)": one end-of-text each.

Every text is padded with the end-of-text token. The targets keep the first of them, so that the
model learns to end, and leave out all others, which would be most of the loss.
"""

import json
from functools import partial

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from lossmask.compat import InstructionDataset, custom_collate_fn, split_data
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL

tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
end = tokenizer.convert_tokens_to_ids("<|endoftext|>")

entries = []
for line in DEMO_CONVERSATIONS.open(encoding="utf-8"):
    turns = [each for each in json.loads(line)["messages"] if each["role"] != "system"]
    mail, answer = turns[0]["content"], turns[1]["content"]
    entries.append({"instruction": "Sort this mail.", "input": mail, "output": answer})
split = split_data(entries[:200])
print(f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test")
assert (len(split.train), len(split.validation), len(split.test)) == (170, 10, 20)

loader = DataLoader(
    InstructionDataset(split.train, tokenizer),
    batch_size=10,
    collate_fn=partial(custom_collate_fn, pad_token_id=end, allowed_max_length=256),
)
model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL).eval()
ends = padding = texts = 0
total = 0.0
for inputs, targets in loader:
    ends += int((targets == end).sum())
    padding += int((targets == -100).sum())
    texts += len(targets)
    with torch.no_grad():
        logits = model(inputs).logits
    total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
print(f"{texts} texts, {ends} ends of text in the loss, {padding} paddings out of it")
print(f"loss of the model as it comes: {total / len(loader):.2f}")
assert ends == texts == 170
