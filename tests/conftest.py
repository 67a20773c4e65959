"Where the real files are; a test that needs them skips, saying why, where they are absent."
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
