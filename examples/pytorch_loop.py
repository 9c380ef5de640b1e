r"""A plain PyTorch loop: examples, a ``DataLoader``, a loss.

With every weight 1 the model's own loss is right; ``supervised_loss`` is the same, computes the LM
head at the tokens in the loss only, and knows weights. Micro-batches of one step have different
numbers of tokens in the loss: divided by the weight of all of them, they add up to the loss and
the gradients of the whole batch. The mean of their means is something else.
"""

import json

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from lossmask import Encoder
from lossmask.collate import PaddedCollator
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL
from lossmask.supervised_loss import supervised_loss, supervised_weight

encoder = Encoder.from_pretrained(DEMO_MODEL)
lines = DEMO_CONVERSATIONS.read_text(encoding="utf-8").splitlines()[:40]
examples = [
    {"input_ids": each.input_ids, "labels": each.labels, "loss_weights": each.loss_weights}
    for line in lines
    for each in encoder.encode(json.loads(line)["messages"])
]
eos = encoder.tokenizer.eos_token_id
collate = PaddedCollator(pad_token_id=eos)  # pad = eos: the classic hazard
model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def gradient(batches: list[dict[str, torch.Tensor]]) -> tuple[float, torch.Tensor]:
    """Return loss and gradient of one step over micro-batches."""
    weight = sum(supervised_weight(batch) for batch in batches)
    losses = [supervised_loss(model, batch, normalizer=weight) for batch in batches]
    total = torch.stack(losses).sum()
    optimizer.zero_grad()
    total.backward()
    return total.item(), torch.cat([each.grad.flatten() for each in model.parameters()])


batch = collate(examples[:8])
own = model(**{key: batch[key] for key in ("input_ids", "attention_mask", "labels")}).loss.item()
whole, whole_gradient = gradient([batch])
parts, parts_gradient = gradient([collate(examples[k : k + 2]) for k in range(0, 8, 2)])
means = [supervised_loss(model, collate(examples[k : k + 2])).item() for k in range(0, 8, 2)]
print(f"loss: the model's own {own:.3f}, ours {whole:.3f}, in micro-batches {parts:.3f}")
print(f"mean of the means of the micro-batches: {sum(means) / 4:.3f}")
assert abs(own - whole) < 1e-5
assert abs(whole - parts) < 1e-5
assert torch.allclose(whole_gradient, parts_gradient, atol=1e-5)
assert abs(sum(means) / 4 - whole) > 1e-3

losses, ends = [], 0
for batch in DataLoader(examples, batch_size=8, shuffle=True, collate_fn=collate):
    loss = supervised_loss(model, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    ends += int((batch["labels"] == eos).sum())
print(f"{len(examples)} examples, {ends} ends of turn in the loss")
print(f"training: {losses[0]:.2f} -> {losses[-1]:.2f}")
