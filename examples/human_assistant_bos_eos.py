r"""``### Human`` / ``### Assistant`` with a beginning and an end of sequence around each turn.

The model has to learn the answers and the token that ends them, and none of what stands before:
neither the beginning of a turn nor the marker nor what the human says, in no turn.
"""

from transformers import AutoTokenizer

from lossmask.embedded import DEMO_MODEL
from lossmask.markers import ranges
from lossmask.text_rows import encode_text
from lossmask.tokenizing import TextTokenizer

tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
BOS, EOS = "<|endoftext|>", "<|im_end|>"
HUMAN, ASSISTANT = f"{BOS}### Human:", f"{BOS}### Assistant:"

text = (
    f"{HUMAN} What is it?{EOS}{ASSISTANT} A letter.{EOS}"
    f"{HUMAN} From whom?\n\n{EOS}{ASSISTANT} From Kira.\nSee you!{EOS}"
)
example = encode_text(text, ranges(text, ASSISTANT, HUMAN), TextTokenizer(tokenizer))

for token, in_loss in zip(example.input_ids.tolist(), example.loss_mask, strict=True):
    print("^" if in_loss else " ", repr(tokenizer.decode([token])))

assert example.supervised_text == [f" A letter.{EOS}", f" From Kira.\nSee you!{EOS}"]
assert example.input_ids.tolist() == tokenizer(text)["input_ids"]
trained = example.labels[example.loss_mask].tolist()
assert tokenizer.convert_tokens_to_ids(BOS) not in trained
ends = trained.count(tokenizer.eos_token_id)
print(f"{len(example)} tokens, {example.supervised_count} in the loss, {ends} ends of turn")
assert ends == 2
