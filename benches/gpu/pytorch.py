#!/usr/bin/env python3
"""PyTorch's side of `cargo bench -p chemtag-training --features cuda --bench gpu`: the same sizes, in one JSON object a line.

In: optionally a JSON file with {"lengths": [...]}. Out: pieces a second, padding not counted, of eager and of compiled PyTorch:
training steps of a masked language model (30 % predicted, bf16 autocast, fused AdamW, clipping) and inference (f16), on 256 sequences of 128 and
on lengths as in prose, sorted by length and padded to the longest of a batch of 32,768. Needs PyTorch 2.5 or later and a GPU.

    pytorch.py [LENGTHS.json] [--eager]
"""

import json
import math
import random
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCABULARY, PIECES, WARM_UP, BLOCKS, STEPS = 24_000, 32_768, 15, 7, 20
DEVICE = "cuda"


class Layer(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.output = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.attention_norm, self.ffn_norm = nn.LayerNorm(hidden, eps=1e-12), nn.LayerNorm(hidden, eps=1e-12)
        self.wide, self.narrow = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x, mask):
        batch, length, hidden = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(*qkv.unbind(0), attn_mask=mask).transpose(1, 2).reshape(batch, length, hidden)
        x = self.attention_norm(x + F.dropout(self.output(context), 0.1, self.training))
        return self.ffn_norm(x + F.dropout(self.narrow(F.gelu(self.wide(x))), 0.1, self.training))


class Encoder(nn.Module):
    def __init__(self, layers, hidden, heads=12):
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, hidden), nn.Embedding(512, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.layers = nn.ModuleList([Layer(hidden, heads) for _ in range(layers)])

    def forward(self, ids, mask=None):
        x = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]])
        x = F.dropout(x, 0.1, self.training)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class MaskedLm(nn.Module):
    def __init__(self, encoder, hidden):
        super().__init__()
        self.encoder, self.transform, self.norm = encoder, nn.Linear(hidden, hidden), nn.LayerNorm(hidden, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, ids, mask, rows, targets):
        x = self.encoder(ids, mask).flatten(0, 1)[rows]
        x = self.norm(F.gelu(self.transform(x)))
        return F.cross_entropy((x @ self.encoder.words.weight.T + self.bias).float(), targets)


def batches(lengths, padded):
    """Padded batches: ids, attention mask (None where nothing is padded), rows to predict, targets, pieces that are no padding."""
    lengths = sorted(lengths) if padded else lengths
    made, current = [], []
    for length in lengths:
        if current and (len(current) + 1) * math.ceil(max(length, *current[-1:]) / 8) * 8 > PIECES:
            made.append(current)
            current = []
        current.append(length)
    made.append(current)
    for batch in made:
        width = math.ceil(max(batch) / 8) * 8 if padded else max(batch)
        ids = torch.randint(5, VOCABULARY, (len(batch), width), device=DEVICE)
        inside = torch.arange(width, device=DEVICE)[None] < torch.tensor(batch, device=DEVICE)[:, None]
        rows = torch.cat([i * width + torch.randperm(length)[: length * 3 // 10] for i, length in enumerate(batch)]).to(DEVICE)
        mask = inside[:, None, None, :].expand(-1, 1, width, -1) if padded else None
        yield ids, mask, rows, ids.flatten()[rows], sum(batch)


def rate(step, data):
    for i in range(max(WARM_UP, 2 * len(data))):
        step(*data[i % len(data)][:4])
    torch.cuda.synchronize()
    rates = []
    for _ in range(BLOCKS):
        started, pieces = time.perf_counter(), 0
        for i in range(math.ceil(STEPS / len(data)) * len(data)):
            step(*data[i % len(data)][:4])
            pieces += data[i % len(data)][4]
        torch.cuda.synchronize()
        rates.append(pieces / (time.perf_counter() - started))
    return statistics.median(rates)


def main():
    torch.manual_seed(0)
    random.seed(1)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.cache_size_limit = 64
    files = [argument for argument in sys.argv[1:] if argument.endswith(".json")]
    prose = json.load(open(files[0]))["lengths"] if files else [
        min(256, max(4, round(random.lognormvariate(math.log(27), 0.6335)))) for _ in range(512)
    ]
    compilers = [("eager", lambda f: f)] if "--eager" in sys.argv else [
        ("eager", lambda f: f), ("compiled", lambda f: torch.compile(f))
    ]
    for layers, hidden in [(6, 384), (12, 768)]:
        for lengths, data in [("256 x 128", list(batches([128] * 1024, False))), ("prose, padded", list(batches(prose * 8, True)))]:
            for name, compiler in compilers:
                encoder = Encoder(layers, hidden).to(DEVICE)
                model = MaskedLm(encoder, hidden).to(DEVICE).train()
                optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
                run = compiler(model)

                def train(ids, mask, rows, targets):
                    with torch.autocast("cuda", dtype=torch.bfloat16):
                        loss = run(ids, mask, rows, targets)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()

                trained = rate(train, data)
                half = Encoder(layers, hidden).to(DEVICE).half().eval()
                read = compiler(half)

                def infer(ids, mask, rows, targets):
                    with torch.no_grad():
                        read(ids, mask)

                for what, figure in [("training bf16", trained), ("inference f16", rate(infer, data))]:
                    print(json.dumps({"engine": f"PyTorch {torch.__version__}, {name}", "encoder": f"{layers} x {hidden}",
                                      "what": what, "lengths": lengths, "pieces_per_second": round(figure)}), flush=True)


if __name__ == "__main__":
    main()
