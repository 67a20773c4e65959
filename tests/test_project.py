"The project as a whole: the package is what the notebooks export, and importing it costs little."
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def files_below(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*")
            if f.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(f.parts)}


def test_package_and_readme_are_what_the_notebooks_export(tmp_path):
    "Nothing is written by hand in mammo_kit/, no module is stale, and the notebooks are clean."
    for name in ("settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("nbs", "nbs/kernels"):
        (tmp_path / folder).mkdir()
        for notebook in (ROOT / folder).glob("*.ipynb"): shutil.copy(notebook, tmp_path / folder)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    bin_folder = Path(sys.executable).parent
    render = "jupyter nbconvert --log-level WARN --to markdown --output-dir . --output README nbs/index.ipynb".split()
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for command in (["nbdev_export"], ["nbdev_clean"], render):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=environment)
    for folder, remedy in (("mammo_kit", "make export"), ("nbs", "nbdev_clean")):
        here = {name: data for name, data in files_below(ROOT / folder).items() if name.endswith((".py", ".ipynb"))}
        made = files_below(tmp_path / folder)
        differ = sorted(n for n in here.keys() | made.keys() if here.get(n) != made.get(n))
        assert not differ, f"{folder}: {', '.join(differ)} out of step with the notebooks; run {remedy}"
    assert (ROOT / "README.md").read_text() == (tmp_path / "README.md").read_text(), "README.md is stale: make export"


HEAVY = ("torch", "timm", "sklearn", "matplotlib", "scipy")


@pytest.mark.parametrize("module", ["mammo_kit", "mammo_kit.preprocess", "mammo_kit.phantom", "mammo_kit.cli"])
def test_preprocessing_imports_no_torch_and_little_time(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        seconds.append(time.perf_counter() - start)
        assert out.strip() == "[]"
    empty = min(_seconds_of("pass") for _ in range(5))
    assert min(seconds) - empty < .5


def _seconds_of(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start
