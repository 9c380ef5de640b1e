"""Make the small model that lossmask ships: tokenizer, chat template and weights, from a seed.

In: nothing but the grammar of ``demo_texts.py``. Out: a model folder that
``AutoTokenizer.from_pretrained`` and ``AutoModelForCausalLM.from_pretrained`` load offline.

    python scripts/make_demo_model.py --out src/lossmask/assets/demo --seed 0

The result is the same, byte for byte, on the same machine with the same number of threads; other
machines add floats in another order and end at other weights that are as good.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import torch
from demo_texts import Document, documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

PAD, HEADER, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
FIRST_ORDINARY_ID = 3
OUT_OF_LOSS = -100
ROPE_THETA = 500.0
SHARPNESS = 5.0
CHAT_TEMPLATE = (
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n"
)


class Batch(NamedTuple):
    """Token ids and labels, both int64 of shape (rows, tokens)."""

    input_ids: torch.Tensor
    labels: torch.Tensor


def train_tokenizer(texts: Iterator[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that can spell any text, and give it the ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, HEADER, END_OF_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        extra_special_tokens=[HEADER],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def as_text(document: Document) -> str:
    """Return a plain text behind the separator, and a chat as the template writes it."""
    if isinstance(document, str):
        return f"{PAD}{document}"
    turns = (f"{HEADER}{turn.role}\n{turn.content}{END_OF_TURN}\n" for turn in document)
    return PAD + "".join(turns)


def text_batches(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, *, rows: int, length: int
) -> Iterator[Batch]:
    """Yield batches of running text; each row is a run of whole documents, cut at its end."""
    source = documents(rng)
    while True:
        batch: list[list[int]] = []
        while len(batch) < rows:
            ids: list[int] = []
            while len(ids) < length:
                ids += tokenizer.encode(as_text(next(source)), add_special_tokens=False)
            batch.append(ids[:length])
        yield Batch(torch.tensor(batch), torch.tensor(batch))


def drill_batches(
    vocabulary_size: int, rng: random.Random, *, rows: int, steps: int
) -> Iterator[Batch]:
    """Yield batches of random tokens said over and over, for the model to learn to copy.

    A row is a segment repeated up to 48 tokens, with only the repetitions in the loss. Segments are
    three to six tokens long at first and up to 24 after ``steps`` batches: copying is found sooner
    where there are few tokens to confuse.
    """
    for step in range(steps):
        size = rng.randint(3, 6 + 18 * step // steps)
        batch = []
        for _ in range(rows):
            segment = rng.choices(range(FIRST_ORDINARY_ID, vocabulary_size), k=size)
            batch.append((segment * (48 // size + 1))[:48])
        labels = torch.tensor(batch)
        labels[:, :size] = OUT_OF_LOSS
        yield Batch(torch.tensor(batch), labels)


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the untrained network: four layers, 128 wide, about a million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        attention_bias=True,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    look_back(model)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


def look_back(model: LlamaForCausalLM) -> None:
    """Set the first layer's heads to look one, one, two and three tokens back.

    Copying needs a head that knows the token before. Training finds one by itself, but only after
    thousands of steps; from here a hundred do. With rotary embeddings, the score of two constant
    vectors depends on their distance alone: with the key ``(1, 0)`` in each pair of dimensions of
    frequency ``w``, and the query ``(cos(dw), -sin(dw))``, it peaks at distance ``d``.
    """
    config = model.config
    half = config.hidden_size // config.num_attention_heads // 2
    frequency = ROPE_THETA ** (-torch.arange(half) / half)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        for head, distance in enumerate((1, 1, 2, 3)):
            start = 2 * half * head
            angle = distance * frequency
            query = torch.cat([torch.cos(angle), -torch.sin(angle)])
            attention.q_proj.bias[start : start + 2 * half] = SHARPNESS * query
            attention.k_proj.bias[start : start + half] = SHARPNESS


def learning_rate_factor(step: int, flat_steps: int, steps: int) -> float:
    """Return 1 after a short warm-up and until ``flat_steps``, then a half cosine down to 0."""
    warm_up = min(1.0, (step + 1) / 30)
    progress = max(0.0, (step - flat_steps) / (steps - flat_steps))
    return warm_up * 0.5 * (1 + math.cos(math.pi * progress))


def pretrain(
    model: LlamaForCausalLM, source: Iterator[Batch], *, flat_steps: int, steps: int
) -> float:
    """Train for a number of steps; return the mean loss of the last 50, in nats per token."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.003, betas=(0.9, 0.98), weight_decay=0.01
    )
    factor = partial(learning_rate_factor, flat_steps=flat_steps, steps=steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses: deque[float] = deque(maxlen=50)
    start = time.perf_counter()
    model.train()
    for step, batch in enumerate(islice(source, steps), start=1):
        loss = model(input_ids=batch.input_ids, labels=batch.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0:
            mean, seconds = sum(losses) / len(losses), time.perf_counter() - start
            print(f"step {step:5d}  loss {mean:.4f}  {seconds:6.0f} s", flush=True)
    return sum(losses) / len(losses)


def parsed_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drill-steps", type=int, default=200, help="copying drills, done first")
    parser.add_argument("--text-steps", type=int, default=1000, help="steps on text, done second")
    parser.add_argument("--vocabulary-size", type=int, default=1280)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Make the tokenizer, train the model, write both."""
    arguments = parsed_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    sample = islice(documents(random.Random(arguments.seed)), 20_000)
    tokenizer = train_tokenizer(map(as_text, sample), arguments.vocabulary_size)
    model = new_model(tokenizer)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters", flush=True)
    rng = random.Random(arguments.seed + 1)
    drills = drill_batches(len(tokenizer), rng, rows=64, steps=arguments.drill_steps)
    texts = text_batches(tokenizer, rng, rows=24, length=224)
    loss = pretrain(
        model,
        chain(drills, texts),
        flat_steps=arguments.drill_steps,
        steps=arguments.drill_steps + arguments.text_steps,
    )
    print(f"final loss {loss:.4f} nats a token")
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
