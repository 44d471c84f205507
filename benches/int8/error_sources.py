#!/usr/bin/env python3
"""Which part of the 8-bit number format moves the emissions, one at a time, in NumPy and apart from the Rust code.

usage: error_sources.py MODEL_FOLDER DOCUMENTS.jsonl [DOCUMENTS]    (numpy, safetensors, tokenizers from PyPI)

Prints the root mean square of the change of the emissions, in percent of theirs (both without their mean over O, B and I, which a CRF does not
see), and how many pieces have another highest emission, for a DistilBERT model on the first DOCUMENTS (24) documents, 252 pieces of each.
"""
import json
import sys
from math import sqrt

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

# erf(x / sqrt 2) / 2 = x P(x^2) / Q(x^2), as in src/int8/elementary.rs.
P = [3.9894214e-1, 3.4883995e-2, 4.7444524e-3, 1.7989946e-4, 6.4782726e-6, 2.224042e-8]
Q = [1.0, 2.5410596e-1, 2.9246723e-2, 1.9465202e-3, 7.747249e-5, 1.1920732e-6]


def gelu(x):
    bounded = np.clip(x, -5.5, 5.5)
    square = bounded * bounded
    return x * (0.5 + bounded * np.polyval(P[::-1], square) / np.polyval(Q[::-1], square))


def rounded_weights(rows, largest=127):
    scale = np.abs(rows).max(1, keepdims=True) / largest
    scale[scale == 0] = 1
    return np.round(rows / scale) * scale


def rounded_activations(x, steps):
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    scale = np.maximum(high - low, 1e-30) / steps
    zero = np.round(-low / scale)
    return (np.clip(np.round(x / scale) + zero, 0, steps) - zero) * scale


class Model:
    def __init__(self, folder):
        self.weights = {k.removeprefix("distilbert."): v.astype(np.float32) for k, v in load_file(f"{folder}/model.safetensors").items()}
        config = json.load(open(f"{folder}/config.json"))
        self.layers, self.heads = config["n_layers"], config["n_heads"]

    def norm(self, x, name):
        distance = x - x.mean(-1, keepdims=True)
        scaled = distance / np.sqrt((distance**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def emissions(self, ids, weights, embeddings, steps):
        """`steps`: steps of the activations at each place that has them rounded."""

        def linear(x, name, place):
            w = self.weights[name + ".weight"]
            x = rounded_activations(x, steps[place]) if place in steps else x
            return x @ (rounded_weights(w) if weights else w).T + self.weights[name + ".bias"]

        words = self.weights["embeddings.word_embeddings.weight"][ids]
        words = rounded_weights(words) if embeddings else words
        x = self.norm(words + self.weights["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm")
        for layer in range(self.layers):
            at = f"transformer.layer.{layer}."
            split = lambda part: linear(x, at + f"attention.{part}_lin", "query, key, value").reshape(len(ids), self.heads, -1).transpose(1, 0, 2)
            query, key, value = split("q"), split("k"), split("v")
            scores = query @ key.transpose(0, 2, 1) / sqrt(query.shape[-1])
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            context = (shares / shares.sum(-1, keepdims=True) @ value).transpose(1, 0, 2).reshape(len(ids), -1)
            x = self.norm(x + linear(context, at + "attention.out_lin", "context"), at + "sa_layer_norm")
            wide = gelu(linear(x, at + "ffn.lin1", "feed-forward in"))
            x = self.norm(x + linear(wide, at + "ffn.lin2", "feed-forward out"), at + "output_layer_norm")
        emissions = x @ self.weights["classifier.weight"].T + self.weights["classifier.bias"]
        return emissions - emissions.mean(-1, keepdims=True)


def main(folder, documents, count=24):
    model, tokenizer = Model(folder), Tokenizer.from_file(f"{folder}/tokenizer.json")
    texts = [json.loads(line)["text"] for line in open(documents)][: int(count)]
    sequences = [tokenizer.encode(text).ids[:252] for text in texts]
    exact = [model.emissions(ids, False, False, {}) for ids in sequences]
    places = ["query, key, value", "context", "feed-forward in", "feed-forward out"]
    every = lambda steps: dict.fromkeys(places, steps)
    cases = [("weights, 8 bits", True, False, {}), ("word embeddings, 8 bits", False, True, {})]
    cases += [(f"activations: {place}, 7 bits", False, False, {place: 127}) for place in places]
    cases += [("activations, all, 7 bits", False, False, every(127)), ("activations, all, 8 bits", False, False, every(255))]
    cases += [("all of the format", True, True, every(127))]
    for name, weights, embeddings, steps in cases:
        change = size = flips = 0
        for ids, expected in zip(sequences, exact):
            found = model.emissions(ids, weights, embeddings, steps)
            change, size = change + ((found - expected) ** 2).sum(), size + (expected**2).sum()
            flips += (found.argmax(-1) != expected.argmax(-1)).sum()
        print(f"| {name} | {100 * sqrt(change / size):.2f} % | {flips} of {sum(map(len, sequences))} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
