"""The paper's describer in the reference's way, for comparison with describe.rs.

python benches/describe.py RUN IMAGES LAYER UNITS DESCRIBER.safetensors (torch, efficientnet-lite-pytorch, safetensors,
pillow). Every exemplar goes through the encoder, every step of the beam projects the keys of attention anew, and
finished sentences are computed to the end (neuron-descriptions, src/milan/decoders.py).
"""

import csv
import json
import os
import sys
import time
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

run, images, layer, n_units, describer = sys.argv[1:]
torch.set_num_threads(os.cpu_count())
WIDTH, LENGTH, LAMBDA, BATCH = 50, 15, 0.2, 16


def weights():
    found = load_file(describer)
    for name in [it for it in found if it.endswith(".row_scale")]:
        of = name.removesuffix(".row_scale")
        found[of] = found[of].float() * found.pop(name)[:, None]
    return {name: it.float() for name, it in found.items()}


def part(found, prefix):
    return {name.removeprefix(prefix): it for name, it in found.items() if name.startswith(prefix)}


def linear(found, name):
    layer = nn.Linear(*reversed(found[name + ".weight"].shape))
    layer.load_state_dict(part(found, name + "."))
    return layer


class Lm(nn.Module):
    def __init__(self, found):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(found["embedding.weight"])
        hidden = found["lstm.weight_hh_l0"].shape[1]
        self.lstm = nn.LSTM(self.embedding.embedding_dim, hidden, 2, batch_first=True)
        self.lstm.load_state_dict(part(found, "lstm."))
        self.output = linear(found, "output.0")

    def forward(self, tokens):
        return self.output(self.lstm(self.embedding(tokens))[0]).log_softmax(-1)


class Captioner(nn.Module):
    def __init__(self, found):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(found["embedding.weight"])
        for name in ("view", "init_h.0", "init_c.0", "feature_gate.0", "output.1"):
            self.add_module(name.split(".")[0], linear(found, name))
        self.query, self.key = (linear(found, f"attend.{it}_to_hidden") for it in ("query", "key"))
        self.energy = linear(found, "attend.output.0")
        self.lstm = nn.LSTMCell(found["lstm.weight_ih"].shape[1], found["lstm.weight_hh"].shape[1])
        self.lstm.load_state_dict(part(found, "lstm."))

    def step(self, f, tokens, h, c):
        alpha = self.energy(torch.tanh(self.query(h)[:, None] + self.key(f))).softmax(1)
        z = (alpha * f).sum(1) * self.feature_gate(h).sigmoid()
        h, c = self.lstm(torch.cat([self.embedding(tokens), z], 1), (h, c))
        return self.output(h).log_softmax(-1), h, c

    def beam(self, f, start, stop):
        """allennlp's BeamSearch over f (units, k, features): tokens (units, WIDTH, steps) and their scores."""
        n = len(f)
        h, c = self.init_h(f.mean(1)).tanh(), self.init_c(f.mean(1)).tanh()
        p, h, c = self.step(f, torch.full((n,), start), h, c)
        total, first = p.topk(WIDTH)
        tokens = first[:, :, None]
        h, c, f = (it.repeat_interleave(WIDTH, 0) for it in (h, c, f))
        for _ in range(LENGTH - 1):
            last = tokens[:, :, -1].flatten()
            if (last == stop).all():
                break
            p, h, c = self.step(f, last, h, c)
            done = last == stop
            p[done] = torch.finfo(p.dtype).min
            p[done, stop] = 0
            best, words = p.topk(WIDTH)
            scores = (total.flatten()[:, None] + best).view(n, -1)
            total, places = scores.topk(WIDTH)
            parents = places // WIDTH
            words = words.view(n, -1).gather(1, places)
            tokens = torch.cat([tokens.gather(1, parents[:, :, None].expand_as(tokens)), words[:, :, None]], 2)
            rows = (parents + torch.arange(n)[:, None] * WIDTH).flatten()
            h, c = h[rows], c[rows]
        return tokens, total


@torch.no_grad()
def main():
    exemplars = load_file(Path(run, "exemplars", layer, "exemplars.safetensors"))
    with open(Path(run, "exemplars", "pictures.csv"), newline="") as file:
        files = [row["file"] for row in csv.DictReader(file)]
    n, k = min(int(n_units), len(exemplars["ids"])), exemplars["ids"].shape[1]

    began = time.time()
    found = weights()
    with safe_open(describer, "pt") as file:
        metadata = file.metadata()
    settings, words = json.loads(metadata["settings"]), metadata["words"].split("\n")
    start, stop = len(words), len(words) + 1
    encoder = EfficientNet.from_name("efficientnet-lite0").eval()
    encoder.load_state_dict(part(found, "encoder."), strict=False)
    kept = {}
    for site in settings["encoder"]["sites"]:
        module = encoder.get_submodule("_bn1" if site == "head" else site)
        then = F.relu6 if site == "head" else lambda it: it
        module.register_forward_hook(lambda _, __, ys, site=site, then=then: kept.update({site: then(ys)}))
    captioner, lm = Captioner(part(found, "captioner.")).eval(), Lm(part(found, "lm.")).eval()
    print(f"load: {time.time() - began:.2f} s")

    began = time.time()
    mean, std = (torch.tensor(settings["encoder"][it]).view(3, 1, 1) for it in ("mean", "std"))

    def picture(place):
        image = Image.open(Path(images, files[place])).convert("RGB")
        w, h = image.size
        short = min(w, h)
        image = image.resize((int(256 * w / short), int(256 * h / short)), Image.BILINEAR)
        w, h = image.size
        left, top = round((w - 224) / 2), round((h - 224) / 2)
        image = image.crop((left, top, left + 224, top + 224))
        return (torch.frombuffer(image.tobytes(), dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1) / 255 - mean) / std

    features = []
    for unit in range(n):
        xs = torch.stack([picture(it) for it in exemplars["ids"][unit].tolist()])
        encoder.extract_features(xs)
        maps = exemplars["maps"][unit].float()[:, None]
        masks = F.interpolate(maps, size=(224, 224), mode="bilinear", align_corners=False)
        masks = (masks > exemplars["thresholds"][unit]).float()
        pooled = []
        for f in [torch.cat([xs, xs**2], 1), *(kept[it] for it in settings["encoder"]["sites"])]:
            m = F.adaptive_avg_pool2d(masks, f.shape[-2:])
            pooled.append((f * m).sum((2, 3)) / m.sum((2, 3)).clamp(min=1e-8))
        features.append(torch.cat(pooled, 1))
    features = torch.stack(features)
    print(f"look: {time.time() - began:.2f} s")

    began = time.time()
    features = ((features - found["features.mean"]) / found["features.std"]).clamp(-6, 6)
    said = []
    for some in features.split(BATCH):
        tokens, total = captioner.beam(F.gelu(captioner.view(some)), start, stop)
        for tokens, total in zip(tokens, total):
            inputs = torch.cat([torch.full((WIDTH, 1), start), tokens[:, :-1]], 1)
            p = lm(inputs).gather(2, tokens[:, :, None])[:, :, 0]
            prior = (p * ((inputs == stop).cumsum(1) < 1)).sum(1)
            best = tokens[(total - LAMBDA * prior).argmax()].tolist()
            said.append(" ".join(words[it] for it in best if it < len(words)))
    print(f"beam of 50, reranked: {time.time() - began:.2f} s")
    print(f'{n} units; of the first: "{said[0]}"')


main()
