"""The forward pass beside PyTorch and onnxruntime, in turns: medians in milliseconds a picture.

    pip install torch torchvision timm onnxruntime onnx onnxscript
    cargo build --release --bench forward
    python benches/forward.py [--threads 2] [--rounds 7] resnet18 resnet50 mobilenet_v2 vgg16 vit_small_patch16_224

Random weights, 224 pixels, f32, 16 pictures at a time (what is fastest for PyTorch here), equal threads. Each
round runs every contender once. `torch` is eager, `frozen` is torch.jit.freeze with convolution and batch norm
folded; candle is the same graph run op by op.
"""

import argparse
import glob
import os
import statistics
import subprocess
import tempfile
import time

import onnxruntime
import timm
import torch
import torchvision

PICTURES = 16


def torch_ms(model, xs):
    with torch.inference_mode():
        began = time.perf_counter()
        model(xs)
        return (time.perf_counter() - began) * 1000 / len(xs)


def onnx(model, xs, threads):
    path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    torch.onnx.export(model, (xs,), path, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def ms(xs):
        began = time.perf_counter()
        session.run(None, {name: xs.numpy()})
        return (time.perf_counter() - began) * 1000 / len(xs)

    return ms


def ours(binary, name, threads, by):
    command = [binary, "--threads", str(threads), "--rounds", "1", "--by", by, name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[2])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    built = [it for it in glob.glob("target/release/deps/forward-*") if not it.endswith(".d")]
    binary = max(built, key=os.path.getmtime)
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {args.threads} threads")
    for name in args.names:
        is_timms = "_patch" in name
        model = (timm.create_model if is_timms else torchvision.models.get_model)(name).eval()
        xs = torch.rand(PICTURES, 3, 224, 224)
        with torch.inference_mode():
            frozen = torch.jit.optimize_for_inference(torch.jit.trace(model, xs))
            frozen(xs)
        contenders = {
            "torch": lambda: torch_ms(model, xs),
            "frozen": lambda: torch_ms(frozen, xs),
            "onnxruntime": (lambda run: lambda: run(xs))(onnx(model, xs, args.threads)),
            "candle": lambda: ours(binary, name, args.threads, "candle"),
            "direct": lambda: ours(binary, name, args.threads, "direct"),
            "winograd": lambda: ours(binary, name, args.threads, "winograd"),
        }
        times = {key: [] for key in contenders}
        for _ in range(args.rounds):
            for key, run in contenders.items():
                times[key].append(run())
        medians = {key: statistics.median(values) for key, values in times.items()}
        print(f"{name:22}" + "  ".join(f"{key} {ms:.1f}" for key, ms in medians.items()))
        torch_over = "  ".join(f"{key} {medians['torch'] / ms:.2f}" for key, ms in medians.items())
        print(f"{'':22}torch's time over: {torch_over}", flush=True)


main()
