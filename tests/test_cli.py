"The command as a person meets it: help, exit statuses, Ctrl-C, and words instead of tracebacks."
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest

from mammo_kit import __version__, preprocess, report
from mammo_kit.cli import COMMANDS, main

COMMAND = Path(sys.executable).with_name("mammo-kit")


def command(*args, **options):
    "`mammo-kit` as a process of its own, ended."
    return subprocess.run([COMMAND, *map(str, args)], capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def said(capsys):
    "said(*args): exit status and words of `main` in this process."
    def said(*args):
        try: status = main([str(a) for a in args])
        except SystemExit as e: status = e.code
        out, err = capsys.readouterr()
        return status, out, err
    return said


def test_help_names_every_command():
    for args in (["--help"], ["-h"], ["help"]):
        ended = command(*args)
        assert (ended.returncode, ended.stderr) == (0, "")
    for name, (_, what) in COMMANDS.items():
        assert f"  {name} " in ended.stdout and what in ended.stdout
    for status in ("0 all done", "1 done", "2 wrong use", "3 stopped early", "130 interrupted"):
        assert status in ended.stdout
    assert command("--version").stdout.strip() == __version__


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_parameter(name):
    ended = command(name, "--help", env=os.environ | {"COLUMNS": "200"})
    assert (ended.returncode, ended.stderr) == (0, "")
    function = getattr(import_module(f"mammo_kit.{COMMANDS[name][0]}"), name.replace("-", "_"))
    assert " ".join(function.__doc__.split()) in " ".join(ended.stdout.split())
    parameters = inspect.signature(function).parameters.values()
    options = [p.name for p in parameters if p.default is not p.empty and p.name != "recipe"]
    if name == "train": options += [f.name for f in fields(import_module("mammo_kit.train").Recipe)]
    for option in options:
        option = option.replace("_", "-")
        line = re.search(rf"│ --{option}[ ,][^│]*│(\s*│ {{10,}}[^│]*│)?", ended.stdout)
        assert line, option
        words = re.sub(r"--[\w-]+,?|\(default: .*?\)|\{.*?\}|\b(INT|FLOAT|STR)\b|[│|]", "", line[0])
        assert len(words.split()) >= 2, f"--{option} has no help"
    for p in parameters:
        if p.default is p.empty: assert re.search(rf"│ \[?{p.name.upper()}\]? +\w+", ended.stdout), p.name
    assert "noqa" not in ended.stdout


@pytest.mark.parametrize("args", [
    ["--help"], ["preprocess", "--help"], ["phantom", "--help"], ["check", "--help"],
    ["preprocess", "nowhere", "out"]])
def test_what_needs_no_torch_does_not_wait_for_it(args):
    code = f"""import sys
from mammo_kit import cli
try: cli.main({args})
except SystemExit: pass
sys.exit(17 if 'torch' in sys.modules or 'matplotlib' in sys.modules else 0)"""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < 1: return
    assert min(seconds) < 2  # torch alone takes longer on a slow machine


def test_an_option_that_is_given_twice_is_not_lost(monkeypatch):
    seen = []
    def greet(name: str, words: tuple[str, ...] = (), loud: bool = False): seen.append((name, words, loud))
    monkeypatch.setattr("mammo_kit.demo.greet", greet, raising=False)
    monkeypatch.setitem(COMMANDS, "greet", ("demo", "Greet"))
    for args in (["--words", "a", "b"], ["--words", "a", "--words", "b"], ["--words=a", "--words=b"]):
        assert main(["greet", "Ann", *args, "--loud"]) == 0
        assert seen.pop() == ("Ann", ("a", "b"), True)


def test_any_number_of_arguments_by_position(monkeypatch):
    seen = []
    def greet(name: str, *friends: str, words: int = 1, loud: bool = False): seen.append((name, friends, words, loud))
    monkeypatch.setattr("mammo_kit.demo.greet", greet, raising=False)
    monkeypatch.setitem(COMMANDS, "greet", ("demo", "Greet"))
    for args, friends, loud in ((["Ann"], (), False), (["Ann", "Bo"], ("Bo",), False),
                                (["Ann", "Bo", "Cy", "--words", "2", "--loud"], ("Bo", "Cy"), True),
                                (["--loud", "Ann", "Bo", "Cy"], ("Bo", "Cy"), True)):
        assert main(["greet", *args]) == 0
        assert seen.pop() == ("Ann", friends, 1 + ("--words" in args), loud)


@pytest.mark.parametrize("function", [preprocess.preprocess, report.report])
def test_main_leaves_the_functions_as_they_are(function, said):
    before, types = function.__doc__, dict(function.__annotations__)
    assert said(function.__name__, "--help") == said(function.__name__, "--help")
    assert (function.__doc__, function.__annotations__) == (before, types)


def test_report_takes_models(prepared, trained, said, tmp_path):
    pages = tmp_path / "a.html", tmp_path / "b.html"
    assert said("report", prepared, "--html", pages[0], "--no-progress")[0] == 0
    status, out, _ = said("report", "--no-progress", prepared, trained, "--html", pages[1])
    assert status == 0 and str(pages[1]) in out
    assert pages[1].stat().st_size > pages[0].stat().st_size + 1e5 and (tmp_path / "out_of_fold.csv").is_file()


@pytest.mark.parametrize(("args", "words"), [
    ((), "usage: mammo-kit COMMAND"),
    (("preproces",), f"no command 'preproces'; expected one of {', '.join(COMMANDS)}"),
    (("--nonsense",), "no command '--nonsense'"),
    (("preprocess",), "Required options were not provided: SRC, OUT"),
    (("preprocess", "SRC"), "Required options were not provided: OUT"),
    (("preprocess", "SRC", "out", "more"), "unrecognized arguments: more"),
    (("preprocess", "SRC", "out", "--bits", "eight"), "Error parsing --bits"),
    (("preprocess", "SRC", "out", "--bits", "7"), "bits 7: expected 8 or 16"),
    (("preprocess", "SRC", "out", "--size", "big"), "size 'big': expected HEIGHTxWIDTH, e.g. 1024x512"),
    (("preprocess", "SRC", "out", "--format", "gif"), "invalid choice"),
    (("preprocess", "SRC", "out", "--part", "3/2"), "part '3/2': K goes from 1 to N"),
    (("preprocess", "SRC", "out", "--workers", "0"), "workers 0: expected at least 1"),
    (("preprocess", "SRC", "FILE"), "File exists"),
    (("preprocess", "SRC", "FILE/out"), "Not a directory"),
    (("preprocess", "nowhere", "out"), "nowhere: expected a folder of DICOM files or a zip file, found nothing"),
    (("preprocess", "FILE", "out"), "found a file of another kind"),
    (("preprocess", "EMPTY", "out"), "no files in it"),
    (("phantom", "SRC"), "is there and not an empty folder"),
    (("phantom", "out", "--scale", "9"), "scale 9.0: expected 0.1"),
    (("train", "nowhere", "model"), "settings.json is missing"),
    (("train", "PREPARED", "model", "--fold", "5"), "fold 5: expected 0 to 4 of 5 folds"),
    (("train", "PREPARED", "model", "--backbone", "regnet_x"), "unknown to timm"),
    (("train", "PREPARED", "model", "--target", "malignant"), "no column 'malignant' to learn"),
    (("train", "PREPARED", "FILE", "--n-folds", "3"), "File exists"),
    (("report", "PREPARED", "nowhere"), "nowhere: expected a folder of `mammo-kit train`, found nothing"),
    (("report", "PREPARED", "MODEL", "FILE", "--html", "page.html"), "FILE: expected a folder of .*found a file"),
    (("report", "nowhere", "MODEL"), "manifest.csv is missing"),
    (("infer", "MODEL", "SRC"), "no model: expected at least one"),
    (("infer", "nowhere", "SRC", "out.csv"), "best.safetensors is missing|nowhere is missing"),
    (("infer", "FILE", "SRC", "out.csv"), "no whole safetensors file"),
    (("infer", "MODEL", "nowhere", "out.csv"), "nowhere: expected a folder of DICOM files"),
    (("infer", "MODEL", "SRC", "EMPTY"), "Is a directory"),
    (("infer", "MODEL", "SRC", "out.csv", "--decision", "best"), "invalid choice"),
])
def test_wrong_use_is_exit_status_2_in_words(args, words, said, competition, prepared, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("a file")
    places = {"SRC": competition, "PREPARED": prepared, "MODEL": trained}
    status, out, err = said(*(places.get(a, a) for a in args))
    assert status == 2
    assert re.search(words, " ".join((out + err).replace("│", "").split())) or words in out + err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("**/*.tmp")) + list(tmp_path.glob(".images_*"))


def test_statuses_2_of_the_command_itself():
    for args, words in (([], "usage"), (["nonsense"], "no command 'nonsense'"),
                        (["preprocess", "nowhere", "out"], "found nothing"),
                        (["preprocess", ".", "out", "--bts", "8"], "Unrecognized options: --bts")):
        ended = command(*args)
        assert ended.returncode == 2 and "Traceback" not in ended.stderr
        assert words in (ended.stderr if args else ended.stdout)


def test_preprocess_0_then_1_with_a_broken_file(competition, tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    shutil.copytree(competition / "test_images", src)
    ended = command("preprocess", src, out, "--size", "64x32", "--workers", "1", "--no-progress")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "0 failed" in ended.stdout
    (src / "broken.dcm").write_text("broken")
    ended = command("preprocess", src, out, "--size", "64x32", "--workers", "1", "--no-progress")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert f"1 failed, 0 unprocessed; the reasons are in {out / 'manifest.csv'}" in ended.stdout


def test_infer_takes_several_models_and_options_anywhere(competition, trained, said, tmp_path):
    from mammo_kit.model import load_model, save_model
    model, record = load_model(trained)
    for p in model.parameters(): p.data *= 2
    save_model(other := tmp_path / "another.safetensors", model, record)
    status, out, err = said("infer", trained, other, competition, tmp_path / "s.csv", "--decision", "none", "--workers",
                            "1", "--no-progress")
    assert (status, err) == (0, "") and out.startswith(f"8 rows in {tmp_path / 's.csv'}; images: ")
    status, _, err = said("infer", "--workers", "1", "--decision", "none", "--no-progress", trained, other, competition,
                          tmp_path / "t.csv")
    assert (status, err) == (0, "")
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()
    said("infer", trained, competition, tmp_path / "one.csv", "--workers", "1", "--decision", "none", "--no-progress")
    assert (tmp_path / "one.csv").read_bytes() != (tmp_path / "s.csv").read_bytes()


def test_infer_1_with_a_broken_file(competition, trained, said, tmp_path):
    shutil.copytree(competition / "test_images", tmp_path / "src" / "test_images")
    shutil.copy(competition / "test.csv", tmp_path / "src")
    next((tmp_path / "src").rglob("*.dcm")).write_bytes(b"")
    status, out, err = said("infer", trained, tmp_path / "src", tmp_path / "s.csv", "--workers", "1", "--no-progress")
    assert (status, err) == (1, "")
    assert "1 failed; the reasons are in" in out


def test_train_says_what_it_came_to(prepared, said, tmp_path):
    status, out, _ = said("train", prepared, tmp_path / "model", "--backbone", "test_convnext", "--pool", "avg",
                          "--epochs", "1", "--n-folds", "3", "--augmentation", "none", "--workers", "0",
                          "--no-progress")
    assert status == 0 and out.startswith("best epoch 0: AUROC")


def test_a_folder_that_another_run_holds_is_3(competition, tmp_path):
    "Another run holds the folder."
    import fcntl
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = command("preprocess", competition, tmp_path / "out")
    assert ended.returncode == 3
    assert "another run is writing here" in ended.stderr and "Traceback" not in ended.stderr


def test_a_full_disk_is_3(said, competition, tmp_path, monkeypatch):
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    for args in (("preprocess", competition, tmp_path / "out"), ("infer", "model", competition, tmp_path / "s.csv")):
        status, _, err = said(*args)
        assert status == 3
        assert "full" in err or "No space left on device" in err


def test_ctrl_c_is_130_and_the_same_command_goes_on(competition, tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    for k in range(8): shutil.copytree(competition / "train_images", src / str(k))  # enough for a while
    args = ["preprocess", src, out, "--size", "64x32", "--workers", "1", "--shard-size", "32", "--no-progress"]
    process = subprocess.Popen([COMMAND, *args], stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 30
    while not (out / "shards" / "00000.csv").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(.01)
    os.killpg(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130
    assert words == "mammo-kit: interrupted; the same command goes on from here\n"
    first = (out / "shards" / "00000.tar").stat().st_mtime_ns
    assert command(*args).returncode == 0
    assert (out / "shards" / "00000.tar").stat().st_mtime_ns == first


def test_ctrl_c_while_libraries_are_loaded_is_130_too(said, monkeypatch):
    def interrupted(_): raise KeyboardInterrupt
    monkeypatch.setattr("importlib.import_module", interrupted)
    assert said("train", "a", "b") == (130, "", "mammo-kit: interrupted; the same command goes on from here\n")


def test_of_several_processes_one_speaks(said, prepared, trained, recipe, monkeypatch):
    args = ["train", prepared, trained, "--backbone", recipe.backbone, "--pool", recipe.pool, "--epochs", "3",
            "--n-folds", "3", "--no-progress"]
    assert said(*args)[1].startswith("best epoch")
    monkeypatch.setenv("RANK", "1")
    assert said(*args)[:2] == (0, "")


def test_a_mistake_of_ours_is_a_traceback(said, monkeypatch):
    def mistaken(*_, **__): raise TypeError("not foreseen")
    monkeypatch.setattr("mammo_kit.preprocess.parse_size", mistaken)
    with pytest.raises(TypeError, match="not foreseen"): said("preprocess", "a", "b")


def test_a_known_recipe_is_where_the_options_begin(capsys, monkeypatch):
    from mammo_kit import train
    from mammo_kit.recipe import NOTES, RSNA_1ST, Recipe
    asked = []

    def spy(out: str, model: str, recipe: Recipe = Recipe(), processes: int | None = None):
        "Train."
        asked.append(recipe)
    monkeypatch.setattr(train, "train", spy)
    for options in ([], ["--recipe", "notes"], ["--fold=2", "--recipe=rsna_1st", "--size", ""]):
        assert main(["train", "OUT", "MODEL", *options]) == 0
    assert asked == [Recipe(), NOTES, replace(RSNA_1ST, fold=2, size="")]
    assert main(["train", "OUT", "MODEL", "--recipe", "winner"]) == 2
    assert "--recipe 'winner': expected one of small, rsna_1st, notes" in capsys.readouterr().err
