"""Writes golden_logits.json: what PyTorch computes, for tests/it/graphs.rs to compare with.

    python tests/data/golden_logits.py [FOLDER_OF_REAL_CHECKPOINTS]

Every architecture is filled with weights that follow from the tensors' names alone (`formula`), so
that no weights need to be kept, and looks at two pictures made the same way. Their sides are unequal
and odd, so that a swapped axis or a padding on the wrong side shows; vision transformers read one size only. Where the folder is given, the
real checkpoints in it are run too, at the size they were trained for.

Needs torch, torchvision, timm, safetensors, numpy and efficientnet-lite-pytorch; figures of torch 2.x on a CPU.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding, efficientnet_params
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

N_CLASSES = 10
N_PICTURES = 2
IMAGENET_SIDES = (67, 72)
CIFAR_SIDES = (33, 36)
VIT_SIDES = (224, 224)
# Real checkpoints of 1000 classes: so many logits of each picture are kept.
N_KEPT = 50
# A prime, so that no row of a weight repeats the one before.
TILE = 65521
# Norms that end a residual branch are small, or the sums would grow through a hundred blocks.
ENDS_OF_BRANCHES = (
    ".bn2.weight",
    ".bn3.weight",
    "._bn2.weight",
    ".conv.3.weight",
    ".block.2.1.weight",
    ".block.3.1.weight",
)


def tile(name):
    """65,521 numbers in -1..1, multiples of 2^-23, from the name: splitmix64 seeded with its FNV-1a hash."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, TILE + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    whole = (z >> np.uint64(40)).astype(np.float32)  # 24 bits
    return whole / np.float32(2**23) - np.float32(1)


def formula(name, shape):
    """A tensor in the range its kind usually has: He et al. 2015b for weights, about 1 for scales."""
    values = tile(name)
    one, half = np.float32(1), np.float32(0.5)
    if len(shape) > 1:
        values = np.float32(math.sqrt(6 / math.prod(shape[1:]))) * values
    elif name.endswith("running_var"):
        values = one + half * values
    elif name.endswith("weight"):
        values = one + half * values
        if name.endswith(ENDS_OF_BRANCHES):
            values = np.float32(0.4) * values
    else:  # bias, running_mean
        values = np.float32(0.1) * values
    return torch.from_numpy(np.resize(values, shape))


def pictures(h, w):
    shape = (N_PICTURES, 3, h, w)
    return torch.from_numpy(np.resize(np.float32(2) * tile("pictures"), shape))


class CifarBlock(nn.Module):
    """He et al. 2015, section 4.2; `project` is option B, else option A."""

    def __init__(self, c_in, c_out, stride, project):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride, self.n_new = stride, c_out - c_in
        self.shortcut = None
        if stride == 2 and project:
            conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride == 2:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.n_new // 2, self.n_new // 2))
        return F.relu(y + x)


class SmallResNet(nn.Module):
    """torchvision's basic blocks, one a stage, behind a 3x3 convolution of stride 2."""

    def __init__(self, widths=(24, 48, 96, 160)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = (widths[0], *widths)
        for stage, (c_in, c_out) in enumerate(zip(before, widths)):
            stride, downsample = (2, nn.Sequential(nn.Conv2d(c_in, c_out, 1, 2, bias=False), nn.BatchNorm2d(c_out)))
            if stage == 0:
                stride, downsample = 1, None
            block = torchvision.models.resnet.BasicBlock(c_in, c_out, stride, downsample)
            setattr(self, f"layer{stage + 1}", nn.Sequential(block))
        self.fc = nn.Linear(widths[-1], N_CLASSES)

    def forward(self, xs):
        xs = F.relu(self.bn1(self.conv1(xs)))
        xs = self.layer4(self.layer3(self.layer2(self.layer1(xs))))
        return self.fc(xs.mean((2, 3)))


class CifarResNet(nn.Module):
    def __init__(self, n_blocks, project):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self.stage(16, 16, 1, n_blocks, project)
        self.layer2 = self.stage(16, 32, 2, n_blocks, project)
        self.layer3 = self.stage(32, 64, 2, n_blocks, project)
        self.linear = nn.Linear(64, N_CLASSES)

    @staticmethod
    def stage(c_in, c_out, stride, n_blocks, project):
        first = CifarBlock(c_in, c_out, stride, project)
        rest = [CifarBlock(c_out, c_out, 1, project) for _ in range(n_blocks - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def efficientnet_lite(level, sides, n_classes=N_CLASSES):
    return EfficientNet.from_name(f"efficientnet-lite{level}", image_size=sides, num_classes=n_classes)


def check_static_padding():
    """The package fixes its paddings for one picture size; at that size they are TensorFlow's SAME."""

    def hook(conv, inputs, _):
        pad = conv.static_padding
        left, right, top, bottom = getattr(pad, "padding", (0, 0, 0, 0))
        for side, before, after, axis in zip(inputs[0].shape[-2:], (top, left), (bottom, right), (0, 1)):
            stride, kernel = conv.stride[axis], conv.kernel_size[axis]
            n = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            assert (before, after) == (n // 2, n - n // 2), (conv, side)

    for level in range(5):
        side = efficientnet_params(f"efficientnet-lite{level}")[2]
        for sides in [(side, side), IMAGENET_SIDES]:
            model = efficientnet_lite(level, sides).eval()
            for module in model.modules():
                if isinstance(module, Conv2dStaticSamePadding):
                    module.register_forward_hook(hook)
            model(torch.zeros(1, 3, *sides))


def architectures():
    """Name, model maker, sides of the pictures."""
    zoo = torchvision.models
    plain = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2", "alexnet"]
    squeezing = ["mobilenet_v3_large", "mobilenet_v3_small", *(f"efficientnet_b{level}" for level in range(8))]
    for name in plain + squeezing:
        yield name, lambda name=name: getattr(zoo, name)(num_classes=N_CLASSES), IMAGENET_SIDES
    yield "small_resnet10", SmallResNet, CIFAR_SIDES
    for suffix in ["", "_bn"]:
        for depth in [11, 13, 16, 19]:
            name = f"vgg{depth}{suffix}"
            yield name, lambda name=name: getattr(zoo, name)(num_classes=N_CLASSES, init_weights=False), IMAGENET_SIDES
    for name in ["vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_base_patch32_224"]:
        yield name, lambda name=name: timm.create_model(name, num_classes=N_CLASSES), VIT_SIDES
    for name in ["vit_b_16", "vit_b_32", "vit_l_16"]:
        yield name, lambda name=name: getattr(zoo, name)(num_classes=N_CLASSES), VIT_SIDES
    for level in range(5):
        yield f"efficientnet_lite{level}", lambda level=level: efficientnet_lite(level, IMAGENET_SIDES), IMAGENET_SIDES
    for suffix, project in [("", False), ("_b", True)]:
        for n in range(1, 19):
            yield f"cifar_resnet{6 * n + 2}{suffix}", lambda n=n, p=project: CifarResNet(n, p), CIFAR_SIDES


def real():
    """File, model, side."""
    yield "mobilenet_v2", torchvision.models.mobilenet_v2(), 224
    yield "efficientnet_lite0", efficientnet_lite(0, 224, n_classes=1000), 224
    yield "cifar_resnet20", CifarResNet(3, False), 32
    yield "cifar_resnet56", CifarResNet(9, False), 32


def logits(model, h, w):
    ys = model.eval()(pictures(h, w))[:, :N_KEPT]
    # The shortest decimal that reads back as the same f32.
    return [[float(str(y)) for y in row] for row in ys.numpy()]


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    check_static_padding()
    golden = {"formula": {}, "real": {}}
    for name, make, sides in architectures():
        model = make()
        state = {
            name: formula(name, tuple(tensor.shape))
            for name, tensor in model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        model.load_state_dict(state, strict=False)
        golden["formula"][name] = {"sides": sides, "logits": logits(model, *sides)}
        print(name, *golden["formula"][name]["logits"][0][:3], file=sys.stderr)
    if len(sys.argv) > 1:
        for name, model, side in real():
            model.load_state_dict(load_file(Path(sys.argv[1]) / f"{name}.safetensors"))
            golden["real"][name] = {"sides": (side, side), "logits": logits(model, side, side)}
    text = json.dumps(golden).replace('"cifar', '\n"cifar').replace('}, "', '},\n"')
    Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
