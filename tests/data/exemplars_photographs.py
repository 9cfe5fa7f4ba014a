"""Exemplars of a real network as a straightforward script finds them, for tests/it/exemplars.rs to compare with.

    python tests/data/exemplars_photographs.py MOBILENET_V2.safetensors FOLDER_OF_PHOTOGRAPHS [RUN]

Every value of every site is held in memory. Writes exemplars_photographs.json beside this file: of some
units the pictures, the thresholds, and the mask on the best picture. With RUN, a folder that
`milan-audit --export milan` wrote on the same pictures, all units, masks and pictures are compared and
the figures printed. Needs torch, torchvision, safetensors, pillow, numpy.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from exemplars import threshold, upsample
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms

N_PICTURES = 300
K = 15
QUANTILE = 0.99
SITES = [f"features.{i}" for i in range(0, 19, 2)]
# One unit in so many is kept, with a mask of so many pixels a side.
STEP, SIDE = 16, 56


CROP = transforms.Compose([transforms.Resize(256, antialias=True), transforms.CenterCrop(224)])
NORMALISE = transforms.Compose([
    transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
])  # fmt: skip


def cropped(file):
    return CROP(Image.open(file).convert("RGB"))


@torch.no_grad()
def outputs(model, files):
    """By site, `(pictures, units, h, w)`; of one that ends in ReLU6 as if it ended in ReLU."""
    kept = {site: [] for site in SITES}
    for site in SITES:
        module = model.get_submodule(site)
        if isinstance(module, torch.nn.Sequential) and isinstance(module[-1], torch.nn.ReLU6):
            before = module[-2]
            before.register_forward_hook(lambda _, __, ys, site=site: kept[site].append(ys.clamp(min=0)))
        else:
            module.register_forward_hook(lambda _, __, ys, site=site: kept[site].append(ys.clone()))
    for start in range(0, len(files), 20):
        model(torch.stack([NORMALISE(cropped(file)) for file in files[start : start + 20]]))
    return {site: torch.cat(ys).numpy() for site, ys in kept.items()}


def exemplars(ys):
    """Ids `(units, K)`, thresholds `(units,)`."""
    n, c = ys.shape[:2]
    most, mean = ys.reshape(n, c, -1).max(-1), ys.reshape(n, c, -1).astype(np.float64).mean(-1)
    # What is left are pictures on which a unit is zero: the number stands for the hash of their content.
    ids = np.stack([np.lexsort((np.arange(n), -mean[:, u], -most[:, u]))[:K] for u in range(c)])
    return ids, np.array([threshold(ys[:, u].ravel(), QUANTILE) for u in range(c)])


def compare(run, site, ys, ids, thresholds):
    """Share of equal ids, greatest rank error of a threshold, mean and least IoU of the masks of shared pictures."""
    folder = run / "exemplars" / site
    found = np.loadtxt(folder / "ids.csv", delimiter=",", dtype=int, ndmin=2)
    levels = load_file(folder / "exemplars.safetensors")["thresholds"].numpy()
    masks = np.load(folder / "masks.npy", mmap_mode="r")
    same, rank, ious = [], [], []
    for u in range(len(ids)):
        same.append(len(set(ids[u]) & set(found[u])) / K)
        values = ys[:, u].ravel()
        below, up_to = (values < levels[u]).mean(), (values <= levels[u]).mean()
        rank.append(max(below - QUANTILE, QUANTILE - up_to, 0))
        for place, id in enumerate(found[u]):
            if id in ids[u]:
                wanted = upsample(ys[id, u], 224) > thresholds[u]
                mask = masks[u, place, 0] > 0
                union = (wanted | mask).sum()
                ious.append((wanted & mask).sum() / union if union else 1.0)
    print(f"{site:12} ids {np.mean(same):.4%}  rank {max(rank):.1e}  IoU mean {np.mean(ious):.5f} "
          f"< .99: {np.mean(np.array(ious) < 0.99):.3%}", flush=True)  # fmt: skip
    return same, rank, ious


def compare_pictures(run, files):
    """Mean absolute difference of the pictures that the run exported from torchvision's, of 255."""
    site = run / "exemplars" / SITES[-1]
    images = np.load(site / "images.npy", mmap_mode="r")
    ids = np.loadtxt(site / "ids.csv", delimiter=",", dtype=int, ndmin=2)
    places = {id: place for place, id in np.ndenumerate(ids)}
    differences = []
    for id, place in sorted(places.items()):
        wanted = np.asarray(cropped(files[id])).transpose(2, 0, 1).astype(int)
        differences.append(np.abs(images[place].astype(int) - wanted).mean())
    print(f"{len(differences)} pictures: mean difference {np.mean(differences):.3f}, at most "
          f"{max(differences):.3f} of 255")  # fmt: skip


def main():
    weights, folder = sys.argv[1], Path(sys.argv[2])
    run = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(load_file(weights))
    model.eval()
    with open(folder / "metadata.csv") as file:
        names = sorted(row["file_name"] for row in csv.DictReader(file))[:N_PICTURES]
    golden, compared = {"pictures": names, "k": K, "step": STEP, "side": SIDE, "sites": []}, []
    files = [folder / name for name in names]
    for site, ys in outputs(model, files).items():
        ids, thresholds = exemplars(ys)
        if run:
            compared.append(compare(run, site, ys, ids, thresholds))
        units = range(0, len(ids), STEP)
        masks = np.stack([upsample(ys[ids[u][0], u], SIDE) > thresholds[u] for u in units])
        golden["sites"].append({
            "site": site, "ids": ids[::STEP].tolist(),
            # The ranks that a threshold may have: the values at 1e-3 below and above the quantile.
            "low": [float(np.float32(threshold(ys[:, u].ravel(), QUANTILE - 1e-3))) for u in units],
            "high": [float(np.float32(threshold(ys[:, u].ravel(), QUANTILE + 1e-3))) for u in units],
            "masks": np.packbits(masks.reshape(len(masks), -1), axis=1).tobytes().hex(),
        })  # fmt: skip
    if run:
        compare_pictures(run, files)
        same, rank, ious = (np.concatenate([np.asarray(row[i]) for row in compared]) for i in range(3))
        print(f"all: ids {same.mean():.4%}, rank error at most {rank.max():.1e}, IoU mean {ious.mean():.5f}, "
              f"{(ious >= 0.99).mean():.3%} of {len(ious)} masks at .99 or more")  # fmt: skip
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
