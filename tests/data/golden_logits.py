#!/usr/bin/env python3
"""Logits of every architecture from PyTorch, for tests/it/graphs.rs. Run once; writes golden_logits.json.

    pip install torch torchvision safetensors numpy efficientnet-lite-pytorch
    python golden_logits.py [FOLDER_OF_REAL_CHECKPOINTS]

No weights are committed: both sides fill each tensor by the same rule (`values`). Where a folder of real
checkpoints is given, their logits on the same made-up input are written too.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision.models as tv

TILE = 65_521  # a prime, so that no row of a tensor repeats another
CLASSES = 10


def splitmix64(seed: int, n: int) -> np.ndarray:
    """The first n numbers of splitmix64, as 24-bit fractions in [0, 1): exact in f32."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float32)) / np.float32(1 << 24)


def fnv1a(text: str) -> int:
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def values(name: str, shape) -> torch.Tensor:
    n = int(np.prod(shape)) if len(shape) else 1
    unit = np.resize(splitmix64(fnv1a(name), min(n, TILE)), n)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        out = np.float32(0.5) + unit
    elif leaf == "running_mean":
        out = (unit - np.float32(0.5)) * np.float32(0.2)
    elif leaf == "bias":
        out = (unit - np.float32(0.5)) * np.float32(0.2)
    elif len(shape) == 1:  # the scale of a batch norm; small, so that residual sums stay in range
        out = np.float32(0.3) + unit * np.float32(0.4)
    else:
        fan_in = int(np.prod(shape[1:]))
        out = (unit - np.float32(0.5)) * np.float32(2 * (6.0 / fan_in) ** 0.5)
    return torch.from_numpy(out.astype(np.float32).reshape(shape))


def picture(side: int) -> torch.Tensor:
    return (torch.from_numpy(splitmix64(fnv1a("input"), 2 * 3 * side * side).reshape(2, 3, side, side)) - 0.5) * 4


def fill(model: nn.Module) -> nn.Module:
    state = model.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            state[name] = values(name, tuple(tensor.shape))
    model.load_state_dict(state)
    return model.eval()


class CifarBlock(nn.Module):
    def __init__(self, c_in, c_out, stride, project):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.pad = 0
        self.shortcut = nn.Sequential()
        if stride != 1 and project:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        elif stride != 1:
            self.pad = (c_out - c_in) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        skip = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else self.shortcut(x)
        return F.relu(y + skip)


class CifarResnet(nn.Module):
    """He et al. 2015, section 4.2, with the names of the public CIFAR checkpoints."""

    def __init__(self, blocks, project=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width = 16
        for stage in range(3):
            layers = []
            for i in range(blocks):
                stride = 2 if stage and not i else 1
                layers.append(CifarBlock(width, 16 << stage, stride, project))
                width = 16 << stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def networks():
    for name in ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2", "alexnet"] + [
        f"vgg{n}{bn}" for bn in ("", "_bn") for n in (11, 13, 16, 19)
    ]:
        yield name, getattr(tv, name)(num_classes=CLASSES), 64
    for blocks in (1, 3, 9):
        yield f"cifar_resnet{6 * blocks + 2}", CifarResnet(blocks), 32
        yield f"cifar_resnet{6 * blocks + 2}_b", CifarResnet(blocks, project=True), 32
    from efficientnet_lite_pytorch import EfficientNet

    # The package pads for the size that a network was made for; odd sizes on the way need care.
    for n, side in enumerate([224, 240, 260, 280, 300]):
        yield f"efficientnet_lite{n}", EfficientNet.from_name(f"efficientnet-lite{n}", num_classes=CLASSES), side


def real(folder: Path):
    from efficientnet_lite_pytorch import EfficientNet
    from safetensors.torch import load_file

    for name, model, side in [
        ("mobilenet_v2", tv.mobilenet_v2(), 224),
        ("efficientnet_lite0", EfficientNet.from_name("efficientnet-lite0"), 224),
        ("cifar_resnet20", CifarResnet(3), 32),
        ("cifar_resnet56", CifarResnet(9), 32),
    ]:
        model.load_state_dict(load_file(folder / f"{name}.safetensors"), strict=False)
        yield name, model.eval(), side


def main():
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    golden = {"random": {}, "real": {}}
    for name, model, side in networks():
        logits = fill(model)(picture(side))
        golden["random"][name] = {"side": side, "logits": [round(float(v), 7) for v in logits.flatten()]}
        print(name, side, logits.abs().max().item())
    for name, model, side in real(Path(sys.argv[1])) if len(sys.argv) > 1 else []:
        logits = model(picture(side))
        golden["real"][name] = {"side": side, "logits": [round(float(v), 6) for v in logits[:, :10].flatten()],
                                "max": float(logits.abs().max())}
        print("real", name, logits.abs().max().item())
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


main()
