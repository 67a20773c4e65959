"The notebooks that run on Kaggle, run here with other parameters, and what Kaggle is told about them."
import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbconvert.preprocessors import ExecutePreprocessor

from mammo_kit import phantom

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("preprocess", "train", "infer")


def run_kernel(stage: str, folder: Path, **parameters):
    "Run a stage's notebook as papermill does: the parameters in a cell of their own behind the tagged one."
    nb = nbformat.read(ROOT / "nbs" / "kernels" / f"{stage}.ipynb", 4)
    (at,) = (i for i, cell in enumerate(nb.cells) if "parameters" in cell.metadata.get("tags", []))
    unknown = [name for name in parameters if not re.search(rf"^{name} = ", nb.cells[at].source, re.MULTILINE)]
    assert not unknown, f"{stage} has no parameter {unknown}"
    nb.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(f"{k} = {v!r}" for k, v in parameters.items())))
    ExecutePreprocessor(timeout=300).preprocess(nb, {"metadata": {"path": str(folder)}})


def test_the_three_kernels_make_a_submission(tmp_path):
    src = phantom.make_competition(tmp_path / "src", patients=16, test_patients=3, scale=.15, cancer_rate=.5, workers=1,
                                   progress=False)
    run_kernel("preprocess", tmp_path, SRC=str(src), OUT=str(tmp_path / "images"), SIZE="64x32")
    run_kernel("train", tmp_path, IMAGES=str(tmp_path / "images"), MODEL=str(tmp_path / "model"), EPOCHS=1)
    run_kernel("infer", tmp_path, SRC=str(src), MODELS=str(tmp_path / "model"),
               SUBMISSION=str(tmp_path / "submission.csv"))
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert submission["prediction_id"].tolist() == list(pd.read_csv(src / "test.csv")["prediction_id"].unique())
    assert submission["cancer"].between(0, 1).all()


@pytest.mark.parametrize("stage", STAGES)
def test_metadata_is_what_kaggle_takes(stage):
    folder = ROOT / "kernel-metadata" / stage
    told = json.loads((folder / "kernel-metadata.json").read_text())
    owner, slug = told["id"].split("/")
    assert owner == "OWNER" and len(slug) >= 5  # the owner is filled in when it is pushed
    assert re.sub(r"[^a-z0-9]+", "-", told["title"].lower()) == slug
    assert (folder / told["code_file"]).is_file()
    assert told["is_private"] is True and told["enable_internet"] is False
    assert told["enable_gpu"] is ("machine_shape" in told)


def test_the_library_dataset_has_a_title_and_one_licence():
    told = json.loads((ROOT / "kernel-metadata" / "dataset" / "dataset-metadata.json").read_text())
    assert 6 <= len(told["title"]) <= 50 and len(told["licenses"]) == 1
