r"""Train on the answers alone: the completion-only collator, as TRL had it.

Formatted text, one marker before the answers. The loss is on what follows the marker; the rest is
context. Padding is masked by position, so pad = eos is no hazard.
"""

import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lossmask.compat import DataCollatorForCompletionOnlyLM
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL

tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
tokenizer.pad_token = tokenizer.eos_token  # the classic hazard

conversations = [json.loads(line) for line in DEMO_CONVERSATIONS.open(encoding="utf-8")]
texts = []
for conversation in conversations:
    turns = [each for each in conversation["messages"] if each["role"] != "system"]
    mail, answer = turns[0]["content"], turns[1]["content"]
    texts.append(f"### Question: {mail}\n ### Answer: {answer}{tokenizer.eos_token}")

collate = DataCollatorForCompletionOnlyLM(" ### Answer:", tokenizer=tokenizer)
rows = [tokenizer(text)["input_ids"] for text in texts]
batch = collate(rows[:8])

labels = batch["labels"]
print("first answer:", repr(tokenizer.decode(labels[0][labels[0] != -100])))
assert tokenizer.decode(labels[0][labels[0] != -100]) == " returns | can wait | mail<|im_end|>"

tokens, trained = int(batch["attention_mask"].sum()), int((labels != -100).sum())
print(f"{tokens} tokens in 8 rows, {trained} of them in the loss")
ends = int((labels == tokenizer.eos_token_id).sum())
print(f"{ends} of 8 ends of turn in the loss")
assert ends == 8

torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses = []
for step in range(12):
    loss = model(**collate(rows[step * 8 : step * 8 + 8])).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
print(f"loss on the answers: {losses[0]:.2f} -> {losses[-1]:.2f}")
assert losses[-1] < 0.5 * losses[0]
