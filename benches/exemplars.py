"""Exemplars of the five default sites of a ResNet-18, beside PyTorch: decode, forward, top 15, 0.99 quantile, masks.

    pip install torch torchvision safetensors statsmodels tqdm matplotlib
    cargo build --release --bench exemplars
    python benches/exemplars.py REFERENCE IMAGES [--pictures 500] [--rounds 3] [--threads 2]

REFERENCE is a checkout of github.com/evandez/neuron-descriptions, whose `netdissect` keeps the statistics of both
PyTorch contenders. `layers` does what its `exemplars/compute.py` does, one pass a layer and another one for the masks
(masks alone: no picture is drawn or written); `hooks` looks at all layers in one pass and keeps the maps of the top
pictures, so that it needs no second one. Random weights, the same for all. IMAGES holds JPEGs; more pictures than it
has are the same ones again. Each contender runs once a round, in a process of its own.
"""

import argparse
import glob
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

SITES = ["conv1", "layer1", "layer2", "layer3", "layer4"]
K, QUANTILE, SIDE, BATCH = 15, 0.99, 224, 32


def contender(name, reference, model_file, folder, threads):
    import torch
    import torchvision
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    sys.path.insert(0, reference)
    from src.deps.netdissect import imgviz, nethook, runningstats, tally

    torch.set_num_threads(threads)
    prepare = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    class Pictures(Dataset):
        def __init__(self):
            self.files = sorted(glob.glob(os.path.join(folder, "*", "*.jpg")))
            self.transform = prepare

        def __len__(self):
            return len(self.files)

        def __getitem__(self, at):
            from PIL import Image

            return (prepare(Image.open(self.files[at]).convert("RGB")),)

    began = time.perf_counter()
    model = torchvision.models.resnet18()
    model.load_state_dict(load_file(model_file))
    model.eval()
    pictures = Pictures()
    on = 0
    with torch.inference_mode():
        if name == "layers":
            for site in SITES:
                with nethook.InstrumentedModel(model) as watched:
                    watched.retain_layer(site)

                    def maps(xs):
                        watched(xs)
                        return watched.retained_layer(site)

                    def both(xs):
                        ys = maps(xs)
                        n, c = ys.shape[:2]
                        return ys.view(n, c, -1).max(dim=2)[0], ys.permute(0, 2, 3, 1).reshape(-1, c)

                    given = {"batch_size": BATCH, "num_workers": threads}
                    top, sketch = tally.tally_topk_and_quantile(both, pictures, k=K, **given)
                    levels = sketch.quantiles(QUANTILE).reshape(-1)
                    viz = imgviz.ImageVisualizer(SIDE, image_size=SIDE, source=pictures, level=levels)

                    def masks(gather, xs):
                        for ranks, ys in zip(gather, maps(xs)):
                            for unit, rank in ranks:
                                yield (unit, rank), viz.pytorch_mask(ys, unit)[None].byte()

                    found = tally.gather_topk(masks, pictures, top, k=K, **given).result()
                    on += int(found.sum())
        else:
            seen = {}
            hooks = []

            def look(site):
                def hook(_, __, ys):
                    n, c, h, w = ys.shape
                    top, sketch, kept, maps = seen.setdefault(
                        site,
                        (
                            runningstats.RunningTopK(k=K),
                            runningstats.RunningQuantile(r=4096),
                            torch.full((c, K), -torch.inf),
                            torch.zeros(c, K, h, w),
                        ),
                    )
                    greatest = ys.view(n, c, -1).max(dim=2)[0]
                    top.add(greatest)
                    sketch.add(ys.permute(0, 2, 3, 1).reshape(-1, c))
                    best, at = torch.cat([kept, greatest.T], 1).topk(K, dim=1)
                    old = maps.gather(1, at.clamp(max=K - 1)[:, :, None, None].expand(-1, -1, h, w))
                    new = ys[(at - K).clamp(min=0), torch.arange(c)[:, None]]
                    maps.copy_(torch.where((at < K)[:, :, None, None], old, new))
                    kept.copy_(best)

                return hook

            for site in SITES:
                hooks.append(model.get_submodule(site).register_forward_hook(look(site)))
            for (xs,) in DataLoader(pictures, batch_size=BATCH, num_workers=threads):
                model(xs)
            for _, sketch, _, maps in seen.values():
                levels = sketch.quantiles(QUANTILE).reshape(-1)
                viz = imgviz.ImageVisualizer(SIDE, image_size=SIDE, source=pictures, level=levels)
                upsample = viz.upsampler_for(maps[0, 0])
                for unit, level in zip(maps, levels):
                    on += int((upsample(unit[:, None]) > level).sum())
    seconds = time.perf_counter() - began
    # Its own and that of the largest of the processes that decode.
    kib = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"together {seconds:.2f} s, {kib // 1024} MiB at most, {on} pixels in masks")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("reference")
    parser.add_argument("images")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=["ours", "hooks", "layers"])
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        name, model_file, folder = args.run
        return contender(name, args.reference, model_file, folder, args.threads)

    import torch
    import torchvision
    from safetensors.torch import save_file

    scratch = tempfile.mkdtemp()
    torch.manual_seed(0)
    model_file = os.path.join(scratch, "resnet18.safetensors")
    save_file({name: it.clone() for name, it in torchvision.models.resnet18().state_dict().items()}, model_file)
    folder = os.path.join(scratch, "pictures", "all")
    os.makedirs(folder)
    files = sorted(glob.glob(os.path.join(args.images, "*.jpg")))
    for at in range(args.pictures):
        os.symlink(os.path.abspath(files[at % len(files)]), os.path.join(folder, f"{at:06}.jpg"))
    folder = os.path.dirname(folder)
    built = [it for it in glob.glob("target/release/deps/exemplars-*") if not it.endswith(".d")]
    ours = [max(built, key=os.path.getmtime), model_file, folder, "--threads", str(args.threads)]
    theirs = [sys.executable, __file__, args.reference, args.images, "--threads", str(args.threads), "--run"]
    seconds = {name: [] for name in args.only}
    for _ in range(args.rounds):
        for name in args.only:
            command = ours if name == "ours" else [*theirs, name, model_file, folder]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]
            seconds[name].append(float(said.split("together")[1].split()[0]))
            print(f"{name:8}{said}", flush=True)
    for name, times in seconds.items():
        print(f"{name:8}median {statistics.median(times):.2f} s")


main()
