"""Where the real files are; a test that needs them skips, saying why, where they are absent. And one small competition,
its images and a model of them, made once for all tests: copy them before you change them."""
import signal
import sys
from pathlib import Path

import pytest

# A job that a shell started in the background ignores Ctrl-C, and so would the processes that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure():
    "`make test-kaggle` tests the wheel that it has installed, not the checkout beside it."
    import mammo_kit
    if Path(sys.prefix).name == ".venv-kaggle" and not Path(mammo_kit.__file__).is_relative_to(sys.prefix):
        raise pytest.UsageError(f"{mammo_kit.__file__} is not the installed library: start pytest in the folder tests")


@pytest.fixture(scope="session")
def data() -> Path:
    "The folder of real mammograms and conformance files beside the project."
    if not DATA.is_dir():
        pytest.skip("../shared/data, the folder of real DICOM files beside the project, is absent")
    return DATA


def real_files(*folders: str) -> list:
    "The files of these folders of real data, as parameters named by file; one skipped parameter where they are absent."
    files = sorted(f for folder in folders for f in (DATA / folder).glob("*") if f.is_file())
    if not files:
        return [pytest.param(None, marks=pytest.mark.skip(reason="../shared/data is absent"))]
    return [pytest.param(f, id=f.name) for f in files]


@pytest.fixture(scope="session")
def competition(tmp_path_factory) -> Path:
    "Twelve training and four test patients, 4 to 5 images each."
    from mammo_kit.phantom import make_competition
    out = tmp_path_factory.mktemp("competition") / "src"
    return make_competition(out, 12, test_patients=4, cancer_rate=.4, scale=.15, workers=1, progress=False)


@pytest.fixture(scope="session")
def prepared(competition, tmp_path_factory) -> Path:
    "Its training images, 64x32."
    from mammo_kit.preprocess import preprocess
    out = tmp_path_factory.mktemp("prepared") / "out"
    assert preprocess(competition, out, "64x32", shard_size=16, workers=1, progress=False).exit_status == 0
    return out


@pytest.fixture(scope="session")
def recipe():
    "A backbone without batch statistics, three passes over the images."
    from mammo_kit.train import Recipe
    return Recipe("test_convnext", "avg", epochs=3, n_folds=3)


@pytest.fixture(scope="session")
def trained(prepared, recipe, tmp_path_factory) -> Path:
    "The folder of a model, made on one thread in one go."
    import torch

    from mammo_kit.train import train
    torch.set_num_threads(1)
    return train(prepared, tmp_path_factory.mktemp("trained") / "model", recipe, workers=0, progress=False).model


@pytest.fixture
def one_thread():
    "Sums come out the same to the last bit only for one number of threads."
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
