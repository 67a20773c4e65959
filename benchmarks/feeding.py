"""Does the network wait for images, and what does `train` take beside the network? Two measurements.

Feeding: images/s of the DataLoader that `train` uses, by size and number of workers, and what an image costs one core
in each part of the way. The files are in memory already (the page cache), as they are from the second epoch on where
there is room; a slow disk comes on top.

The step: `mammo_kit.train.train` itself against a bare loop of torch with the same first weights, batches, optimizer,
schedule, precision, memory format and clipping, which is all that the bare loop has. Both get the same pixels, decoded
before. The bare loop finds all of them on its device, so that what `train` does for a batch in its own process (take
it from the worker, pin it, copy it to the card) is on the bill of `train`; so are its loss with labels that may be
missing, the checks for NaN and the bookkeeping. Decoding and augmentation, which workers do beside it, are not: they
are the other table. Evaluation and saving come once an epoch and are not in a step. The clock runs from one call of
the optimizer to a later one, and waits for the card at both ends; both sides take turns. Their mean losses stand
beside: they must agree, or it was not the same work."""
import argparse
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import timm
import torch
from common import cores, mammograms, take_turns
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, default_collate

from mammo_kit.dataset import ShardImages, _encoded, augment, augment_strongly, batches, images, read_image
from mammo_kit.phantom import make_competition
from mammo_kit.preprocess import preprocess
from mammo_kit.train import Recipe, _schedule, grey_statistics, precision, split, train

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


# Feeding

def feeding(out: Path, workers: list[int], repeats: int, batch: int = 8) -> tuple[dict[str, float], dict[int, float]]:
    "Milliseconds that an image costs a core in each part, and images/s by the number of workers."
    frame = images(out)
    rows = frame.to_dict("records")
    pictures = [read_image(out, row) for row in rows]
    items = [torch.from_numpy(p[None]) for p in pictures]

    def grow(function):
        return lambda: [function(p, np.random.default_rng((0, 0, i))) for i, p in enumerate(pictures)]
    parts = {"read": lambda: [_encoded(out, row) for row in rows],
             "read and decode": lambda: [read_image(out, row) for row in rows],
             "augment": grow(augment), "augment strongly": grow(augment_strongly),
             "collate": lambda: [default_collate(items[i:i + batch]) for i in range(0, len(items), batch)]}
    ms = {name: 1e3 * statistics.median(s) / len(rows) for name, s in take_turns(parts, repeats).items()}
    ms["decode"] = ms.pop("read and decode") - ms["read"]

    data = ShardImages(out, pd.concat([frame] * 3, ignore_index=True), None, augment)
    loaders = {w: DataLoader(data, batch, num_workers=w, persistent_workers=w > 0, pin_memory=CUDA) for w in workers}

    def emptied(loader):
        return lambda: [None for _ in loader]
    runs = {w: emptied(loader) for w, loader in loaders.items()}
    for run in runs.values(): run()  # the workers start
    return ms, {w: len(data) / statistics.median(s) for w, s in take_turns(runs, repeats).items()}


def limits(ms: dict[str, float], rates: dict[int, float]) -> str:
    "What takes the time, in words."
    shares = {k: ms[k] for k in ("read", "decode", "augment", "collate")}
    total = sum(shares.values())
    words = ", ".join(f"{k} {v / total:.0%}" for k, v in sorted(shares.items(), key=lambda kv: -kv[1]))
    least, most = min(w for w in rates if w) if any(rates) else 0, max(rates)
    gain = f"; {most} workers give {rates[most] / rates[least]:.2f} times what {least} gives" if most > least else ""
    return f"{words}: {max(shares, key=shares.get)} limits{gain}"


# The step

class Clock:
    "Seconds a step, from the end of step `first` to that of step `last`."
    def __init__(self, first: int, last: int): self.first, self.last, self.n, self.times = first, last, 0, []

    def __call__(self, *_):
        self.n += 1
        if self.n not in (self.first, self.last): return
        if CUDA: torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def seconds(self) -> float: return (self.times[1] - self.times[0]) / (self.last - self.first)


@contextmanager
def timed(clock: Clock):
    handle = register_optimizer_step_post_hook(clock)
    try: yield
    finally: handle.remove()


READY: dict[str, torch.Tensor] = {}  # image_id → pixels; workers that are forked have it too


class Ready(ShardImages):
    "Images that need no decoding."
    def _image(self, row, rng): return READY[self.rows["image_id"][row]]


def bare(pixels: torch.Tensor, labels: torch.Tensor, table: np.ndarray, greys: tuple[float, float], recipe: Recipe
         ) -> float:
    "The mean loss over one epoch of a loop that does what must be done, on tensors that lie on the device."
    torch.manual_seed(recipe.seed)
    model = timm.create_model(recipe.backbone, in_chans=1, num_classes=1, global_pool=recipe.pool).to(DEVICE).train()
    if CUDA and torch.cuda.get_device_capability() >= (7, 0): model = model.to(memory_format=torch.channels_last)
    optimizer = timm.optim.create_optimizer_v2(model, recipe.optimizer, recipe.learning_rate, recipe.weight_decay)
    schedule, kind = _schedule(optimizer, recipe, len(table)), precision()
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=kind == "fp16")
    weight, (mean, std), losses = torch.tensor(recipe.positive_weight, device=DEVICE), greys, []
    top = torch.iinfo(pixels.dtype).max
    for step, rows in enumerate(torch.from_numpy(table).to(DEVICE)):
        schedule.step_update(step)
        x, y = (pixels[rows].float() / top - mean) / std, labels[rows]
        with torch.autocast(DEVICE.type, torch.bfloat16 if kind == "bf16" else torch.float16, enabled=kind != "no"):
            logits = model(x).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logits.float(), y, pos_weight=weight)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def step(out: Path, recipe: Recipe, steps: int, workers: int, turns: int) -> dict[str, tuple[list[float], float]]:
    "Seconds a step in each turn, and the mean loss, of both sides."
    rows, _ = split(images(out, labels=True), recipe)
    labels = rows[recipe.target].to_numpy(np.float32)
    n = -(-steps * recipe.batch_size // int(labels.sum())) - 1  # an epoch of so many steps
    recipe = replace(recipe, sampling=f"1:{n}")
    table = batches(labels, recipe.batch_size, recipe.sampling, recipe.seed)
    for row in images(out).to_dict("records"): READY[row["image_id"]] = torch.from_numpy(read_image(out, row)[None])
    pixels = torch.stack([READY[i] for i in rows["image_id"]]).to(DEVICE)
    tensors = pixels, torch.from_numpy(labels).to(DEVICE), table, grey_statistics(out, rows), recipe

    def ours() -> float:
        with tempfile.TemporaryDirectory() as model, patch("mammo_kit.train.ShardImages", Ready):
            train(out, Path(model), recipe, processes=1, workers=workers, progress=False)
            return pd.read_csv(Path(model) / "log.csv")["loss"][0]
    found = {"bare": ([], 0.), "train": ([], 0.)}
    for _ in range(turns):
        for name, run in (("bare", lambda: bare(*tensors)), ("train", ours)):
            clock = Clock(5, len(table))
            with timed(clock): loss = run()
            found[name] = [*found[name][0], clock.seconds()], loss
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a folder for what is made")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--sizes", nargs="*", default=["512x256", "1024x512", "2048x1024"], help="of the loader")
    parser.add_argument("--format", default="png", choices=["png", "jpeg"], help="of the loader's images")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="of the loader")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--step-sizes", nargs="*", default=["512x256"])
    parser.add_argument("--step-workers", type=int, default=1, help="of `train`; they only hand over tensors")
    parser.add_argument("--backbone", default=Recipe.backbone)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    where = torch.cuda.get_device_name() if CUDA else "no graphics card"
    print(f"{cores()}, {where}, torch {torch.__version__}\n")

    rates = {}
    if args.sizes:
        src = mammograms(args.work, args.images)
        parts = ("read", "decode", "augment", "augment strongly", "collate")
        heads = [f"size, {args.format}", *(f"{p}, ms" for p in parts),
                 *(f"images/s, {w} workers" for w in args.workers), "what limits"]
        print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        for size in args.sizes:
            out = args.work / f"feeding_{size}_{args.format}"
            preprocess(src, out, size, format=args.format, progress=False)
            ms, rates[size] = feeding(out, args.workers, args.repeats)
            print(f"| {size} | " + " | ".join(f"{ms[p]:.2f}" for p in parts)
                  + " | " + " | ".join(f"{r:.0f}" for r in rates[size].values()) + f" | {limits(ms, rates[size])} |")
        print()

    if not args.step_sizes: return
    heads = ("size, batch, backbone", "precision", "bare, ms a step", "train, ms a step", "train / bare (range)",
             "mean loss, bare", "train")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    told = []
    phantoms = args.work / "feeding_phantoms"
    if not phantoms.exists(): make_competition(phantoms, 40, test_patients=2, scale=.25, progress=False)
    for size in args.step_sizes:
        out = args.work / f"feeding_phantoms_{size}"
        preprocess(phantoms, out, size, progress=False)
        recipe = Recipe(backbone=args.backbone, batch_size=args.batch_size, augmentation="none", epochs=1)
        found = step(out, recipe, args.steps, args.step_workers, args.turns)
        (a, loss), (b, our_loss) = found["bare"], found["train"]
        ratios = [ours / theirs for ours, theirs in zip(b, a, strict=True)]
        kind = {"no": "float32"}.get(precision(), precision())
        print(f"| {size}, {args.batch_size}, {args.backbone} | {kind} | {1e3 * statistics.median(a):.1f} | "
              f"{1e3 * statistics.median(b):.1f} | {statistics.median(ratios):.3f} ({min(ratios):.3f} to "
              f"{max(ratios):.3f}) | {loss:.4f} | {our_loss:.4f} |")
        if size in rates:
            needs = args.batch_size / statistics.median(b)
            workers, gives = max(rates[size].items(), key=lambda wr: wr[1])
            told.append(f"{size}: {args.backbone} takes {needs:.0f} images/s here, the loader gives {gives:.0f} with "
                        f"{workers} workers: the {'network' if gives > needs else 'loader'} limits.")
    print("\n" + "\n".join(told))


if __name__ == "__main__":
    main()
