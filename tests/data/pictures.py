"""Writes pictures.json and pictures/: what Pillow and torchvision make of pictures, for tests/it/pictures.rs.

Run once: python tests/data/pictures.py (torch, torchvision, pillow, numpy). On photographs the same is
compared by exemplars_photographs.py.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

HERE = Path(__file__).parent


def formula(width, height):
    """Waves of every length, and a hard edge; tests/it/pictures.rs repeats it."""
    y, x, c = np.ogrid[:height, :width, :3]
    values = (x * x // 3 + y * (5 + c) + (x * y) // 7 + 120 * (x > y) + 40 * c) % 256
    return Image.fromarray(values.astype(np.uint8), "RGB")


def files():
    """Name and how it is written: one of every kind that people have."""
    picture = formula(32, 24)
    # JPEG was made for soft pictures.
    soft = picture.resize((8, 6), Image.BILINEAR).resize((32, 24), Image.BICUBIC)
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.arange(32 * 24).reshape(24, 32).astype(np.uint8)))
    deep = np.arange(32 * 24, dtype=np.uint32).reshape(24, 32) * 85
    yield "plain.jpg", lambda file: soft.save(file, quality=90)
    yield "progressive.jpg", lambda file: soft.save(file, quality=90, progressive=True)
    yield "full-chroma.jpg", lambda file: soft.save(file, quality=95, subsampling=0)
    yield "grey.jpg", lambda file: soft.convert("L").save(file, quality=90)
    yield "cmyk.jpg", lambda file: soft.convert("CMYK").save(file, quality=95)
    yield "plain.png", lambda file: picture.save(file)
    yield "alpha.png", lambda file: alpha.save(file)
    yield "palette.png", lambda file: picture.quantize(16).save(file)
    yield "grey16.png", lambda file: Image.fromarray(deep.astype(np.uint16)).save(file)
    yield "lossless.webp", lambda file: picture.save(file, lossless=True)
    yield "plain.bmp", lambda file: picture.save(file)
    yield "plain.gif", lambda file: picture.quantize(32).save(file)


def rgb(file):
    picture = Image.open(file)
    if picture.mode.startswith("I;16"):
        # Pillow's own convert("RGB") cuts everything above 255 off; the high byte is meant.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")


def cropped(picture, resize, crop, filter):
    return transforms.Compose([transforms.Resize(resize, filter, antialias=True), transforms.CenterCrop(crop)])(picture)


def hexed(picture):
    return np.asarray(picture).tobytes().hex()


def main():
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    golden = {"files": {}, "cropped": []}
    for name, save in files():
        save(folder / name)
        golden["files"][name] = hexed(rgb(folder / name))
    filters = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
    for width, height, resize, crop in [
        (64, 48, 32, 28), (47, 65, 32, 28), (100, 20, 16, 13), (31, 31, 40, 32), (20, 33, 20, 20), (30, 20, 24, 32),
        (50, 40, (32, 32), 32), (32, 32, (32, 32), 32),
    ]:  # fmt: skip
        for filter, mode in filters.items():
            picture = cropped(formula(width, height), resize, crop, mode)
            exact = isinstance(resize, tuple)
            golden["cropped"].append({
                "size": (width, height), "resize": resize[0] if exact else resize, "exact": exact,
                "crop": crop, "filter": filter, "pixels": hexed(picture),
            })  # fmt: skip
    text = json.dumps(golden, indent=1)
    (HERE / "pictures.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
