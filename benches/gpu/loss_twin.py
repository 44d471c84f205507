#!/usr/bin/env python3
"""A PyTorch twin of `chemtag-train pretrain`: the same start, text, budget and schedule, its own random numbers; loss by loss beside ours.

In: an encoder's folder (DistilBERT in Hugging Face layout), a text made by `chemtag-train prepare-text`, metrics.jsonl of one or more runs of
`chemtag-train pretrain --long-share 0`. Out: a table of steps with the mean loss since the last one: PyTorch's for each seed, ours for each run,
and the differences between the means beside the spread of seeds. Needs PyTorch, safetensors, tokenizers, numpy and a GPU.

    loss_twin.py ENCODER TEXT.safetensors --seeds 0 1 --ours RUN/metrics.jsonl RUN/metrics.jsonl
"""

import argparse
import json
import pathlib

import numpy
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from pytorch import Encoder, MaskedLm

DEVICE = "cuda"


def sequences(text, room):
    """Ranges of pieces: neighbouring sentences of a document as long as they fit, longer sentences cut."""
    found, sentence, start = [], 0, 0
    lengths = text["sentence_pieces"].astype(numpy.int64)
    for count in text["document_sentences"]:
        first = end = start
        for length in lengths[sentence : sentence + count]:
            following = end + length
            if following - first > room and end > first:
                found.append((first, end))
                first = end
            while following - first > room:
                found.append((first, first + room))
                first += room
            end = following
        if end > first:
            found.append((first, end))
        start, sentence = end, sentence + count
    return found


def load(folder, model):
    """Hugging Face's tensors into the benchmark's encoder."""
    tensors = {name.removeprefix("distilbert."): torch.tensor(value.astype(numpy.float32)) for name, value in load_file(folder / "model.safetensors").items()}
    encoder = model.encoder
    with torch.no_grad():
        encoder.words.weight.copy_(tensors["embeddings.word_embeddings.weight"])
        encoder.positions.weight.copy_(tensors["embeddings.position_embeddings.weight"])
        for kind in ("weight", "bias"):
            getattr(encoder.norm, kind).copy_(tensors[f"embeddings.LayerNorm.{kind}"])
            for i, layer in enumerate(encoder.layers):
                get = lambda part: tensors[f"transformer.layer.{i}.{part}.{kind}"]
                getattr(layer.qkv, kind).copy_(torch.cat([get(f"attention.{part}_lin") for part in "qkv"]))
                for part, name in [("output", "attention.out_lin"), ("attention_norm", "sa_layer_norm"), ("wide", "ffn.lin1"),
                                   ("narrow", "ffn.lin2"), ("ffn_norm", "output_layer_norm")]:
                    getattr(getattr(layer, part), kind).copy_(get(name))
    nn.init.normal_(model.transform.weight, std=0.02)
    nn.init.zeros_(model.transform.bias)


def train(arguments, seed):
    random = numpy.random.default_rng(seed)
    torch.manual_seed(seed)
    settings = json.load(open(arguments.encoder / "config.json"))
    text = load_file(arguments.text)
    vocabulary = Tokenizer.from_file(str(arguments.encoder / "tokenizer.json")).get_vocab()
    continues = numpy.zeros(settings["vocab_size"], bool)
    for piece, index in vocabulary.items():
        continues[index] = piece.startswith("##")
    special = {piece: vocabulary[piece] for piece in ("[CLS]", "[SEP]", "[MASK]", "[PAD]")}
    model = MaskedLm(Encoder(settings["n_layers"], settings["dim"], settings["n_heads"]), settings["dim"])
    load(arguments.encoder, model)
    model.to(DEVICE).train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0, betas=(0.9, 0.98), eps=1e-6, fused=True)
    found = sequences(text, arguments.length - 2)
    width = arguments.length
    order, place, losses, curve = random.permutation(len(found)), 0, [], {}
    for step in range(arguments.steps):
        chosen, filled = [], 0
        while True:
            if place == len(order):
                order, place = random.permutation(len(found)), 0
            first, end = found[order[place]]
            if filled + end - first + 2 > arguments.batch:
                break
            chosen.append((first, end))
            filled += end - first + 2
            place += 1
        rows = arguments.batch // 64
        chosen = chosen[:rows]
        ids = numpy.full((rows, width), special["[PAD]"])
        inside = numpy.zeros((rows, width), bool)
        picked, targets = [], []
        for i, (first, end) in enumerate(chosen):
            pieces = text["piece_ids"][first:end].astype(numpy.int64)
            read = numpy.concatenate([[special["[CLS]"]], pieces, [special["[SEP]"]]])
            starts = numpy.flatnonzero(~continues[pieces] | (numpy.arange(len(pieces)) == 0))
            words = numpy.split(numpy.arange(len(pieces)), starts[1:])
            wanted, rows_of = max(1, round(0.3 * len(pieces))), []
            for word in random.permutation(len(words)):
                if not rows_of or len(rows_of) + len(words[word]) <= wanted:
                    rows_of.extend(words[word] + 1)
            rows_of = numpy.array(rows_of)
            picked.append(i * width + rows_of)
            targets.append(read[rows_of])
            draw = random.random(len(rows_of))
            replaced = numpy.where(draw < 0.8, special["[MASK]"], random.integers(5, settings["vocab_size"], len(rows_of)))
            read[rows_of] = numpy.where(draw < 0.9, replaced, read[rows_of])
            ids[i, : len(read)], inside[i, : len(read)] = read, True
        picked, targets = numpy.concatenate(picked), numpy.concatenate(targets)
        most = int(arguments.batch * 0.3)
        spare = most - len(picked)
        picked = numpy.concatenate([picked[:most], numpy.zeros(max(0, spare), numpy.int64)])
        targets = numpy.concatenate([targets[:most], numpy.full(max(0, spare), -100)])
        inside[:, 0] = True  # An empty row attends to something.
        to = lambda array: torch.from_numpy(array).to(DEVICE)
        mask = to(inside)[:, None, None, :].expand(-1, 1, width, -1)
        rise = min(1, (step + 1) / (0.02 * arguments.steps))
        rate = arguments.rate * rise * max(0.02, min(1, (1 - step / arguments.steps) / 0.9))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(to(ids), mask, to(picked), to(targets))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        if (step + 1) % arguments.every == 0:
            curve[step + 1] = torch.stack(losses).mean().item()
            losses = []
    return curve


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("encoder", type=pathlib.Path)
    parser.add_argument("text")
    parser.add_argument("--ours", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rate", type=float, default=4e-4)
    arguments = parser.parse_args()
    twins = [train(arguments, seed) for seed in arguments.seeds]
    ours = [{line["step"]: line["loss"] for line in map(json.loads, open(path))} for path in arguments.ours]
    mean = lambda curves, step: sum(curve[step] for curve in curves) / len(curves)
    print("step   PyTorch by seed            ours by run                difference   spread of seeds")
    for step in twins[0]:
        here = [curve for curve in ours if step in curve]
        values = lambda curves: " ".join(f"{curve[step]:.4f}" for curve in curves)
        spread = max([abs(a[step] - b[step]) for group in (twins, here) for a in group for b in group], default=0)
        difference = mean(here, step) - mean(twins, step) if here else float("nan")
        print(f"{step:5}  {values(twins):26} {values(here):26} {difference:+.4f}      {spread:.4f}")


if __name__ == "__main__":
    main()
