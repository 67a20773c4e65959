"The notebooks that run on Kaggle, run here with other parameters."
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert.preprocessors import ExecutePreprocessor

from mammo_kit import phantom
from mammo_kit.bundle import STAGES, kernel, parameters
from mammo_kit.model import load_model
from mammo_kit.preprocess import preprocess

KERNELS = Path(__file__).resolve().parents[1] / "nbs" / "kernels"


def run_kernel(stage: str, folder: Path, fold: int | None = None, **values):
    "Run a stage's notebook as it would be sent with these values."
    notebook = kernel(stage, "radiologist", fold, values).notebook
    ExecutePreprocessor(timeout=300).preprocess(notebook, {"metadata": {"path": str(folder)}})


def test_the_three_kernels_make_a_submission(tmp_path):
    src = phantom.make_competition(tmp_path / "src", patients=16, test_patients=3, scale=.15, cancer_rate=.5, workers=1,
                                   progress=False)
    run_kernel("preprocess", tmp_path, SRC=str(src), SIZE="64x32", OUT="part1", PART="1/2", SHARD_SIZE=16)
    preprocess(src, tmp_path / "part2", "64x32", part="2/2", shard_size=16, workers=1, progress=False)
    run_kernel("train", tmp_path, 1, IMAGES="part1 part2", EPOCHS=1, BATCH_SIZE=4, AT_ONCE=2,
               CHANGES={"views": "mean", "backbone": "test_convnext", "pool": "avg"})
    recipe = load_model(tmp_path / "model")[1]["recipe"]
    assert [recipe[k] for k in ("views", "backbone", "epochs", "batch_size", "fold")] == [
        "mean", "test_convnext", 1, 4, 1]
    run_kernel("infer", tmp_path, SRC=str(src), MODELS="model")
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert submission["prediction_id"].tolist() == list(pd.read_csv(src / "test.csv")["prediction_id"].unique())
    assert submission["cancer"].between(0, 1).all()


def test_a_kernel_is_parameters_one_cell_of_imports_and_calls():
    install = set()
    for stage in STAGES:
        notebook = nbformat.read(KERNELS / f"{stage}.ipynb", 4)
        values, imports, *calls = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assert len(parameters(stage)) == sum(" = " in line for line in values.splitlines())
        install.add(imports.partition("\n\n")[2].partition("import mammo_kit\n")[0])
        logic = ("import", "from", "def", "class", "while")
        assert not [line for line in "\n".join(calls).splitlines() if line.startswith(logic)]
    assert len(install) == 1, "the cell that installs the library is the same in all"
