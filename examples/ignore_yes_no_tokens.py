r"""Questions answered YES or NO: take the easy tokens out of most of the loss.

Behind the answer stand an end of turn and a newline. Any model predicts both at once: two thirds of
the loss say nothing about the answers. Each is ignored with probability 0.8, drawn anew in every
epoch, so that the model still learns to stop.
"""

from collections import Counter

from transformers import AutoTokenizer

from lossmask.compat import DataCollatorForCompletionOnlyLM, DataCollatorWithIgnoredTokens
from lossmask.embedded import DEMO_MODEL

tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
tokenizer.add_tokens(["YES", "NO"])
end, newline = tokenizer("<|im_end|>\n")["input_ids"]
yes, no = tokenizer("YESNO")["input_ids"]

texts = [
    f"Question: is {number} even? Answer:{'NO' if number % 2 else 'YES'}<|im_end|>\n"
    for number in range(200)
]
rows = [{**tokenizer(text), "row": place} for place, text in enumerate(texts)]


def supervised(collate: DataCollatorForCompletionOnlyLM) -> Counter[int]:
    """Count the tokens in the loss of all rows."""
    labels = collate(rows)["labels"]
    return Counter(labels[labels != -100].tolist())


everything = supervised(DataCollatorForCompletionOnlyLM("Answer:", tokenizer=tokenizer))
assert everything == {yes: 100, no: 100, end: 200, newline: 200}
print("all:    ", f"{everything[yes] + everything[no]} answers of {everything.total()} tokens")

collate = DataCollatorWithIgnoredTokens(
    "Answer:",
    tokenizer=tokenizer,
    ignore_token_ids=[end, newline],
    ignore_tokens_mask_prob=0.8,
    seed=1,
)
for epoch in range(3):
    collate.set_epoch(epoch)
    drawn = supervised(collate)
    assert drawn[yes] + drawn[no] == 200
    print(f"epoch {epoch}:", f"200 answers of {drawn.total()} tokens, {drawn[end]} ends of turn")
    assert 20 <= drawn[end] <= 60
    assert drawn == supervised(collate)  # the same epoch draws the same
