"""The yardstick of learning.py and mias.py: what one writes in an evening with PyTorch and timm, on images made ready.

`python benchmarks/plain.py work/demo/images` trains on four folds of patients and scores the fifth."""
import argparse
from pathlib import Path

import pandas as pd
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mammo_kit.dataset import folds, images, read_image
from mammo_kit.metrics import scores


class Images(Dataset):
    def __init__(self, out: Path, frame: pd.DataFrame, train: bool):
        self.out, self.rows, self.train = out, frame.to_dict("records"), train

    def __len__(self): return len(self.rows)

    def __getitem__(self, i):
        x = torch.from_numpy(read_image(self.out, self.rows[i]))[None] / 255
        for side in (1, 2):
            if self.train and torch.rand(()) < .5: x = x.flip(side)
        return x, torch.tensor(float(self.rows[i].get("cancer", 0)))


def train(out: Path, frame: pd.DataFrame, backbone="regnetx_002", epochs=8, batch_size=8, lr=1e-3, pool="avg", seed=0,
          weights="") -> nn.Module:
    "The model after the last epoch."
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(backbone, in_chans=1, num_classes=1, global_pool=pool)
    if weights: model.load_state_dict(load_file(weights), strict=False)
    model.to(device)
    loader = DataLoader(Images(out, frame, True), batch_size, shuffle=True, drop_last=True, num_workers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            loss = nn.functional.binary_cross_entropy_with_logits(model(x.to(device)).squeeze(1), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


@torch.inference_mode()
def predict(model: nn.Module, out: Path, frame: pd.DataFrame) -> pd.Series:
    "The probability of each image."
    model.eval()
    device = next(model.parameters()).device
    loader = DataLoader(Images(out, frame, False), 16, num_workers=1)
    return pd.Series(torch.cat([model(x.to(device)).squeeze(1).sigmoid().cpu() for x, _ in loader]), frame.index)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="what `mammo-kit preprocess` wrote")
    args = parser.parse_args()
    frame = images(args.out, labels=True)
    held_out = folds(frame) == 0
    model = train(args.out, frame[~held_out])
    valid = frame[held_out].assign(probability=predict(model, args.out, frame[held_out]))
    breasts = valid.groupby("breast_id")[["cancer", "probability"]].mean()
    print(scores(breasts["cancer"], breasts["probability"]))


if __name__ == "__main__":
    main()
