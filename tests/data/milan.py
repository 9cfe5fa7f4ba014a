"""Writes milan.pth and milan.json: a describer in the authors' format, and what it computes.

Run once: python tests/data/milan.py (torch, torchvision, numpy). Everything is written from the published
description of MILAN (Hernandez et al. 2022) and of its file format, with random weights. The encoder is a
whole ResNet-18, but its weights are overlapping views of a few thousand numbers, so that the file is small.
`python tests/data/milan.py --full PATH.pth` writes a file as large as the real ones instead, with its numbers beside it;
`MILAN_TEST_PTH=PATH.pth cargo test --test it milan::` compares with those.
"""

import json
import sys
import types
from collections import OrderedDict
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

SIDE, K, LENGTH, LAMBDA = 64, 4, 15, 0.2
WORDS = (
    "the of edges dogs dog faces blue red green and , . text words human eyes round objects lines water "
    "sky grass animals birds top bottom areas in with white black patterns a circular - 's"
).split()
SITES = ["conv1", "layer1", "layer2", "layer3", "layer4"]
# (top, left, bottom, right) of each exemplar's region: all of it, none, one pixel, and pieces.
BOXES = [
    [(0, 0, 64, 64), (10, 20, 40, 50), (0, 0, 0, 0), (33, 1, 34, 2)],
    [(5, 5, 20, 60), (40, 0, 64, 30), (60, 60, 64, 64), (0, 30, 64, 34)],
    [(16, 16, 48, 48), (0, 0, 32, 64), (2, 40, 9, 41), (50, 10, 52, 60)],
]


def pictures():
    """Formula on integers, (12, 3, SIDE, SIDE) in 0..1."""
    p, c, y, x = torch.meshgrid(*(torch.arange(n) for n in (12, 3, SIDE, SIDE)), indexing="ij")
    return ((x * (3 + p) + y * (5 + c) + x * y // (7 + p) + 40 * c + 97 * p) % 256).float() / 255


def masks():
    masks = torch.zeros(12, 1, SIDE, SIDE)
    for mask, (top, left, bottom, right) in zip(masks, sum(BOXES, [])):
        mask[0, top:bottom, left:right] = 1
    return masks


class Views:
    """Weights as views of one storage for each scale."""

    def __init__(self):
        self.storages, self.n = {}, 0

    def __call__(self, shape, scale, offset=0.0):
        key = (round(scale, 5), offset)
        if key not in self.storages:
            self.storages[key] = torch.randn(4099) * scale + offset
        self.n += 1
        strides = [stride % 1021 for stride in (211, 97, 31, 7)][-len(shape) :]
        while sum((side - 1) * stride for side, stride in zip(shape, strides)) >= 4000:
            strides[0 if shape[0] * strides[0] > 2000 else 1] //= 2
        return self.storages[key].as_strided(shape, strides, self.n % 99)


class Encoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.encoder = nn.ModuleDict({"model": model})

    def forward(self, images, masks, area):
        kept, model = {}, self.encoder["model"]
        hooks = [
            model.get_submodule(site).register_forward_hook(lambda _, __, ys, site=site: kept.update({site: ys}))
            for site in SITES
        ]
        model((images - self.mean) / self.std)
        for hook in hooks:
            hook.remove()
        pooled = []
        for site in SITES:
            f = kept[site]
            size = f.shape[-2:]
            m = F.adaptive_avg_pool2d(masks, size) if area else F.interpolate(
                masks, size=size, mode="bilinear", align_corners=False
            )  # fmt: skip
            valid = ~m.abs().le(1e-8).flatten(1).all(1)
            m[valid] = m[valid] / m[valid].sum((1, 2, 3), keepdim=True)
            pooled.append(torch.where(valid[:, None], (f * m).sum((2, 3)), torch.zeros(1)))
        return torch.cat(pooled, 1)


class LanguageModel(nn.Module):
    def __init__(self, v, embedding, hidden):
        super().__init__()
        self.embedding = nn.Embedding(v, embedding, padding_idx=v - 2)
        self.lstm = nn.LSTM(embedding, hidden, 2, batch_first=True)
        self.output = nn.Sequential(nn.Linear(hidden, v), nn.LogSoftmax(-1))

    def forward(self, tokens):
        return self.output(self.lstm(self.embedding(tokens))[0])


class Decoder(nn.Module):
    def __init__(self, encoder, d, v, embedding, hidden):
        super().__init__()
        self.start, self.stop = v - 4, v - 3
        self.encoder = encoder
        self.lm = LanguageModel(v, embedding, hidden)
        self.init_h = nn.Sequential(nn.Linear(d, hidden), nn.Tanh())
        self.init_c = nn.Sequential(nn.Linear(d, hidden), nn.Tanh())
        self.embedding = nn.Embedding(v, embedding)
        a = min(hidden, d)
        self.attend = nn.ModuleDict({
            "query_to_hidden": nn.Linear(hidden, a), "key_to_hidden": nn.Linear(d, a),
            "output": nn.Sequential(nn.Linear(a, 1)),
        })  # fmt: skip
        self.feature_gate = nn.Sequential(nn.Linear(hidden, d), nn.Sigmoid())
        self.lstm = nn.LSTMCell(embedding + d, hidden)
        self.output = nn.Sequential(nn.Dropout(0.5), nn.Linear(hidden, v), nn.LogSoftmax(-1))

    def step(self, f, tokens, h, c):
        """f (rows, K, d)."""
        query, keys = self.attend["query_to_hidden"](h)[:, None], self.attend["key_to_hidden"](f)
        alpha = self.attend["output"](torch.tanh(query + keys)).softmax(1)
        z = (alpha * f).sum(1) * self.feature_gate(h)
        h, c = self.lstm(torch.cat([self.embedding(tokens), z], 1), (h, c))
        return self.output(h), h, c

    def walk(self, f, rows):
        """Scores of the next token after any tokens: a function of (rows, tokens so far)."""
        f = f[None].expand(rows, -1, -1)
        h, c = self.init_h(f.mean(1)), self.init_c(f.mean(1))

        def scores(tokens, mi):
            state = h, c
            for t in range(tokens.shape[1]):
                p, *state = self.step(f, tokens[:, t], *state)
            return p - LAMBDA * self.lm(tokens)[:, -1] if mi else p

        return scores

    def greedy(self, f, mi):
        tokens, total, scores = torch.tensor([[self.start]]), 0.0, self.walk(f, 1)
        for _ in range(LENGTH):
            p = scores(tokens, mi)
            total += p.max().item()
            tokens = torch.cat([tokens, p.argmax(1, keepdim=True)], 1)
        return {"tokens": tokens[0, 1:].tolist(), "score": total}

    def beam(self, f, k, mi):
        """allennlp's BeamSearch: finished beams have one continuation, the stop, at no cost."""
        scores = self.walk(f, k)
        p = self.walk(f, 1)(torch.tensor([[self.start]]), mi)
        total, first = p[0].topk(k)
        tokens = torch.cat([torch.full((k, 1), self.start), first[:, None]], 1)
        for _ in range(LENGTH - 1):
            done = tokens[:, -1] == self.stop
            if done.all():
                break
            p = scores(tokens, mi)
            p[done] = torch.finfo(p.dtype).min
            p[done, self.stop] = 0
            best, words = p.topk(k)
            total, places = (total[:, None] + best).flatten().topk(k)
            tokens = torch.cat([tokens[places // k], words.flatten()[places][:, None]], 1)
        return tokens[:, 1:], total

    def log_p(self, tokens, compat):
        """Of each row; compat counts the token behind the stop too."""
        inputs = torch.cat([torch.full((len(tokens), 1), self.start), tokens], 1)
        p = self.lm(inputs[:, :-1]).gather(2, tokens[:, :, None])[:, :, 0]
        ended = (inputs[:, :-1] == self.stop).cumsum(1)
        return (p * (ended < 1 if not compat else ended - (inputs[:, :-1] == self.stop).int() < 1)).sum(1)


def fill(module, views, peaked):
    """Sane scales; `peaked` sharpens what chooses words."""
    for name, parameter in list(module.named_parameters()):
        shape = tuple(parameter.shape)
        scale = 0.05 if len(shape) == 1 else (2 / parameter[0].numel()) ** 0.5
        if name.startswith(peaked):
            scale *= 4
        value = views(shape, scale)
        if len(shape) == 1 and name.endswith("weight"):
            value = views(shape, 0.1, 0.5)
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, nn.Parameter(value))
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            owner, _, leaf = name.rpartition(".")
            value = views(tuple(buffer.shape), 0.05, 0.0 if leaf.endswith("mean") else 1.0)
            module.get_submodule(owner).register_buffer(leaf, value)


def save(model, words, sizes, encoder, path):
    module = types.ModuleType("thinc.config")
    config = type("Config", (dict,), {"__module__": "thinc.config"})
    module.Config = config
    sys.modules.update({"thinc": types.ModuleType("thinc"), "thinc.config": module})
    nlp = config({"nlp": {"lang": "en"}})
    nlp.is_interpolated = False

    def indexer():
        tokenize = {"nlp": (nlp, bytes(range(256))), "lemmatize": False, "lowercase": True, "ignore_stop": False,
                    "ignore_punct": False}  # fmt: skip
        flags = {"start": True, "stop": True, "pad": True, "unk": True, "length": None}
        return {"properties": {
            "vocab": {"properties": {"tokens": tuple(words)}, "children": {}},
            "tokenize": {"properties": tokenize, "children": {}}, **flags}, "children": {}}  # fmt: skip

    lm = {"properties": {"indexer": indexer(), **sizes, "layers": 2, "dropout": 0.5}, "children": {}}
    torch.save({
        "properties": {
            "indexer": indexer(), "encoder": {"properties": {"config": encoder, "pretrained": True}, "children": {}},
            "lm": lm, **sizes, "attention_hidden_size": None, "dropout": 0.5, "length": LENGTH, "strategy": "rerank",
            "temperature": LAMBDA, "beam_size": 50,
        },
        "children": {"encoder": "PyramidConvEncoder"},
        "state_dict": OrderedDict((name, tensor) for name, tensor in model.state_dict().items()),
    }, path)  # fmt: skip


def unit(model, f):
    """Everything that is decoded from one unit's features, (K, d)."""
    forced = torch.tensor([[model.start, 0, 2, 1, 3, 9, 4, model.stop]])
    walk = model.walk(f, 1)
    steps = lambda mi: [walk(forced[:, : t + 1], mi)[0].tolist() for t in range(forced.shape[1])]  # noqa: E731
    found = {"forced": forced[0].tolist(), "log_probs": steps(False), "log_probs_mi": steps(True),
             "greedy": model.greedy(f, False), "greedy_mi": model.greedy(f, True)}  # fmt: skip
    for name, k, mi in [("beam_5", 5, False), ("beam_20", 20, False), ("beam_mi_5", 5, True)]:
        tokens, scores = model.beam(f, k, mi)
        found[name] = {"tokens": tokens.tolist(), "scores": scores.tolist()}
    tokens, scores = model.beam(f, 20, False)
    for name, compat in [("rerank", False), ("rerank_compat", True)]:
        prior = model.log_p(tokens, compat)
        final = scores - LAMBDA * prior
        found[name] = {"winner": final.argmax().item(), "score": final.max().item(), "lm": prior.tolist()}
    return found


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    path = Path(__file__).with_suffix(".pth")
    if sys.argv[1:2] == ["--full"]:
        torch.manual_seed(0)
        sizes = {"embedding_size": 128, "hidden_size": 512}
        words = [f"word{i}" for i in range(5000)]
        model = Decoder(Encoder(torchvision.models.resnet101()), 3904, len(words) + 4, 128, 512)
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight"):  # Else 33 blocks that add to each other overflow.
                parameter *= 0.2
        for peaked in (model.output[1], model.lm.output[0]):
            peaked.weight *= 12
        model.output[1].bias[model.stop] += 4  # So that some sentences end.
        return write(model.eval(), words, sizes, "resnet101", Path(sys.argv[2]))
    torch.manual_seed(14)  # The winners of the beam, of rerank and of its compatible form differ, and some never end.
    sizes = {"embedding_size": 6, "hidden_size": 12}
    model = Decoder(Encoder(torchvision.models.resnet18()), 1024, len(WORDS) + 4, 6, 12)
    peaked = ("output", "lm.output", "embedding", "lm.embedding")
    fill(model, Views(), peaked)
    model.output[1].bias[model.stop] -= 0.3
    write(model.eval(), WORDS, sizes, "resnet18", path)


def write(model, words, sizes, encoder, path):
    save(model, words, sizes, encoder, path)
    features = model.encoder(pictures(), masks(), area=False)
    golden = {
        "side": SIDE, "boxes": BOXES, "features": features.tolist(),
        "features_area": model.encoder(pictures(), masks(), area=True).tolist(),
        "units": [unit(model, f) for f in features.reshape(3, K, -1)],
    }  # fmt: skip
    rounded = json.loads(json.dumps(golden), parse_float=lambda it: float(f"{float(it):.7g}"))
    path.with_suffix(".json").write_text(json.dumps(rounded) + "\n")


if __name__ == "__main__":
    main()
