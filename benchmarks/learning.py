"""Is more learnt than a plain script learns? Phantoms at three difficulties, and test patients that no model has seen.

Both sides have the same images, patients, backbone, batches and epochs, and are judged by the last epoch's weights.
Their settings were chosen on phantoms of other seeds (see choices.py). The threshold of "pF1 submitted" is chosen on a
fold of the training patients that neither learns from; "at its best" is with the best threshold on the test breasts,
which nobody knows beforehand. Starting again on the same folder goes on."""
import argparse
import inspect
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import plain

from mammo_kit.dataset import augment, images
from mammo_kit.infer import probabilities
from mammo_kit.metrics import auroc, average_precision, best_threshold, choose_decision, pf1, pf1_floor
from mammo_kit.model import load_model
from mammo_kit.phantom import DIFFICULTIES, make_competition
from mammo_kit.preprocess import preprocess
from mammo_kit.train import Recipe, split, train

OURS = Recipe()
PLAIN = {"lr": 3e-3, "pool": "avg"}  # of lr 1e-3 and 3e-3, pool avg and max
LINES = {"mammo_kit": (OURS, None), "plain": (OURS, PLAIN)}


def phantoms(folder: Path, patients: int, seed: int, test_patients: int, difficulty: str, scale: float, size: str):
    "A competition in `folder`, and its training and test images."
    if not (folder / "competition").exists():  # it takes its name when it is complete
        shutil.rmtree(unfinished := folder / "unfinished", ignore_errors=True)
        make_competition(unfinished, patients, seed, test_patients, difficulty=difficulty, scale=scale)
        unfinished.rename(folder / "competition")
    preprocess(folder / "competition", folder / "train", size)
    preprocess(folder / "competition", folder / "test", size, split="test", exclude=("none",))


def once(file: Path, make: Callable[..., pd.DataFrame], *args) -> pd.DataFrame:
    "The table in a CSV file, made if it is not there."
    if not file.exists():
        print(file, flush=True)
        made = make(*args)
        file.parent.mkdir(parents=True, exist_ok=True)
        made.to_csv(file.with_suffix(".part"), index=False)
        file.with_suffix(".part").rename(file)
    return pd.read_csv(file)


def learn(recipe: Recipe, theirs: dict | None, out: Path, model: Path, *asked: tuple[Path, pd.DataFrame]):
    "Train by the recipe, or as much by the plain script with its own settings; the probabilities of all that is asked."
    if theirs:
        same = {k: getattr(recipe, k) for k in ("backbone", "epochs", "batch_size", "seed", "weights")}
        network = plain.train(out, split(images(out, labels=True), recipe)[0], **same, **theirs)
        return [plain.predict(network, *a) for a in asked]
    if train(out, model, recipe, processes=1, progress=False).exit_status:
        raise SystemExit("stopped; start again to go on")
    for file in model.glob("state*"): file.unlink()
    return [probabilities(*a, [load_model(model / "last.safetensors")[0]])[0] for a in asked]


def by_breast(frame: pd.DataFrame, probability: np.ndarray) -> pd.DataFrame:
    "The mean probability of each breast's images, and the label."
    frame = frame.assign(probability=np.asarray(probability))
    return frame.groupby("breast_id", as_index=False)[["cancer", "probability"]].mean()


def run(folder: Path, name: str, seed: int, epochs: int, recipe: Recipe, theirs: dict | None) -> pd.DataFrame:
    "A row each test breast: label, probability, and what would be submitted."
    recipe = replace(recipe, seed=seed, fold_seed=seed, epochs=epochs)
    held_out = split(images(folder / "train", labels=True), recipe)[1]
    test = images(folder / "test", labels=False)
    truth = pd.read_csv(folder / "competition" / "solution.csv", index_col=0)["cancer"]
    found = learn(recipe, theirs, folder / "train", folder / name, (folder / "train", held_out),
                  (folder / "test", test))
    known = by_breast(held_out, found[0])
    test = by_breast(test.assign(cancer=test["breast_id"].map(truth)), found[1])
    decision = choose_decision(known["cancer"], known["probability"])
    return test.assign(submitted=decision.apply(test["probability"]))


def table(results: dict[str, dict[int, pd.DataFrame]], head: str):
    "Print a line for each: AUROC by seed, mean ± standard deviation over the seeds, all seeds' breasts pooled."
    scores = {"average precision": lambda f: average_precision(f["cancer"], f["probability"]),
              "pF1 submitted": lambda f: pf1(f["cancer"], f["submitted"]),
              "pF1 at its best": lambda f: best_threshold(f["cancer"], f["probability"])[1]}
    first = next(iter(results.values()))
    if "submitted" not in next(iter(first.values())): del scores["pF1 submitted"]
    columns = [head, "breasts a seed, positive", *(f"AUROC, seed {s}" for s in first), "AUROC", "pooled", *scores,
               "floor"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")

    def spread(values: list[float]) -> str: return f"{np.mean(values):.3f} ± {np.std(values, ddof=len(values) > 1):.3f}"
    for name, by_seed in results.items():
        frames = list(by_seed.values())
        aurocs = [auroc(f["cancer"], f["probability"]) for f in frames]
        pooled = pd.concat(frames)
        print("|", " | ".join([
            name, f"{len(frames[0])}, {int(frames[0]['cancer'].sum())}", *(f"{a:.3f}" for a in aurocs), spread(aurocs),
            f"{auroc(pooled['cancer'], pooled['probability']):.3f}", *(spread([s(f) for f in frames])
            for s in scores.values()), f"{pf1_floor(pooled['cancer']):.3f}"]), "|")


def begun_with(out: Path, **settings):
    "Write down what the results in a folder come from; SystemExit if they come from something else."
    now = json.dumps(settings | {"augment": inspect.signature(augment), "plain": PLAIN}, indent=1, default=str)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "options.json"
    if not {*out.iterdir()} - {file}: file.write_text(now)
    if not file.exists() or file.read_text() != now:
        raise SystemExit(f"{out} holds results of other options, see {file.name} there: choose another folder")


def compare(doc: str, seeds: Sequence[int], difficulties: Sequence[str], lines: dict[str, tuple],
            run: Callable[..., pd.DataFrame] = run):
    "The command: have each line learn from the same phantoms, and print the table."
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for phantoms, models and predictions")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--difficulties", nargs="+", default=difficulties, choices=list(DIFFICULTIES))
    parser.add_argument("--lines", nargs="+", default=list(lines), choices=list(lines))
    parser.add_argument("--patients", type=int, default=60, help="of the training set; four fifths are learnt from")
    parser.add_argument("--test-patients", type=int, default=60, help="two breasts each")
    parser.add_argument("--scale", type=float, default=.25, help="of the phantoms")
    parser.add_argument("--size", default="256x128", help="of the preprocessed images")
    parser.add_argument("--epochs", type=int, default=OURS.epochs)
    args = parser.parse_args()
    begun_with(args.out, patients=args.patients, test_patients=args.test_patients, scale=args.scale, size=args.size,
               epochs=args.epochs, mammo_kit=asdict(OURS))
    results = {}
    for difficulty in args.difficulties:
        for seed in args.seeds:
            folder = args.out / difficulty / str(seed)
            if not all((folder / f"{line}.csv").exists() for line in args.lines):
                phantoms(folder, args.patients, seed, args.test_patients, difficulty, args.scale, args.size)
            for line in args.lines:
                found = once(folder / f"{line}.csv", run, folder, line, seed, args.epochs, *lines[line])
                results.setdefault(f"{difficulty}, {line}", {})[seed] = found
    table(results, "phantoms, by")


if __name__ == "__main__":
    compare(__doc__, [4, 5, 6], list(DIFFICULTIES), LINES)
