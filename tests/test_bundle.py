"""What is sent to Kaggle: named by its commit, checked before it leaves, and nothing private in it.

Most tests work on a small checkout of their own: the kernels, one notebook of the library and one commit."""
import base64
import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from fnmatch import fnmatch
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

import mammo_kit
from mammo_kit import bundle
from mammo_kit.bundle import STAGES, build_library, check_private, kernel, library_version, parameters, private_things

ROOT = Path(__file__).resolve().parents[1]
ME = ["-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "commit.gpgsign=false"]


def git(root: Path, *args: str) -> str:
    return subprocess.run(["git", *ME, *args], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, name: str = "", text: str = "", message: str = "change") -> str:
    "Write a file, if one is named, and commit everything; the commit."
    if name: (root / name).write_text(text)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)
    return git(root, "rev-parse", "HEAD")


def export(root: Path):
    command = [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def add_to_library(root: Path, source: str, exported: bool = True):
    "One more cell in a notebook of the library."
    nb = nbformat.read(root / "nbs/00_competition.ipynb", 4)
    nb.cells.append(nbformat.v4.new_code_cell(f"#| export\n{source}"))
    nbformat.write(nb, root / "nbs/00_competition.ipynb")
    if exported: export(root)


def make_checkout(folder: Path, notebooks: str = "00_competition.ipynb") -> Path:
    "A checkout of the project with one commit, its package exported from the notebooks that fit the pattern."
    for name in ("settings.ini", "setup.py", "constraints.txt", ".gitignore", "README.md"):
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder)
    for name in ("kernel-metadata", "nbs/kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for notebook in (ROOT / "nbs").glob(notebooks): shutil.copy(notebook, folder / "nbs")
    (folder / "mammo_kit").mkdir()
    (folder / "mammo_kit" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    export(folder)
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    return folder


def make_wheel(folder: Path, name: str, version: str, tag: str) -> Path:
    "A wheel that pip takes."
    folder.mkdir(parents=True, exist_ok=True)
    about, tags = f"{name}-{version}.dist-info", [f"Tag: {'-'.join(tag.split('-')[:2])}-{p}"
                                                  for p in tag.split("-")[2].split(".")]
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as z:
        z.writestr(f"{name}.py", "")
        z.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        z.writestr(f"{about}/WHEEL", "\n".join(["Wheel-Version: 1.0", "Root-Is-Purelib: true", *tags, ""]))
        z.writestr(f"{about}/RECORD", "")
    return folder / f"{name}-{version}-{tag}.whl"


def pinned(root: Path, name: str) -> str:
    "The version of constraints.txt."
    return next(line.split("==")[1] for line in (root / "constraints.txt").read_text().splitlines()
                if line.startswith(f"{name}=="))


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path: return make_checkout(tmp_path_factory.mktemp("original") / "checkout")


@pytest.fixture
def checkout(original, tmp_path, monkeypatch) -> Path:
    "A checkout to change, and to work in."
    shutil.copytree(original, tmp_path / "checkout")
    monkeypatch.chdir(tmp_path / "checkout")
    return tmp_path / "checkout"


@pytest.fixture
def no_dependencies(monkeypatch):
    "For tests of other things than the wheels of others."
    monkeypatch.setattr(bundle, "dependency_wheels", lambda root: [])


def change_metadata(root: Path, stage: str, **values):
    "Other values in a stage's kernel-metadata.json; a key whose value is ... is taken out."
    file = root / "kernel-metadata" / stage / "kernel-metadata.json"
    told = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not ...}))


def change_notebook(root: Path, stage: str, change):
    "Another notebook of a stage."
    file = root / "nbs" / "kernels" / f"{stage}.ipynb"
    nb = nbformat.read(file, 4)
    change(nb)
    nbformat.write(nb, file)


def set_parameters(root: Path, stage: str, source: str):
    def change(nb):
        cell = next(c for c in nb.cells if "parameters" in c.metadata.get("tags", []))
        cell.source = source
    change_notebook(root, stage, change)


# The checkout and its version.

def test_the_checkout_is_found_from_within_it_and_from_elsewhere(checkout, tmp_path, monkeypatch):
    for inside in (checkout, checkout / "nbs" / "kernels"):
        monkeypatch.chdir(inside)
        assert bundle.project() == checkout
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mammo_kit, "__file__", str(checkout / "mammo_kit" / "__init__.py"))
    assert bundle.project() == checkout
    monkeypatch.setattr(mammo_kit, "__file__", str(tmp_path / "site-packages" / "mammo_kit" / "__init__.py"))
    with pytest.raises(ValueError, match=r"settings\.ini and kernel-metadata"): bundle.project()


def test_the_version_names_the_last_commit_that_changed_the_library(checkout):
    first = git(checkout, "rev-parse", "HEAD")
    assert library_version(checkout) == f"0.1.0+g{first[:12]}"
    commit(checkout, "README.md", "other words\n")
    commit(checkout, "constraints.txt", "accelerate==1.0\n")
    assert library_version(checkout) == f"0.1.0+g{first[:12]}"
    for name, text in (("mammo_kit/other.py", "x = 1\n"), ("setup.py", "x = 1\n")):
        assert library_version(checkout) != (changed := f"0.1.0+g{commit(checkout, name, text)[:12]}")
        assert library_version(checkout) == changed
    settings = (checkout / "settings.ini").read_text().replace("version = 0.1.0", "version = 0.2.0")
    assert library_version(checkout)[:5] == "0.1.0"
    last = commit(checkout, "settings.ini", settings)
    assert library_version(checkout, dirty=True) == f"0.2.0+g{last[:12]}"


@pytest.mark.parametrize(("change", "name"), [
    (lambda at: (at / "mammo_kit/competition.py").write_text("x = 1\n"), "mammo_kit/competition.py"),
    (lambda at: (at / "mammo_kit/new.py").write_text("x = 1\n"), "mammo_kit/new.py"),
    (lambda at: (at / "mammo_kit/competition.py").unlink(), "mammo_kit/competition.py"),
    (lambda at: git(at, "mv", "setup.py", "mammo_kit/other.py"), "mammo_kit/other.py"),
    (lambda at: ((at / "settings.ini").write_text("[DEFAULT]\nversion = 1\n"), git(at, "add", "-A")), "settings.ini"),
], ids=["modified", "new", "deleted", "renamed", "staged"])
def test_what_is_not_committed_is_named_and_refused(checkout, change, name):
    clean = library_version(checkout, dirty=True)
    assert not clean.endswith(".dirty")
    change(checkout)
    with pytest.raises(ValueError, match=rf"not committed: .*{name}.*commit first"): library_version(checkout)
    assert library_version(checkout, dirty=True).endswith(f"+g{clean.partition('+g')[2]}.dirty")


def test_changes_outside_of_the_library_are_no_hindrance(checkout):
    for name in ("README.md", "nbs/kernels/train.ipynb", "notes.txt"): (checkout / name).write_text("mine")
    assert not library_version(checkout).endswith(".dirty")


def test_a_folder_that_git_does_not_know(tmp_path, checkout, monkeypatch):
    shutil.rmtree(checkout / ".git")
    with pytest.raises(ValueError, match=r"checkout: git log failed: .*not a git repository"): library_version(checkout)
    git(checkout, "init", "-q")
    with pytest.raises(ValueError, match="commit"): library_version(checkout)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="git is not installed"): library_version(checkout)


def test_modules_that_are_not_what_the_notebooks_export_are_stale(checkout, tmp_path, no_dependencies):
    assert bundle.stale_modules(checkout) == []
    module = checkout / "mammo_kit" / "competition.py"
    commit(checkout, "mammo_kit/competition.py", module.read_text() + "\n# by hand\n")
    commit(checkout, "mammo_kit/left_over.py", "x = 1\n")
    assert bundle.stale_modules(checkout) == ["competition.py", "left_over.py"]
    with pytest.raises(ValueError, match=r"competition\.py, left_over\.py: not what the notebooks export"):
        build_library(tmp_path / "out", "me")
    assert not (tmp_path / "out").exists()


def test_an_edit_in_a_notebook_that_was_not_exported_is_stale(checkout):
    add_to_library(checkout, "NEW_CONSTANT = 1", exported=False)
    commit(checkout)
    assert "competition.py" in bundle.stale_modules(checkout)
    (checkout / "nbs/00_competition.ipynb").write_text("{")
    with pytest.raises(ValueError, match="nbdev cannot export"): bundle.stale_modules(checkout)


# Kernels: what Kaggle is told.

def told(stage: str) -> dict:
    return json.loads((ROOT / "kernel-metadata" / stage / "kernel-metadata.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_our_own_metadata_has_no_problems(stage):
    assert bundle.kernel_problems(told(stage)) == []
    assert bundle.kernel_problems(told(stage) | {"id": "a-b/mammo-kit-2", "title": "Mammo Kit: 2!", "keywords": ["gpu"],
                                          "docker_image_pinning_type": "original", "kernel_sources": []}) == []


@pytest.mark.parametrize(("change", "words"), [
    ({"id": "mammo-kit-train"}, ["id 'mammo-kit-train'", "OWNER/SLUG"]),
    ({"id": "/mammo-kit-train"}, ["id '/mammo-kit-train'"]),
    ({"id": "OWNER/kit1", "title": "kit1"}, ["id 'OWNER/kit1'", "5 to 50", "title 'kit1'"]),
    ({"id": f"OWNER/{51 * 'a'}", "title": 51 * "a"}, ["5 to 50"]),
    ({"id": "OWNER/Mammo_Kit", "title": "Mammo_Kit"}, ["id 'OWNER/Mammo_Kit'"]),
    ({"id": ...}, ["id None"]),
    ({"title": "Training of fold 1"}, ["'training-of-fold-1'", "'mammo-kit-train'"]),
    ({"title": ...}, ["title ''"]),
    ({"enable_internet": True}, ["enable_internet true: expected false"]),
    ({"enable_internet": "false"}, ['enable_internet "false": expected true or false']),
    ({"enable_internet": ...}, ["enable_internet null"]),
    ({"is_private": False}, ["is_private false: expected true"]),
    ({"is_private": "true"}, ['is_private "true"']),
    ({"enable_gpu": 1}, ["enable_gpu 1: expected true or false"]),
    ({"enable_gpu": False}, ["enable_gpu false", "NvidiaTeslaT4"]),
    ({"machine_shape": ...}, ["enable_gpu true", "machine_shape None"]),
    ({"machine_shape": ""}, ["machine_shape ''"]),
    ({"language": "r"}, ['language "r": expected "python"']),
    ({"kernel_type": "script"}, ['kernel_type "script": expected "notebook"']),
    ({"enable_interent": False}, ["unknown key 'enable_interent'"]),
    ({"dataset_sources": "OWNER/mammo-kit"}, ["dataset_sources 'OWNER/mammo-kit': expected a list"]),
    ({"dataset_sources": ["mammo-kit"]}, ["dataset_sources: 'mammo-kit', expected OWNER/SLUG"]),
    ({"kernel_sources": ["OWNER/"]}, ["kernel_sources: 'OWNER/'"]),
    ({"kernel_sources": [3]}, ["kernel_sources: 3"]),
    ({"competition_sources": ["competitions/rsna"]}, ["competition_sources: 'competitions/rsna'"]),
    ({"docker_image_pinning_type": "newest"}, ["'newest': expected original or latest"]),
])
def test_each_problem_of_the_metadata_is_named(checkout, change, words):
    change_metadata(checkout, "train", **change)
    with pytest.raises(ValueError, match=r"train/kernel-metadata\.json: ") as error: kernel("train", "me")
    assert [word for word in words if word not in str(error.value)] == []


def test_all_problems_are_named_at_once_and_each_once():
    wrong = told("train") | {"title": "x", "is_private": False, "color": "red"}
    assert len(bundle.kernel_problems(wrong)) == 4  # the title is too short, and makes another slug


@pytest.mark.parametrize("key", ["kernel_sources", "competition_sources", "model_sources", "keywords"])
def test_a_list_that_is_not_there_is_empty(checkout, key):
    change_metadata(checkout, "preprocess", **{key: ...})
    assert not kernel("preprocess", "me").metadata.get(key)


@pytest.mark.parametrize(("change", "words"), [
    ({"id": "jane/mammo-kit-preprocess"}, "expected 'OWNER/mammo-kit-preprocess'"),
    ({"id": "OWNER/mammo-kit-windows", "title": "mammo-kit-windows"}, "expected 'OWNER/mammo-kit-preprocess'"),
    ({"dataset_sources": []}, "OWNER/mammo-kit is missing"), ({"dataset_sources": ...}, "OWNER/mammo-kit is missing")])
def test_what_other_stages_rely_on_is_settled(checkout, change, words):
    change_metadata(checkout, "preprocess", **change)
    with pytest.raises(ValueError, match=words): kernel("preprocess", "me")


@pytest.mark.parametrize(("text", "words"), [
    (None, "is missing"), ("{", "no valid JSON"), ("[]", "expected an object")])
def test_metadata_that_cannot_be_read(checkout, text, words):
    file = checkout / "kernel-metadata/infer/kernel-metadata.json"
    file.unlink()
    if text is not None: file.write_text(text)
    with pytest.raises(ValueError, match=words): kernel("infer", "me")


def test_a_code_file_that_is_not_there(checkout):
    change_metadata(checkout, "infer", code_file="../../nbs/kernels/inference.ipynb")
    with pytest.raises(ValueError, match=r"code_file '\.\./\.\./nbs/kernels/inference\.ipynb': no such file"):
        kernel("infer", "me")
    with pytest.raises(ValueError, match="stage 'predict': expected one of preprocess, train, infer"):
        kernel("predict", "me")


# Kernels: values of parameters.

def test_words_of_a_command_line_become_values():
    assert bundle.parse_values(["EPOCHS=4", "MODEL=/kaggle/working/a=b", "SRC="]) == {
        "EPOCHS": "4", "MODEL": "/kaggle/working/a=b", "SRC": ""}
    assert bundle.parse_values([]) == {}
    for wrong in ("EPOCHS", "=4", "2X=4", "EPOCHS =4", "--epochs=4", ""):
        with pytest.raises(ValueError, match=r"--set .*expected NAME=VALUE"): bundle.parse_values([wrong])


def injected(notebook) -> list[str]:
    return [c.source for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]


def values_seen(notebook) -> dict:
    "What the parameters are when the cells have run, in order."
    space = {}
    for cell in notebook.cells:
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])): exec(cell.source, space)
    return space


def test_given_values_win_over_the_defaults(checkout):
    made = kernel("train", "me", values={"EPOCHS": "4", "IMAGES": "/kaggle/input/x", "MODEL": "it's \"here\""}).notebook
    seen = values_seen(made)
    assert (seen["EPOCHS"], seen["IMAGES"], seen["MODEL"]) == (4, "/kaggle/input/x", "it's \"here\"")
    assert (seen["FOLD"], seen["N_FOLDS"]) == (0, parameters("train")["N_FOLDS"])
    tags = [set(c.metadata.get("tags", [])) for c in made.cells]
    at = tags.index({"parameters"})
    assert tags[at + 1] == {"injected-parameters"} and len(injected(made)) == 1
    assert injected(kernel("preprocess", "me").notebook) == injected(kernel("infer", "me").notebook) == []


@pytest.mark.parametrize(("default", "given", "value"), [
    ("8", "4", 4), ("8", " 4 ", 4), ("8", 4, 4), ("1e-3", ".5", .5), ("1e-3", "1", 1.), ("1e-3", 1, 1.),
    ("True", "False", False), ("'png'", "jpeg", "jpeg"), ("'png'", "8", "8"), ("''", "64x32", "64x32"),
    ("'png'", 8, "8"), ("[1, 2]", "[3]", [3]), ("'x'", "", ""),
])
def test_a_value_takes_the_type_of_its_default(checkout, default, given, value):
    set_parameters(checkout, "preprocess", f"A = {default}  # of something\nB = 2")
    seen = values_seen(kernel("preprocess", "me", values={"A": given}).notebook)["A"]
    assert seen == value and type(seen) is type(value)


@pytest.mark.parametrize(("default", "given", "kind"), [
    ("8", "many", "int"), ("8", "4.5", "int"), ("8", "True", "int"), ("8", True, "int"), ("8", "", "int"),
    ("1e-3", "small", "float"), ("True", "false", "bool"), ("True", "1", "bool"), ("[1]", "(1,)", "list"),
    ("8", "__import__('os').getpid()", "int"),
])
def test_a_value_of_another_type_is_refused(checkout, default, given, kind):
    set_parameters(checkout, "preprocess", f"A = {default}")
    with pytest.raises(ValueError, match=f"preprocess: A=.*expected {kind}, like its default"):
        kernel("preprocess", "me", values={"A": given})


def test_a_tuple_does_not_become_text(checkout):
    "Papermill writes a tuple as text."
    set_parameters(checkout, "preprocess", "A = (1, 2)")
    with pytest.raises(ValueError, match="the default of A"): kernel("preprocess", "me", values={"A": "(3, 4)"})


def test_a_name_that_the_notebook_does_not_have(checkout):
    with pytest.raises(ValueError, match="train has no parameter EPOCH; it has .*EPOCHS"):
        kernel("train", "me", values={"EPOCH": "4"})
    assert set(parameters("train")) >= {"IMAGES", "MODEL", "FOLD", "N_FOLDS", "EPOCHS"}


def test_a_default_that_is_no_plain_value_is_named(checkout):
    set_parameters(checkout, "preprocess", "A = 1\nOUT = '/kaggle' + '/working'")
    with pytest.raises(ValueError, match="OUT"): kernel("preprocess", "me", values={"A": "2"})


# Kernels: folds, machines, owner, notebook.

def test_each_fold_is_a_kernel_of_its_own(checkout):
    made = [kernel("train", "me", fold=k) for k in (0, 3)]
    assert [(k.ref, k.slug, k.metadata["title"]) for k in made] == [
        ("me/mammo-kit-train-f0", "mammo-kit-train-f0", "mammo-kit-train-f0"),
        ("me/mammo-kit-train-f3", "mammo-kit-train-f3", "mammo-kit-train-f3")]
    assert [values_seen(k.notebook)["FOLD"] for k in made] == [0, 3]
    assert kernel("train", "me").ref == made[0].ref
    assert all(bundle.kernel_problems(k.metadata) == [] for k in made)


def test_folds_that_are_not_there(checkout):
    n = parameters("train")["N_FOLDS"]
    for wrong in (-1, n):
        with pytest.raises(ValueError, match=f"fold {wrong}: expected 0 to {n - 1} of {n} folds"):
            kernel("train", "me", fold=wrong)
    assert kernel("train", "me", fold=n, values={"N_FOLDS": n + 1}).slug == f"mammo-kit-train-f{n}"
    with pytest.raises(ValueError, match="fold 2: expected 0 to 1"): kernel("train", "me", 2, {"N_FOLDS": "2"})
    with pytest.raises(ValueError, match="choose it by --fold"): kernel("train", "me", values={"FOLD": "1"})
    for stage in ("preprocess", "infer"):
        with pytest.raises(ValueError, match="--fold belongs to train"): kernel(stage, "me", fold=0)


def test_infer_takes_the_folds_that_it_is_told(checkout):
    assert kernel("infer", "me").metadata["kernel_sources"] == ["me/mammo-kit-train-f0"]
    assert kernel("infer", "me", folds=(0, 2, 4)).metadata["kernel_sources"] == [
        "me/mammo-kit-train-f0", "me/mammo-kit-train-f2", "me/mammo-kit-train-f4"]


def test_a_training_goes_on_from_its_own_output_only_when_told(checkout):
    assert kernel("train", "me", 1).metadata["kernel_sources"] == ["me/mammo-kit-preprocess"]
    assert kernel("train", "me", 1, resume=True).metadata["kernel_sources"] == [
        "me/mammo-kit-preprocess", "me/mammo-kit-train-f1"]


def test_each_part_is_a_kernel_of_its_own_and_training_takes_all(checkout):
    made = [kernel("preprocess", "me", parts=3, part=k, values={"SIZE": "2048x1024"}) for k in (1, 2, 3)]
    assert [(k.ref, k.metadata["title"]) for k in made] == [
        (f"me/mammo-kit-preprocess-p{k}", f"mammo-kit-preprocess-p{k}") for k in (1, 2, 3)]
    seen = [values_seen(k.notebook) for k in made]
    assert [(v["PART"], v["SIZE"]) for v in seen] == [(f"{k}/3", "2048x1024") for k in (1, 2, 3)]
    train = kernel("train", "me", 1, parts=3, resume=True)
    assert train.metadata["kernel_sources"] == [*(k.ref for k in made), "me/mammo-kit-train-f1"]
    pattern = values_seen(train.notebook)["PREPROCESS"]
    assert all(fnmatch(k.slug, pattern) for k in made) and not fnmatch("mammo-kit-preprocess", pattern)
    whole = kernel("preprocess", "me", parts=1, part=1)
    assert (whole.ref, values_seen(whole.notebook)["PART"]) == ("me/mammo-kit-preprocess", "1/1")
    assert values_seen(kernel("train", "me").notebook)["PREPROCESS"] == "mammo-kit-preprocess"
    given = kernel("train", "me", parts=2, values={"PREPROCESS": "mine-*"})
    assert values_seen(given.notebook)["PREPROCESS"] == "mine-*"


@pytest.mark.parametrize("options, words", [
    ({"parts": 0}, "parts 0: expected 1 or more"), ({"parts": 3}, "part None: expected 1 to 3"),
    ({"parts": 3, "part": 4}, "part 4: expected 1 to 3"), ({"part": 2}, "part 2: expected 1 to 1"),
    ({"parts": 3, "part": 1, "values": {"PART": "1/3"}}, "choose it by --parts"),
    ({"attach": ["me/weights"]}, "attached to train, not to preprocess")])
def test_parts_that_are_not_there(checkout, options, words):
    with pytest.raises(ValueError, match=words): kernel("preprocess", "me", **options)


def test_a_dataset_of_pretrained_weights_is_attached(checkout):
    made = kernel("train", "me", attach=["you/convnext-small"])
    assert made.metadata["dataset_sources"] == ["me/mammo-kit", "you/convnext-small"]
    with pytest.raises(ValueError, match="train: dataset_sources: 'weights', expected OWNER/SLUG"):
        kernel("train", "me", attach=["weights"])


def test_a_recipe_is_checked_before_it_is_sent(checkout):
    values = {"RECIPE": "rsna_1st", "CHANGES": '{"ema": .99, "auxiliary": {"age": .1}}'}
    seen = values_seen(kernel("train", "me", values=values).notebook)
    assert (seen["RECIPE"], seen["CHANGES"]) == ("rsna_1st", {"ema": .99, "auxiliary": {"age": .1}})
    for name, value, words in (
            ("RECIPE", "rsna_2nd", "RECIPE 'rsna_2nd': expected one of .*rsna_1st"),
            ("CHANGES", '{"emma": .9}', "CHANGES emma: a recipe has backbone, .*ema"),
            ("CHANGES", '{"ema": 2}', "ema 2: expected a share"),
            ("CHANGES", "{'epochs': 'a'}", "epochs 'a': expected int"),
            ("CHANGES", '{"fold": 1}', "CHANGES fold: choose it by --fold"), ("CHANGES", "ema=.9", "expected dict")):
        with pytest.raises(ValueError, match=words): kernel("train", "me", values={name: value})


def test_the_machine(checkout):
    shapes = {stage: kernel(stage, "me").metadata for stage in STAGES}
    assert "machine_shape" not in shapes["preprocess"] and shapes["preprocess"]["enable_gpu"] is False
    assert shapes["train"]["machine_shape"] == "NvidiaTeslaT4"
    assert shapes["infer"]["machine_shape"] == "NvidiaTeslaP100"
    other = kernel("preprocess", "me", accelerator="NvidiaTeslaT4").metadata
    assert other["machine_shape"] == "NvidiaTeslaT4" and other["enable_gpu"] is True
    assert kernel("infer", "me", accelerator="NvidiaTeslaT4").metadata["machine_shape"] == "NvidiaTeslaT4"


@pytest.mark.parametrize("stage", STAGES)
def test_the_owner_is_filled_in_and_nothing_in_the_checkout_changes(checkout, stage, tmp_path):
    made = kernel(stage, "radiologist", values={}, resume=stage == "train")
    folder = made.write(tmp_path / "a" / "b")
    written = json.loads((folder / "kernel-metadata.json").read_text())
    assert written == made.metadata and "OWNER" not in json.dumps(written)
    assert written["dataset_sources"] == ["radiologist/mammo-kit"] and written["code_file"] == f"{stage}.ipynb"
    assert written["id"].startswith("radiologist/mammo-kit-") and bundle.kernel_problems(written) == []
    nbformat.validate(nbformat.read(folder / f"{stage}.ipynb", 4))
    assert {f.name for f in folder.iterdir()} == {"kernel-metadata.json", f"{stage}.ipynb"}
    assert git(checkout, "status", "--porcelain") == ""


def test_outputs_stay_at_home(checkout):
    def show(nb):
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})]
                cell.execution_count = 3
    change_notebook(checkout, "preprocess", show)
    cells = [c for c in kernel("preprocess", "me").notebook.cells if c.cell_type == "code"]
    assert all(c.outputs == [] and c.execution_count is None for c in cells)
    assert "iVBORw0KGgo=" in (checkout / "nbs/kernels/preprocess.ipynb").read_text()


@pytest.mark.parametrize(("change", "words"), [
    (lambda nb: nb.metadata.pop("kernelspec"), "kernelspec"),
    (lambda nb: nb.metadata.kernelspec.update(name=""), "kernelspec"),
    (lambda nb: [c.metadata.pop("tags", None) for c in nb.cells], "no cell has the tag 'parameters'"),
])
def test_a_notebook_that_kaggle_could_not_run(checkout, change, words):
    change_notebook(checkout, "train", change)
    with pytest.raises(ValueError, match=rf"train\.ipynb: .*{words}"): kernel("train", "me")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"cells": 3, "metadata": {}, "nbformat": 4}'])
def test_a_file_that_is_no_notebook(checkout, text):
    (checkout / "nbs/kernels/train.ipynb").write_text(text)
    with pytest.raises(ValueError, match=r"train\.ipynb"): kernel("train", "me")


# The library as a dataset of wheels.

def wheel_of(folder: Path) -> tuple[Path, dict[str, str]]:
    "The wheel of the library, and the texts in it."
    (wheel,) = folder.glob("mammo_kit-*.whl")
    with zipfile.ZipFile(wheel) as z: return wheel, {n: z.read(n).decode() for n in z.namelist()}


def test_the_wheel_is_the_commits_and_says_so(checkout, tmp_path, no_dependencies):
    (checkout / "mammo_kit" / "build").mkdir()  # ignored by git, and a package to setuptools
    (checkout / "mammo_kit" / "build" / "__init__.py").write_text("secret = 1\n")
    (checkout / "mammo_kit" / "build" / "mine.py").write_text("secret = 1\n")
    (checkout / "build" / "lib" / "mammo_kit").mkdir(parents=True)
    (checkout / "build" / "lib" / "mammo_kit" / "stale.py").write_text("stale = 1\n")
    git(checkout, "update-index", "--assume-unchanged", "setup.py")
    (checkout / "setup.py").write_text("raise SystemExit('of the working folder')\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mammo_kit-0.0.9-py3-none-any.whl").write_text("of an earlier commit")
    version = build_library(tmp_path / "out", "radiologist")
    assert version == f"0.1.0+g{git(checkout, 'rev-parse', 'HEAD')[:12]}"
    wheel, texts = wheel_of(tmp_path / "out")
    assert wheel.name == f"mammo_kit-{version}-py3-none-any.whl"
    about = f"mammo_kit-{version}.dist-info"
    assert {n for n in texts if not n.startswith(about)} == {
        "mammo_kit/__init__.py", "mammo_kit/_modidx.py", "mammo_kit/competition.py"}
    assert texts["mammo_kit/__init__.py"] == f'__version__ = "{version}"\n'
    assert f"\nVersion: {version}\n" in texts[f"{about}/METADATA"]
    assert texts["mammo_kit/competition.py"] == (checkout / "mammo_kit/competition.py").read_text()
    assert (tmp_path / "out/requirements.txt").read_text().splitlines() == [
        f"mammo_kit=={version}", f"dicomsdl=={pinned(checkout, 'dicomsdl')}",
        f"imagecodecs=={pinned(checkout, 'imagecodecs')}", "accelerate"]
    assert json.loads((tmp_path / "out/dataset-metadata.json").read_text()) == {
        "id": "radiologist/mammo-kit", "title": "mammo-kit", "licenses": [{"name": "apache-2.0"}]}
    assert git(checkout, "status", "--porcelain") == ""


def test_a_local_run_takes_what_is_not_committed(checkout, tmp_path, no_dependencies):
    cache = checkout / "mammo_kit" / "__pycache__"
    cache.mkdir()
    (cache / "competition.cpython-311.pyc").write_bytes(b"\0\0/home/ann/mammo_kit/mammo_kit/competition.py\0")
    add_to_library(checkout, "NEW_CONSTANT = 1")
    with pytest.raises(ValueError, match="not committed"): build_library(tmp_path / "out", "me")
    version = build_library(tmp_path / "out", "me", dirty=True)
    assert version == f"0.1.0+g{git(checkout, 'rev-parse', 'HEAD')[:12]}.dirty"
    wheel, texts = wheel_of(tmp_path / "out")
    assert version in wheel.name and "NEW_CONSTANT = 1" in texts["mammo_kit/competition.py"]
    assert not [n for n in texts if "pycache" in n]


def test_a_key_in_the_library_stops_the_build(checkout, tmp_path, no_dependencies):
    token = "KGAT_" + hashlib.md5(b"token").hexdigest()
    add_to_library(checkout, f'login = "{token}"')
    commit(checkout)
    with pytest.raises(ValueError, match=r"nothing was built.*competition\.py, line \d+: a key or token"):
        build_library(tmp_path / "out", "me")
    assert not list((tmp_path / "out").glob("mammo_kit*"))


@pytest.mark.parametrize(("change", "words"), [
    ({"id": "mammo-kit"}, "id 'mammo-kit': expected OWNER/SLUG"),
    ({"id": "OWNER/mammo"}, "6 to 50"),
    ({"id": "OWNER/Mammo Kit"}, "a-z, 0-9 and hyphens"),
    ({"title": "mammo"}, "title 'mammo': expected 6 to 50"),
    ({"title": 51 * "a"}, "expected 6 to 50"),
    ({"licenses": []}, "exactly one"),
    ({"licenses": [{"name": "CC0-1.0"}, {"name": "apache-2.0"}]}, "exactly one"),
    ({"licenses": [{}]}, "exactly one, with a name"),
    ({"licenses": ["apache-2.0"]}, "exactly one, with a name"),
    ({"licenses": "apache-2.0"}, "exactly one"),
    ({"subtitle": "short"}, "subtitle: expected 20 to 80"),
    ({"subtitle": None}, "subtitle: expected 20 to 80"),
    ({"isPrivate": False}, "unknown key 'isPrivate'"),
])
def test_each_problem_of_the_dataset_is_named(change, words):
    healthy = json.loads((ROOT / "kernel-metadata/dataset/dataset-metadata.json").read_text())
    assert bundle.dataset_problems(healthy | {"subtitle": "Wheels of a library, offline"}) == []
    assert bundle.dataset_problems(healthy) == []
    (problem,) = bundle.dataset_problems(healthy | change)
    assert words in problem


def test_the_datasets_folder_holds_no_folders(checkout, tmp_path):
    (checkout / "kernel-metadata/dataset/docs").mkdir()
    with pytest.raises(ValueError, match="docs: Kaggle drops folders"): build_library(tmp_path / "out", "me")
    (checkout / "kernel-metadata/dataset/dataset-metadata.json").write_text("{}")
    with pytest.raises(ValueError, match=r"dataset-metadata\.json: .*licenses None"): build_library(tmp_path, "me")


@pytest.fixture
def index(checkout, tmp_path, monkeypatch) -> Path:
    "A folder in place of the index: a wheel of dicomsdl for each Python, one of imagecodecs for all from 3.11 on."
    folder, linux = tmp_path / "index", "manylinux_2_17_x86_64.manylinux2014_x86_64"
    for python in ("cp310", "cp311", "cp312", "cp313"):
        make_wheel(folder, "dicomsdl", pinned(checkout, "dicomsdl"), f"{python}-{python}-{linux}")
    make_wheel(folder, "imagecodecs", pinned(checkout, "imagecodecs"), "cp311-abi3-manylinux_2_28_x86_64")
    make_wheel(folder, "accelerate", pinned(checkout, "accelerate"), "py3-none-any")
    make_wheel(folder, "accelerate", "99.0", "py3-none-any")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_each_python_gets_its_wheels_and_they_are_fetched_once(checkout, index):
    versions = {name: pinned(checkout, name) for name in ("accelerate", "dicomsdl", "imagecodecs")}
    expected = [f"accelerate-{versions['accelerate']}-py3-none-any.whl"]
    expected += [f"dicomsdl-{versions['dicomsdl']}-{p}-{p}-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
                 for p in ("cp311", "cp312", "cp313")]
    expected += [f"imagecodecs-{versions['imagecodecs']}-cp311-abi3-manylinux_2_28_x86_64.whl"]
    found = bundle.dependency_wheels(checkout)
    assert [f.name for f in found] == expected
    assert all(f.is_relative_to(checkout / "work/kaggle/wheels") for f in found)
    shutil.rmtree(index)
    assert bundle.dependency_wheels(checkout) == found
    assert git(checkout, "status", "--porcelain") == ""


def test_a_wheel_that_is_nowhere_is_named_and_nothing_half_is_kept(checkout, index):
    for wheel in index.glob("dicomsdl-*-cp313-*"): wheel.rename(index / "later")
    with pytest.raises(ValueError, match=r"fetching wheels for Python 3\.13 failed: .*dicomsdl=="):
        bundle.dependency_wheels(checkout)
    (index / "later").rename(index / f"dicomsdl-{pinned(checkout, 'dicomsdl')}-cp313-cp313-manylinux2014_x86_64.whl")
    assert [f.name for f in bundle.dependency_wheels(checkout) if "cp313" in f.name] != []


# Nothing private.

HEX = hashlib.md5(b"a key that nobody has").hexdigest()
TOKEN, USED = f"KGAT_{HEX}", f"used{HEX[:12]}"
HEAD = '"A module."\nimport os\n'


def written(folder: Path, name: str, content: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(out, kind)
    return out.getvalue()


def huge() -> bytes:
    "The head of a PNG file of 40,000 x 40,000 pixels, more than Pillow likes to open."
    about = b"IHDR" + struct.pack(">II5B", 40000, 40000, 8, 0, 0, 0, 0)
    start, end = picture("png")[:8] + struct.pack(">I", 13), picture("png")[33:]
    return start + about + struct.pack(">I", zlib.crc32(about)) + end


@pytest.mark.parametrize(("line", "what"), [
    (f'token = "{TOKEN}"', "a key or token"),
    (f"# {TOKEN}", "a key or token"),
    (f'{{"username": "ann", "key": "{HEX}"}}', "a key or token"),
    (f"key = '{HEX}'", "a key or token"),
    (f"KAGGLE_KEY='{HEX.upper()}'", "a key or token"),
    (f'os.environ["KAGGLE_KEY"] = "{HEX}"', ""),
    (f"export KAGGLE_KEY={HEX}", ""),
    (f"%env KAGGLE_KEY={HEX}", ""),
    (f"login({USED!r})", "a secret that is in use here"),
    (f"# {USED}", "a secret that is in use here"),
    ('key = "AKIA' + 'QYLPMN5HFIQR7XYA"', "AWS"),
    ('t = "ghp_' + 'wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"', "GitHub"),
    ("-----BEGIN RSA " + "PRIVATE KEY-----", "Private Key"),
    ('url = "https://ann:' + 'Kq7wPz3x@example.com/x"', "Basic Auth"),
    ('password = "' + 'Kq7-wPz3x!vv"', "Secret Keyword"),
    ('HF_TOKEN = "hf_' + 'qWzXvRtYkLpMnBsDfGhJcVbNaQwErTyUiO"', ""),
    ('source = "/home/ann/competition/train.csv"', "the path of a home folder"),
    ("source = '/home/ann'", "the path of a home folder"),
    ("url = 'file:///home/ann/competition'", "the path of a home folder"),
    ("x = '/root/.kaggle/kaggle.json'", "the path of a home folder"),
    ("x = '/Users/ann.b/data'", "the path of a home folder"),
    ("%cd /home/ann/data", "the path of a home folder"),
    (r"x = 'C:\Users\ann\data'", "the path of a home folder"),
    (r"x = 'C:\\Users\\ann\\data'", "the path of a home folder"),
    ("x = 'C:/Users/ann/data'", "the path of a home folder"),
])
def test_each_secret_is_found_where_it_is(tmp_path, line, what):
    at = written(tmp_path, "a.py", f"{HEAD}{line}\n\nx = 1\n")
    found = private_things(at, known=[USED])
    assert found and all(problem.startswith("a.py, line 3: ") for problem in found)
    assert what in " ".join(found)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell(line)])
    at = written(tmp_path, "a.ipynb", nbformat.writes(nb))
    found = private_things(at, known=[USED])
    assert found and all(problem.startswith("a.ipynb, ") for problem in found)
    assert what in " ".join(found)


HEALTHY = {
    "kaggle.py": 'OUT = "/kaggle/working/images"\nfor f in inputs.glob("datasets/*/mammo-kit"): pass\n',
    "dicom.py": 'UID = "1.2.840.10008.1.2.4.90"  # (0028,1051)\nkey = "image_id"\nkeys = {"key": "patient_id"}\n',
    "homes.py": 'a = "~/.kaggle/access_token"\nb = Path.home() / "x"\nc = "https://example.com/home/ann/page"\n'
                'd = "/rooted/x"\ne = "tests/home/ann/x"\nf = "s3://bucket/Users/ann/x"\ng = "/usr/share/x"\n',
    "words.md": "Set KAGGLE_KEY, or put a token (KGAT_...) into ~/.kaggle/access_token. The key of the shard is its "
                "name. `password` is not asked for.\n",
    "commit.txt": "mammo_kit==0.1.0+g0123456789ab\ndicomsdl==0.109.4\n",
    "RECORD": f"mammo_kit/train.py,sha256={base64.urlsafe_b64encode(hashlib.sha256(b'x').digest()).decode()[:-1]},21\n",
    "kaggle.json": '{"username": "OWNER", "key": ""}\n',
    "used.py": "used = 'short'\n",
    "blank.csv": "patient_id,image_id,cancer\n10006,1459541791,0\n32553,83977,1\n",
    "empty.txt": "",
    "latin.txt": "Gerät".encode("latin-1"),
    "weights.safetensors": struct.pack("<Q", 2) + b"{}" + bytes(range(256)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_its_healthy_neighbour_is_not(tmp_path, name):
    assert private_things(written(tmp_path, name, HEALTHY[name]), known=[USED, "short"]) == []


@pytest.mark.parametrize(("name", "content", "what"), [
    ("a.dcm", b"anything", "pixels"), ("A.DCM", b"", "pixels"), ("a.npy", b"", "pixels"), ("a.npz", b"x", "pixels"),
    ("a.nii", b"", "pixels"), ("a.nii.gz", b"\x1f\x8b", "pixels"),
    ("1459541791", bytes(128) + b"DICM\x02\0", "pixels"), ("notes.txt", bytes(128) + b"DICM", "pixels"),
    ("a.png", picture("png"), "an image"), ("a.jpg", picture("jpeg"), "an image"),
    ("a", picture("jpeg2000"), "an image"), ("a.txt", picture("tiff"), "an image"),
    ("huge.png", huge(), "an image"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_pixels_are_found_by_name_and_by_content(tmp_path, name, content, what):
    (found,) = private_things(written(tmp_path, name, content))
    assert found.startswith(f"{name}: ") and what in found


def zipped(**files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in files.items(): z.writestr(name.replace("__", "/"), content)
    return out.getvalue()


def tarred(mode: str, **files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w{mode}") as t:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            t.addfile(member, io.BytesIO(content))
    return out.getvalue()


SECRET = f'x = 1\nkey = "{HEX}"\n'.encode()


@pytest.mark.parametrize(("name", "content", "where"), [
    ("a.whl", zipped(mammo_kit__login=SECRET), "a.whl/login, line 2: a key or token"),
    ("a.zip", zipped(a=SECRET, b=b"x = 1"), "a.zip/a, line 2: a key or token"),
    ("a.tar", tarred("", a=SECRET), "a.tar/a, line 2: a key or token"),
    ("a.tar.gz", tarred(":gz", a=SECRET), "a.tar.gz/a, line 2: a key or token"),
    ("a.bin", tarred(":xz", b=SECRET), "a.bin/b, line 2: a key or token"),
    ("a.zip", zipped(b=tarred(":gz", c=zipped(d=SECRET))), "a.zip/b/c/d, line 2: a key or token"),
    ("00000.tar", tarred("", image=picture("png")), "00000.tar/image: an image"),
    ("a.whl", zipped(scan=bytes(128) + b"DICM"), "a.whl/scan: pixels"),
])
def test_archives_and_archives_within_them_are_looked_into(tmp_path, name, content, where):
    assert any(problem.startswith(where) for problem in private_things(written(tmp_path, name, content)))
    with pytest.raises(ValueError, match="nothing was sent"): check_private(tmp_path)
    clean = zipped(a=zipped(b=b"x = 1"), c=b"")
    assert private_things(written(tmp_path, "clean.zip", clean)) == []


def encrypted(content: bytes) -> bytes:
    "A zip file whose one member says that it is encrypted."
    for at, offset in ((content.find(b"PK\x03\x04"), 6), (content.find(b"PK\x01\x02"), 8)):
        content = content[:at + offset] + b"\x01" + content[at + offset + 1:]
    return content


@pytest.mark.parametrize(("name", "content"), [
    ("locked.zip", encrypted(zipped(a=SECRET))),
    ("broken.zip", zipped(a=b"x = 1\n").replace(b"PK\x03\x04", b"PK\x03\x05")),
    ("broken.tar.gz", tarred(":gz", a=bytes(range(256)) * 400)[:-40]),
], ids=["encrypted", "broken zip", "truncated tar"])
def test_an_archive_that_cannot_be_looked_into_is_refused(tmp_path, name, content):
    written(tmp_path, name, content)
    with pytest.raises(ValueError, match=name): check_private(tmp_path)


def test_images_in_a_notebook(tmp_path):
    png = base64.b64encode(picture("png")).decode()
    plain, code, text = nbformat.v4.new_output, nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    html = plain("execute_result", {"text/html": f'<img src="data:image/png;base64,{png}"/>', "text/plain": "<HTML>"})
    cells = [text("words"), code("plt.plot(x)", outputs=[plain("display_data", {"image/png": png})]),
             code("print(1)", outputs=[plain("stream", text="1\n")]),
             text("![](attachment:a.png)", attachments={"a.png": {"image/png": png}}),
             text(f"![](data:image/png;base64,{png})"), code("page", outputs=[html]),
             code("frame", outputs=[plain("execute_result", {"text/html": "<table></table>", "text/plain": "x"})])]
    at = written(tmp_path, "a.ipynb", nbformat.writes(nbformat.v4.new_notebook(cells=cells)))
    assert private_things(at) == [f"a.ipynb, cell {n}: an image" for n in (2, 4, 5, 6)]


def test_secrets_in_the_output_of_a_notebook(tmp_path):
    output = nbformat.v4.new_output("stream", text='{"username": "ann", "key": "' + HEX + '"}\n')
    cells = [nbformat.v4.new_code_cell("!cat kaggle.json", outputs=[output])]
    at = written(tmp_path, "a.ipynb", nbformat.writes(nbformat.v4.new_notebook(cells=cells)))
    assert any("a key or token" in problem for problem in private_things(at))


def test_what_is_wrong_in_a_folder_is_named_all_at_once(tmp_path):
    written(tmp_path, "a.dcm", b"")
    written(tmp_path / "deeper", "b.py", f"x = '{TOKEN}'\n")
    written(tmp_path, "c.py", "x = 1\n")
    with pytest.raises(ValueError, match="nothing was sent") as error: check_private(tmp_path)
    assert "a.dcm: pixels" in str(error.value) and "b.py, line 1: a key or token" in str(error.value)
    assert TOKEN not in str(error.value), "the secret itself is not repeated"


def test_wheels_of_others_are_not_ours_to_look_into(tmp_path):
    for name in ("dicomsdl-0.109.4-cp311-cp311-manylinux2014_x86_64.whl", "accelerate-1.15.0-py3-none-any.whl"):
        written(tmp_path, name, zipped(conf=b"x = '/home/builder/src/x.c'\n", logo=picture("png")))
    check_private(tmp_path)
    written(tmp_path, "mammo_kit-0.1.0-py3-none-any.whl", zipped(logo=picture("png")))
    with pytest.raises(ValueError, match=r"mammo_kit-0\.1\.0-py3-none-any\.whl/logo: an image"): check_private(tmp_path)
    written(tmp_path, "dicomsdl-notes.txt", f"{TOKEN}\n")
    with pytest.raises(ValueError, match=r"dicomsdl-notes\.txt"): check_private(tmp_path)


# The real thing.

@pytest.mark.parametrize("stage", STAGES)
def test_our_kernels_hold_nothing_private(stage, tmp_path):
    check_private(kernel(stage, "radiologist", root=ROOT).write(tmp_path), known=[USED])


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "LICENSE", "settings.ini", "setup.py"])
def test_our_words_hold_nothing_private(name): assert private_things(ROOT / name) == []


def test_the_whole_library_with_the_wheels_of_others_is_installed_offline_by_each_python(tmp_path):
    root = make_checkout(tmp_path / "checkout", "[0-9]*.ipynb")
    kept = ROOT / "work" / "kaggle" / "wheels"
    kept.mkdir(parents=True, exist_ok=True)  # so that they are fetched once, and not at all the next time
    (root / "work" / "kaggle").mkdir(parents=True)
    (root / "work" / "kaggle" / "wheels").symlink_to(kept)
    version = build_library(tmp_path / "out", "me", root)
    check_private(tmp_path / "out")
    wheel, texts = wheel_of(tmp_path / "out")
    assert {n for n in texts if n.startswith("mammo_kit/")} == {
        f.relative_to(root).as_posix() for f in (root / "mammo_kit").glob("*.py")}
    for python in ("3.11", "3.12", "3.13"):
        got = tmp_path / python
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-index", "--no-deps", "--find-links",
                        tmp_path / "out", "--only-binary", ":all:", "--python-version", python, "--platform",
                        "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64", "--dest", got, "--requirement",
                        tmp_path / "out" / "requirements.txt"], check=True)
        assert sorted(f.name.split("-")[0] for f in got.iterdir()) == [
            "accelerate", "dicomsdl", "imagecodecs", "mammo_kit"]
        assert [f for f in got.glob("dicomsdl*") if f"cp{python.replace('.', '')}" in f.name]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target",
                    tmp_path / "site", wheel], check=True)
    shown = subprocess.run([sys.executable, "-c", "import mammo_kit; print(mammo_kit.__version__)"], check=True,
                           cwd=tmp_path / "site", capture_output=True, text=True).stdout
    assert shown.strip() == version
