#!/usr/bin/env python3
"""Makes the fixtures in data/bert/: what Hugging Face's BertTokenizer and BertModel and PyTorch's torch.save give, for tests of checkpoints from elsewhere.
Needs torch, transformers, safetensors. Recorded with torch 2.15.0, transformers 4.57.6 and safetensors 0.8.0.

    python3 training/tests/record_bert.py

tokens.json: vocabularies, awkward strings and the ids that BertTokenizer (the one in Python) gives for them, cased and uncased.
zip.bin, stream.bin: one dictionary of tensors in both forms of torch.save; saved.safetensors: the floating-point ones of them. (The stream names storages by their address in memory, so its bytes differ from run to run.)
old-layout/: a tiny BERT as checkpoints from before 2020 have it: pytorch_model.bin (stream, gamma and beta, pooler, tied head), vocab.txt, config.json without
    model_type. old-layout.safetensors: ids [pieces] of TEXT and the hidden states [pieces, width] that BertModel computes for them.
"""

import json
import pathlib
import tempfile

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForPreTraining, BertTokenizer

HERE = pathlib.Path(__file__).parent / "data" / "bert"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = "Na\u00efve ben\u00e7ene, NaCl: 1,2-diol"
STRINGS = [
    "Benzene and NaCl",
    "BENZENE",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m",
    # The same, decomposed.
    "nai\u0308ve cafe\u0301 A\u030angstro\u0308m",
    # The sign of the unit, which decomposes to a letter and a ring.
    "5 \u212b",
    "\u0130stanbul \u0131 \u1e9e stra\u00dfe \u039f\u0394\u039f\u03a3 \u03bf\u03b4\u03bf\u03c2",
    "\u03b1-pinene, \u03b2-Carotene \u0391\u0392",
    "N,N-dimethyl (1R,2S)-2-amino [2.2.1]",
    "H\u2082O CO\u2083\u00b2\u207b 10\u207b\u00b3 \u00bd",
    "foo_bar $x^2$ a|b `c` ~d a+b=c <e>",
    "\u82ef\u662f\u6709\u673a\u7269 C6H6\u82ef",
    "\u30d9\u30f3\u30bc\u30f3 \ubca4\uc820",
    "tab\there\nline\r\nend",
    "soft\u00adhyphen zero\u200bwidth bom\ufeff bell\u0007 nul\u0000 repl\ufffd",
    "no\u00a0break thin\u2009space ideo\u3000graphic line\u2028sep",
    "\u2014 \u2013 \u2212 \u2032 \u2019 \u00b7 \u2022 \u2192 \u00d7 \u00b0 \u00b1 \u00ae",
    "\U0001f9ea \U0001d6fc \U00020000",
    "x" * 100 + " " + "x" * 101,
    "unknown\u2603snow",
    "\u0301 lone mark",
    "\u00b5M \u03bcM \ufb01ve \u01c4",
    "",
    "   ",
]


def vocabularies():
    """Characters that some of the strings have, alone and within words, and a few longer pieces."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789\u03b1\u03b2\u03bf\u03b4\u03c3\u03c2\u00e9\u00ef\u00f6\u00e5\u00df\u0131\u00b5\u03bc\u2082\u2083\u00b2\u00b3\u00bd"
    capitals = "ABCHINORS\u0391\u0392\u00c5\u0130\u039f\u0394\u03a3\u1e9e\u212b"
    marks = ".,:;-()[]{}_$^|`~+=<>\u2014\u2013\u2212\u2032\u2019\u00b7\u2192\u00d7\u00b0\u00b1\u82ef\u6709\u0301\u0308\u030a\u0307"
    longer = ["benz", "##ene", "##ne", "na", "##ive", "##cl", "and", "pin", "carotene", "methyl", "##methyl", "xx", "##xx"]
    both = lambda characters: [c for c in characters] + ["##" + c for c in characters]
    uncased = SPECIAL + both(letters) + list(marks) + ["##\u0301", "##\u0308", "##\u030a", "##\u0307"] + longer
    cased = uncased + both(capitals) + ["Benz", "Na", "##Cl", "\u00c5ng", "Carotene"]
    return {"cased": (cased, False), "uncased": (uncased, True)}


def write_vocabulary(folder, pieces):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("".join(piece + "\n" for piece in pieces), encoding="utf-8")
    return path


def record_tokens():
    recorded = {}
    for name, (pieces, lower) in vocabularies().items():
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = BertTokenizer(str(write_vocabulary(pathlib.Path(folder), pieces)), do_lower_case=lower)
        ids = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(string)) for string in STRINGS]
        recorded[name] = {"pieces": pieces, "lowercase": lower, "ids": ids}
    text = json.dumps({"strings": STRINGS, **recorded}, ensure_ascii=True, indent=None, separators=(",", ":"))
    (HERE / "tokens.json").write_text(text.replace('],"', '],\n"').replace('},"', '},\n"') + "\n")


def record_files():
    tensors = {
        "float": torch.randn(3, 5),
        "half": torch.randn(4).half(),
        "brain": torch.randn(2, 2).bfloat16(),
        "double": torch.randn(2).double(),
        "numbers": torch.arange(7),
        # A part of a larger storage, and columns side by side as conversion from TensorFlow leaves them.
        "part": torch.randn(6, 4)[2:4],
        "columns": torch.randn(5, 3).t(),
        "scalar": torch.tensor(2.5),
    }
    tensors["tied"] = tensors["float"]
    tensors["parameter"] = torch.nn.Parameter(torch.randn(2, 3))
    torch.save(tensors, HERE / "zip.bin")
    torch.save(tensors, HERE / "stream.bin", _use_new_zipfile_serialization=False)
    floats = {name: value.detach().clone().contiguous() for name, value in tensors.items() if value.is_floating_point()}
    save_file(floats, HERE / "saved.safetensors")


def record_old_layout():
    pieces = SPECIAL + list("abcdefghijklmnopqrstuvwxyz0123456789,:-") + ["na", "##ive", "##cl", "ben", "##ene", "##ol"]
    pieces += ["##" + c for c in "abcdefghijklmnopqrstuvwxyz"]
    folder = HERE / "old-layout"
    path = write_vocabulary(folder, pieces)
    sizes = {
        "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 8, "initializer_range": 0.02,
        "intermediate_size": 16, "max_position_embeddings": 40, "num_attention_heads": 2, "num_hidden_layers": 2, "type_vocab_size": 2,
        "vocab_size": len(pieces),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes, indent=2) + "\n")
    model = BertForPreTraining(BertConfig(**sizes)).eval()
    tokenizer = BertTokenizer(str(path), do_lower_case=True)
    ids = torch.tensor(tokenizer(TEXT)["input_ids"])
    with torch.no_grad():
        for parameter in model.parameters():
            # LayerNorm's ones and the biases' zeros would hide a mix-up.
            parameter.add_(torch.randn_like(parameter) * 0.3)
        hidden = model.bert(ids[None]).last_hidden_state[0]
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for name, value in model.state_dict().items():
        for new_name, old_name in old.items():
            name = name.replace(new_name, old_name)
        # Matrices of checkpoints that were converted from TensorFlow lie column by column.
        state[name] = value.t().contiguous().t() if name.endswith("dense.weight") else value
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    save_file({"ids": ids, "hidden": hidden.contiguous()}, HERE / "old-layout.safetensors")


if __name__ == "__main__":
    torch.manual_seed(0)
    HERE.mkdir(parents=True, exist_ok=True)
    record_tokens()
    record_files()
    record_old_layout()
