"""What is learnt from few real images? The 242 films of ../shared/data/mias (one view a breast, 39 with cancer) at
256x128, patients in five folds, three seeds of folds and models: out-of-fold scores of mammo_kit and the plain script.

Both have the same images, patients, backbone, batches and epochs, and are judged by the last epoch's weights: to take a
fold's best epoch would be to choose on what is held out. No setting was chosen on these films; all come from as many
phantoms of the same view and size. "From phantoms": both start from one backbone that has learnt from phantoms.
Starting again on the same folder goes on."""
import argparse
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
from common import SHARED
from learning import begun_with, by_breast, learn, once, phantoms, table
from safetensors.torch import save_file

from mammo_kit.dataset import images
from mammo_kit.model import load_model
from mammo_kit.preprocess import preprocess
from mammo_kit.train import Recipe, split, train

OURS = Recipe(epochs=16, augmentation="moderate", auxiliary={"biopsy": .5}, sampling="positive", ema=.98)
PLAIN = {"lr": 3e-3, "pool": "avg"}
EARLIER = Recipe(augmentation="moderate", sampling="positive", ema=.98)  # what learns from phantoms before
LINES = "mammo_kit", "plain", "mammo_kit, from phantoms", "plain, from phantoms"


def earlier_weights(folder: Path, patients: int, size: str) -> Path:
    "A file of a timm backbone that has learnt from phantoms, without its classifier."
    file = folder / f"{EARLIER.backbone}.safetensors"
    if not file.exists():
        phantoms(folder, patients, 1000, 1, "easy", .25, size)
        train(folder / "train", folder / "model", EARLIER)
        model = load_model(folder / "model" / "last.safetensors")[0]
        model.backbone.reset_classifier(0)
        save_file(model.backbone.state_dict(), file)
    return file


def run(out: Path, line: str, recipe: Recipe) -> pd.DataFrame:
    "A row each held-out breast of one fold: label and probability."
    held_out = split(images(out, labels=True), recipe)[1]
    model = out.parent / line / f"{recipe.seed}_{recipe.fold}"
    theirs = PLAIN if line.startswith("plain") else None
    return by_breast(held_out, learn(recipe, theirs, out, model, (out, held_out))[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for images, models and predictions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--lines", nargs="+", default=list(LINES), choices=LINES)
    parser.add_argument("--epochs", type=int, default=OURS.epochs)
    parser.add_argument("--size", default="256x128")
    parser.add_argument("--phantoms", type=int, default=200, help="patients to learn from before")
    args = parser.parse_args()
    if not (SHARED / "mias").is_dir():
        return print(f"skipped: no folder {SHARED / 'mias'} with the films")
    begun_with(args.out, epochs=args.epochs, size=args.size, phantoms=args.phantoms, mammo_kit=asdict(OURS),
               earlier=asdict(EARLIER))
    preprocess(SHARED / "mias", args.out / "images", args.size, exclude=("none",))
    results = {}
    for line in args.lines:
        earlier = str(earlier_weights(args.out / "phantoms", args.phantoms, args.size)) if "phantoms" in line else ""
        for seed in args.seeds:
            folds = [replace(OURS, epochs=args.epochs, seed=seed, fold_seed=seed, fold=fold, weights=earlier)
                     for fold in range(OURS.n_folds)]
            results.setdefault(line, {})[seed] = pd.concat(
                once(args.out / line / f"{r.seed}_{r.fold}.csv", run, args.out / "images", line, r) for r in folds)
    table(results, "films, by")


if __name__ == "__main__":
    main()
