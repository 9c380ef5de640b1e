r"""Rows for Axolotl that are tokenized already, and the configuration that takes them.

Axolotl is not needed here: its documentation ("Custom Pre-Tokenized Dataset") asks for the columns
``input_ids``, ``attention_mask`` and ``labels``, no others, and for an empty ``type``; this checks
that both are so, and collates the rows with ``DataCollatorForSeq2Seq`` (Axolotl has its own of
that name). Besides:

* Axolotl drops rows longer than ``sequence_len`` unless ``excess_length_strategy`` is ``raise``;
* it finds that rows are tokenized by their columns, not in a stream: leave ``streaming`` off;
* it knows no weights: every token with a label weighs 1, so other weights are refused here.
"""

import json
import tempfile
from pathlib import Path

import yaml
from datasets import load_dataset
from transformers import DataCollatorForSeq2Seq

from lossmask import Encoder
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL

encoder = Encoder.from_pretrained(DEMO_MODEL)
tokenizer = encoder.tokenizer
folder = Path(tempfile.mkdtemp())
rows, config = folder / "rows.jsonl", folder / "config.yml"

examples = [
    example
    for line in DEMO_CONVERSATIONS.open(encoding="utf-8")
    for example in encoder.encode(json.loads(line)["messages"])
]
assert all(set(example.loss_weights.tolist()) <= {0, 1} for example in examples)
with rows.open("w", encoding="utf-8") as file:
    for example in examples:
        row = {"input_ids": example.input_ids.tolist(), "attention_mask": [1] * len(example)}
        file.write(json.dumps({**row, "labels": example.labels.tolist()}) + "\n")
config.write_text(f"""\
base_model: {DEMO_MODEL}
datasets:
  - path: {rows}
    ds_type: json
    type:
sequence_len: {max(len(example) for example in examples)}
excess_length_strategy: raise
special_tokens:
  pad_token: {tokenizer.eos_token}  # the classic hazard: no harm, the labels are not made from it
""")
print(config.read_text())

settings = yaml.safe_load(config.read_text())
[source] = settings["datasets"]
assert source["type"] is None
read = load_dataset(source["ds_type"], data_files=source["path"], split="train", cache_dir=folder)
assert read.column_names == ["input_ids", "attention_mask", "labels"]
assert read["labels"] == [example.labels.tolist() for example in examples]
assert max(map(len, read["input_ids"])) == settings["sequence_len"]

tokenizer.pad_token = settings["special_tokens"]["pad_token"]
batch = DataCollatorForSeq2Seq(tokenizer)(read.to_list())
ends = int((batch["labels"] == tokenizer.eos_token_id).sum())
assert ends == sum(len(example.spans) for example in examples)
assert int((batch["labels"] != -100).sum()) == sum(each.supervised_count for each in examples)
longest = settings["sequence_len"]
print(f"{len(read)} rows of at most {longest} tokens, {ends} ends of turn in the loss")
