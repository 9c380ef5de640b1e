r"""Assistant masks from ``{% generation %}`` tags, and without them.

transformers returns a mask if the template has tags around what the assistant says. It is as good
as the tags: with the end of turn outside of them, the model never learns to stop, and of a last
character that is several tokens (an emoji) only the first is trained. lossmask needs no tags, and
its mask is what the model has to generate at inference.
"""

from transformers import AutoTokenizer

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL

LOOP = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' }}
    {%- if message['role'] == 'assistant' %}BODY{% else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
GOOD = "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
SHORT = "{% generation %}{{- message['content'] }}{% endgeneration %}{{- '<|im_end|>' }}"

messages = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A letter."},
    {"role": "user", "content": "From whom?"},
    {"role": "assistant", "content": "Kira 🙂"},
]
tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)


def masked(template: str) -> list[int]:
    """Return the mask that transformers makes of the tags in a template."""
    encoded = tokenizer.apply_chat_template(
        messages,
        chat_template=template,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    return list(encoded["assistant_masks"])


[example] = Encoder(tokenizer).encode(messages)  # its own template, which has no tags
mask = example.loss_mask.astype(int).tolist()
print("without tags:", example.supervised_text)
good, short = masked(LOOP.replace("BODY", GOOD)), masked(LOOP.replace("BODY", SHORT))
print(f"in the loss: {sum(mask)} of {len(mask)} tokens without tags")
print(f"with tags: {sum(good)}; with tags that leave the end of turn out: {sum(short)}")
lost = [token for token, a, b in zip(example.input_ids, mask, short, strict=True) if a > b]
print("lost:", tokenizer.convert_ids_to_tokens(lost))
assert example.supervised_text == ["A letter.<|im_end|>", "Kira 🙂<|im_end|>"]
assert good == mask
assert len(lost) == 5  # both ends of turn, and three of the four tokens of the emoji
