"""Exemplars as a straightforward script finds them: writes exemplars.json beside this file.

Activations come from a formula on integers, which tests/it/exemplars.rs repeats. All values are held:
top pictures by sorting, thresholds by Hazen's rule on the sorted values, masks by torch's grid_sample.
Run once: python tests/data/exemplars.py (numpy, torch).
"""
import hashlib
import io
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

QUANTILE = 0.9


def activations(n, c, h, w):
    """(n, c, h, w): multiples of 1/64 that half precision holds; unit 1 after a ReLU, unit 2 cut at 6, unit 3 dead."""
    p, u, y, x = np.ogrid[:n, :c, :h, :w]
    hill = 2000 * (abs(y - (p * 5 + u) % h) + abs(x - (p * 3 + u * 2) % w)) // (h + w)
    noise = (p * 9301 + u * 49297 + p * p * 31 + (y * w + x) * (y * w + x) * (u + 1) * 17) % 401
    ys = ((noise + 1100 - hill) / 64).astype(np.float32)
    ys[:, 1] = np.maximum(ys[:, 1], 0)
    ys[:, 2] = np.clip(ys[:, 2], 0, 6)
    ys[:, 3] = 0.5
    return ys


def threshold(values, q):
    """The i-th of n sorted values lies at (i - 0.5) / n, the least at 0 and the greatest at 1."""
    values = np.sort(values.astype(np.float64))
    places = (np.arange(len(values)) + 0.5) / len(values)
    places = np.concatenate([[0], places, [1]])
    return np.float32(np.interp(q, places, np.concatenate([values[:1], values, values[-1:]])))


def upsample(map, side):
    """Bilinear, zeros outside, pixel y at (y + 0.5) * h / side - 0.5; an axis of 1 is constant."""
    def axis(length):
        if length == 1:
            return torch.zeros(side, dtype=torch.float64)
        place = (torch.arange(side, dtype=torch.float64) + 0.5) * length / side - 0.5
        return 2 * place / (length - 1) - 1
    h, w = map.shape
    y, x = torch.meshgrid(axis(h), axis(w), indexing="ij")
    grid = torch.stack([x, y], -1)[None]
    map = torch.from_numpy(map.astype(np.float64))[None, None]
    return F.grid_sample(map, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0, 0].numpy()


def picture(id, side):
    return ((id * 31 + np.arange(3 * side * side) * 7) % 251).astype(np.uint8).reshape(3, side, side)


def site(name, n, c, h, w, k, side):
    ys = activations(n, c, h, w)
    most = ys.reshape(n, c, -1).max(-1)
    # Of pictures that excite a unit equally the one that does so in more places; the number stands for the content.
    mean = ys.reshape(n, c, -1).astype(np.float64).mean(-1)
    ids = np.stack([np.lexsort((np.arange(n), -mean[:, u], -most[:, u]))[:k] for u in range(c)])
    thresholds = np.array([threshold(ys[:, u].ravel(), QUANTILE) for u in range(c)])
    dead = ys.max((0, 2, 3)) == ys.min((0, 2, 3))
    best = np.take_along_axis(most.T, ids, 1)
    above = np.stack([[upsample(ys[i, u], side) - thresholds[u] for i in ids[u]] for u in range(c)])
    assert (abs(np.delete(above, [2, 3], 0)) > 1e-6).all(), "a pixel at the threshold would be a toss-up"
    # A plateau at the threshold is not above it, whatever grid_sample's rounding makes of it.
    masks = (above > 1e-6)[:, :, None].astype(np.uint8)
    images = np.stack([[picture(i, side) for i in row] for row in ids])

    def saved(array):
        file = io.BytesIO()
        np.save(file, array)
        return hashlib.sha256(file.getvalue()).hexdigest()

    def table(array, format):
        file = io.BytesIO()
        np.savetxt(file, array, format, delimiter=",")
        return file.getvalue().decode()

    return {
        "site": name, "n": n, "c": c, "h": h, "w": w, "k": k, "side": side,
        "ids": ids.ravel().tolist(),
        "dead": dead.tolist(),
        "saturated": (~dead & ((best[:, 0] == best[:, -1]) | (thresholds == ys.max((0, 2, 3))))).tolist(),
        "thresholds": thresholds.astype(float).tolist(),
        "masks": np.packbits(masks.reshape(c, -1), axis=1).tobytes().hex(),
        "images_npy": saved(images), "masks_npy": saved(masks),
        "ids_csv": table(ids, "%i"),
        "activations_csv": table(best, "%.5e"),
    }


def main():
    torch.set_num_threads(1)
    sites = [
        site("small", 40, 5, 7, 7, 4, 32),
        site("wide", 60, 5, 5, 3, 3, 32),
        site("large", 30, 5, 28, 28, 3, 16),
        site("flat", 50, 5, 1, 1, 4, 8),
    ]
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps({"quantile": QUANTILE, "sites": sites}, indent=1) + "\n")


if __name__ == "__main__":
    main()
