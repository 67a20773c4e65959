"Notebooks run here as on Kaggle: what a cell may do and may not, what is left behind, and the real stages."
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from mammo_kit import local_kaggle
from mammo_kit.competition import MAMMOGRAPHY
from mammo_kit.local_kaggle import (
    Plan,
    Session,
    execute,
    is_complete,
    memory_group,
    place,
    rerun_data,
    run_local,
    submission_problem,
    why_no_sandbox,
)
from mammo_kit.preprocess import Stopped

pytest.importorskip("papermill")
COMMAND = Path(sys.executable).with_name("mammo-kit")
SMALL = Session(cores=1, memory=1, disk=20)


def notebook(*cells: str):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    "Skips where there can be none."
    problem = why_no_sandbox(tmp_path_factory.mktemp("probe"))
    if problem: pytest.skip(f"no sandbox: {problem}")


def left_behind(folder: Path, pid: int | None = None) -> list[str]:
    "Temporary folders, processes, mounts, loop devices of runs in `folder`, and control groups of the process `pid`."
    commands = []
    for p in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError): commands.append(p.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    disks = [p.read_text() for p in Path("/sys/block").glob("loop*/loop/backing_file")]
    groups = [str(p) for p in Path("/sys/fs/cgroup").rglob(f"mammo-kit-{pid or os.getpid()}-*")]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [*map(str, folder.glob(".run_*")), *(text for text in [*commands, *disks, *mounts] if str(folder) in text),
            *groups]


LOOK_AROUND = """
import errno, json, os, shutil, socket, sys
from pathlib import Path
def error(f, *args):
    try: f(*args)
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
found = {"cwd": os.getcwd(), "environment": dict(os.environ), "cores": len(os.sched_getaffinity(0)),
         "processes": sum(name.isdigit() for name in os.listdir("/proc")), "shared memory": os.listdir("/dev/shm")}
found["network"] = [error(socket.create_connection, a, 5) for a in (("127.0.0.1", PORT), ("192.0.2.1", 53))]
found["loopback"] = error(socket.create_server, ("127.0.0.1", 0))
inputs = sorted(p for p in Path("/kaggle/input").rglob("*") if p.is_file())
found["inputs"] = {str(p): p.read_text() for p in inputs}
found["read-only"] = [error(open, p, "a") for p in (*inputs, *(q.parent / "new" for q in inputs), "/kaggle/input/new")]
found["removed"] = [error(os.unlink, p) for p in inputs]
found["disk"] = shutil.disk_usage("/kaggle/working").total
with open("big", "wb") as f:
    found["most of the disk"] = error(os.posix_fallocate, f.fileno(), 0, 19 * 2**30)
    found["more than the disk"] = error(os.posix_fallocate, f.fileno(), 0, 21 * 2**30)
os.unlink("big")
Path("HOST/file").write_text("changed")
Path("HOST/new").write_text("new")
shutil.rmtree("HOST/folder")
Path("/etc/mammo_kit_test").write_text("new")
Path("/dev/shm/mammo_kit_test").write_text("new")
import mammo_kit
Path(mammo_kit.__file__).with_name("new.py").write_text("")
Path("found.json").write_text(json.dumps(found))
Path("folder/deep").mkdir(parents=True)
Path("folder/deep/ä file").write_bytes(bytes(3))
os.symlink("deep", "folder/link")
print("looked around")
"""


def test_what_a_cell_meets_in_the_sandbox(sandbox, tmp_path, monkeypatch, capfd):
    for name in ("KAGGLE_KEY", "KAGGLE_USERNAME", "SOME_TOKEN"): monkeypatch.setenv(name, "secret")
    (host := tmp_path / "host, with: signs" / "folder").mkdir(parents=True)
    (host / "inner").write_text("inner")
    (host.parent / "file").write_text("as it was")
    for name in ("data", "model", "images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "data" / "test_images").mkdir()
    inputs = {place("competitions", "some-competition"): tmp_path / "data",
              place("notebooks", "me/some-model", "old"): tmp_path / "model"}
    inputs[place("competitions", "some-competition") + "/test_images"] = tmp_path / "images"
    out = tmp_path / "out, too: signs"
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()  # it can be reached from here
        code = LOOK_AROUND.replace("PORT", str(server.getsockname()[1])).replace("HOST", str(host.parent))
        ended = execute(Plan("looks", notebook(code), inputs, given=SMALL, rerun=True), out)
    assert ended.status == "COMPLETE", ended
    found = json.loads((ended.out / "found.json").read_text())

    assert found["cwd"] == "/kaggle/working" and found["cores"] == 1 and found["processes"] < 10
    assert found["network"] == ["ECONNREFUSED", "ENETUNREACH"] and found["loopback"] is None
    assert found["shared memory"] == []
    kaggle = {k: v for k, v in found["environment"].items() if k.startswith("KAGGLE")}
    assert kaggle == {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_URL_BASE": "https://www.kaggle.com",
                      "KAGGLE_IS_COMPETITION_RERUN": "1"}
    assert "secret" not in found["environment"].values() and found["environment"]["HOME"] == "/kaggle/home"

    top = "/kaggle/input/competitions/some-competition"
    assert found["inputs"] == {f"{top}/file": "data", f"{top}/test_images/file": "images",
                               "/kaggle/input/some-model/file": "model"}
    assert found["read-only"] == ["EROFS"] * 7 and found["removed"] == ["EROFS"] * 3
    assert found["disk"] == pytest.approx(20 * 2**30, rel=.02)
    assert found["most of the disk"] is None and found["more than the disk"] == "ENOSPC"

    assert (host.parent / "file").read_text() == "as it was" and (host / "inner").exists()
    assert not (host.parent / "new").exists()
    assert not Path("/etc/mammo_kit_test").exists() and not Path("/dev/shm/mammo_kit_test").exists()
    assert not Path(local_kaggle.__file__).with_name("new.py").exists()

    assert {p.name for p in ended.out.iterdir()} == {"found.json", "folder", "__notebook__.ipynb", "__results__.html"}
    assert (ended.out / "folder" / "deep" / "ä file").read_bytes() == bytes(3)
    assert os.readlink(ended.out / "folder" / "link") == "deep"
    assert "looked around" in (ended.out / "__results__.html").read_text()
    assert "looked around" in (out / "looks.log").read_text() and "looked around" in capfd.readouterr().out
    assert left_behind(out) == []


def test_memory_ends_where_the_session_ends(sandbox, tmp_path):
    group = memory_group(2**30)
    if not group: pytest.skip("no control group can be made here")
    group.rmdir()
    plan = Plan("eats", notebook("x = b'x' * 10", "x *= 2 * 10**8"), given=Session(1, .5, 1))
    ended = execute(plan, tmp_path, progress=False)
    assert ended.status == "ERROR" and "perhaps for lack of memory" in ended.error
    assert left_behind(tmp_path) == []


def test_no_memory_group_where_groups_have_no_say(tmp_path):
    for own in ("0::/some/scope\n", "4:memory:/some/scope\n", ""):
        (tmp_path / "some" / "scope").mkdir(parents=True, exist_ok=True)
        (tmp_path / "memory" / "some" / "scope").mkdir(parents=True, exist_ok=True)
        assert memory_group(2**30, tmp_path, own) is None
    assert not list(tmp_path.rglob("mammo-kit-*"))


@pytest.mark.parametrize("problem", ["", "not wanted"], ids=["sandbox", "plain"])
def test_a_failing_cell_is_named_and_its_output_kept(problem, tmp_path, request):
    if not problem: request.getfixturevalue("sandbox")
    cells = "open('kept', 'w').write('x')", "def f(x): return 1 / x\n\nf(0)", "open('never', 'w')"
    ended = execute(Plan("fails", notebook(*cells), given=SMALL, problem=problem), tmp_path, progress=False)
    assert ended.status == "ERROR" and not is_complete(tmp_path, "fails")
    assert ended.error.startswith("cell 2 (def f(x): return 1 / x): ZeroDivisionError: division by zero\n")
    assert "----> 3 f(0)" in ended.error and len(ended.error.splitlines()) <= 7
    assert (ended.out / "kept").exists() and not (ended.out / "never").exists()
    assert "ZeroDivisionError" in (ended.out / "__results__.html").read_text()
    assert left_behind(tmp_path) == []


def test_a_run_that_takes_too_long_is_stopped(tmp_path):
    cells = "open('kept', 'w').write('x')", "import time; time.sleep(100)"
    ended = execute(Plan("slow", notebook(*cells), problem="not wanted"), tmp_path, 6 / 3600, progress=False)
    assert ended.status == "ERROR" and "took longer than" in ended.error and ended.seconds < 60
    assert (ended.out / "kept").exists()


START = """
import sys
import nbformat
from pathlib import Path
from mammo_kit.local_kaggle import Plan, Session, execute
cell = "import time; print('sleeping', flush=True); time.sleep(1000)"
nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
execute(Plan("sleeps", nb, given=Session(1, 1, 1), problem=sys.argv[2]), Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("how", "problem"), [
    pytest.param(signal.SIGINT, "", id="Ctrl-C"), pytest.param(signal.SIGKILL, "", id="kill"),
    pytest.param(signal.SIGKILL, "not wanted", id="kill, plain")])
def test_an_interrupted_run_leaves_nothing_and_hurts_no_other(how, problem, tmp_path, request):
    if not problem: request.getfixturevalue("sandbox")
    process = subprocess.Popen([sys.executable, "-c", START, str(tmp_path), problem], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if "sleeping" in line: break
    assert any("sleeps" in text for text in left_behind(tmp_path))
    with pytest.raises(Stopped, match="another run of sleeps is writing here"):
        execute(Plan("sleeps", notebook("1"), given=SMALL, problem=problem), tmp_path, progress=False)
    if how == signal.SIGINT:
        other = execute(Plan("other", notebook("open('x', 'w')"), given=SMALL), tmp_path, progress=False)
        assert other.status == "COMPLETE" and (other.out / "x").exists() and process.poll() is None
    process.send_signal(how)
    process.wait(20)
    process.stdout.close()
    until = time.monotonic() + 20
    while left_behind(tmp_path, process.pid) and time.monotonic() < until: time.sleep(.05)
    assert left_behind(tmp_path, process.pid) == [] and not is_complete(tmp_path, "sleeps")


PARAMETERS = ("SIZE=64x32", "EPOCHS=1", "N_FOLDS=3", "DECISION=none")


@pytest.fixture(scope="module")
def library_without_a_network():
    "The wheels of what Kaggle lacks are installed here already: only our own is built."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mammo_kit.bundle.dependency_wheels", lambda root: [])
        yield


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def reference(competition, tmp_path_factory) -> Path:
    "What the three commands make."
    folder, src = tmp_path_factory.mktemp("reference"), competition
    for words in (["preprocess", src, folder / "images", "--size", "64x32"],
                  ["train", folder / "images", folder / "model", "--epochs", "1", "--n-folds", "3"],
                  ["infer", folder / "model", src, folder / "submission.csv", "--decision", "none"]):
        subprocess.run([COMMAND, *words, "--no-progress"], check=True, capture_output=True)
    return folder


def assert_same(out: Path, reference: Path):
    "Outputs of local runs are those of the commands."
    images, expected = files(out / "mammo-kit-preprocess" / "images"), files(reference / "images")
    made = {name for name in expected if re.match(r"shards/|manifest\.csv|plan\.csv|alarms\.csv|settings\.json", name)}
    assert len(made) >= 6
    assert {name: images[name] for name in made} == {name: expected[name] for name in made}
    for name, column in (("submission.csv", "cancer"), ("submission.probabilities.csv", "probability")):
        here, there = (pd.read_csv(f / name, index_col=0)[column] for f in (out / "mammo-kit-infer", reference))
        assert here.index.equals(there.index) and np.abs(here - there).max() < 1e-6


def test_the_stages_come_out_as_by_the_commands(sandbox, library_without_a_network, competition, reference, tmp_path,
                                                capsys):
    out = tmp_path / "local"
    ran = run_local("all", data=competition, out=out, set=PARAMETERS, rerun=True, progress=False)
    assert ran.exit_status == 0, ran
    assert_same(out, reference)
    assert all(run.sandbox and "+g" in run.library for run in ran.runs)
    assert str(ran).count("has the rows of test.csv, each in [0, 1]") == 2
    rerun = pd.read_csv(out / "mammo-kit-infer-rerun" / "submission.csv")
    train = pd.read_csv(competition / "train.csv", dtype=str)
    assert set(rerun["prediction_id"]) == {f"{p}_{s}" for p, s in zip(train["patient_id"], train["laterality"])}
    assert len(rerun) > len(pd.read_csv(out / "mammo-kit-infer" / "submission.csv"))
    said = capsys.readouterr().out
    assert f"/kaggle/input/competitions/{MAMMOGRAPHY.name}" in said and "network" in said
    assert left_behind(out) == []

    # Two folds' models, all inputs where they lay before 2026.
    shutil.copytree(out / "mammo-kit-train-f0", out / "mammo-kit-train-f1")
    shutil.copy(out / "mammo-kit-train-f0.json", out / "mammo-kit-train-f1.json")
    ran = run_local("infer", data=competition, out=out, fold=(0, 1), layout="old", progress=False)
    assert ran.exit_status == 0, ran
    assert f"/kaggle/input/{MAMMOGRAPHY.name} " in capsys.readouterr().out
    assert "models: /kaggle/input/mammo-kit-train-f0/model" in (out / "mammo-kit-infer.log").read_text()


def test_images_in_parts_train_the_same_model(sandbox, library_without_a_network, competition, reference, tmp_path):
    out, options = tmp_path / "local", {"data": competition, "progress": False}
    ran = run_local("preprocess", out=out, parts=2, set=("SIZE=64x32", "SHARD_SIZE=16"), **options)
    assert ran.exit_status == 0, ran
    assert [run.name for run in ran.runs] == ["mammo-kit-preprocess-p1", "mammo-kit-preprocess-p2"]
    ran = run_local("train", out=out, parts=2, set=("EPOCHS=1", "N_FOLDS=3"), **options)
    assert ran.exit_status == 0, ran
    here, there = (pd.read_csv(f, index_col=0)["probability"] for f in (
        out / "mammo-kit-train-f0" / "model" / "held_out.csv", reference / "model" / "held_out.csv"))
    np.testing.assert_allclose(here[there.index], there, atol=1e-6)
    assert not list((out / "mammo-kit-train-f0").rglob("*.tar")), "links to inputs are no output"
    shutil.rmtree(out / "mammo-kit-preprocess-p2")
    with pytest.raises(ValueError, match="preprocess-p2, which has .* first .*run-local preprocess .* --parts 2`"):
        run_local("train", out=out, parts=2, **options)


def test_without_a_sandbox_it_says_what_is_not_the_same(competition, reference, tmp_path, capsys):
    out = tmp_path / "local"
    ran = run_local("all", data=competition, out=out, set=PARAMETERS, sandbox="no", progress=False)
    assert ran.exit_status == 0, ran
    assert_same(out, reference)
    said = capsys.readouterr().out
    for words in ("no sandbox: it was not wanted", "the network is on", "the inputs are not read-only",
                  "memory and disk have no limit", "the library is the installed one", "Python 3"):
        assert f"not as on Kaggle: {words}" in said or words in said
    assert left_behind(out) == []


def test_a_failed_stage_feeds_no_other(competition, tmp_path):
    out, plain = tmp_path / "local", {"sandbox": "no", "progress": False}
    with pytest.raises(ValueError, match="preprocess, which has not run here: first `mammo-kit run-local preprocess"):
        run_local("train", data=competition, out=out, **plain)
    ran = run_local("all", data=competition, out=out, set=("SIZE=large",), **plain)
    assert ran.exit_status == 3 and [run.name for run in ran.runs] == ["mammo-kit-preprocess"]
    assert "ValueError: size 'large': expected HEIGHTxWIDTH" in str(ran)
    with pytest.raises(ValueError, match="mammo-kit-preprocess, which has failed here"):
        run_local("train", data=competition, out=out, **plain)
    with pytest.raises(ValueError, match="first `mammo-kit run-local train .* --fold 1`"):
        run_local("infer", data=competition, out=out, fold=(1,), **plain)


def test_wrong_use_is_told_before_anything_runs(competition, tmp_path, monkeypatch):
    def refused(words, stage="all", data=competition, out=tmp_path / "out", error=ValueError, **options):
        with pytest.raises(error, match=words): run_local(stage, data=data, out=out, **options)

    refused("nowhere: expected the folder of a competition, found nothing", data=tmp_path / "nowhere")
    (tmp_path / "data.zip").write_text("")
    refused("found a file: unpack it", data=tmp_path / "data.zip")
    (tmp_path / "empty").mkdir()
    refused("expected a competition, with train_images or test_images", data=tmp_path / "empty")
    (tmp_path / "partial" / "train_images").mkdir(parents=True)
    (tmp_path / "partial" / "train.csv").write_text("patient_id\n")
    refused("test_images, test.csv missing", data=tmp_path / "partial")
    refused("data and outputs must be apart", data=competition, out=competition / "out")
    refused("data and outputs must be apart", data=competition, out=competition.parent)
    refused("no parameter SIZES: preprocess has .*SIZE", set=("SIZES=64x32",))
    refused("expected NAME=VALUE", set=("SIZE",))
    refused("only infer meets a hidden test set", "train", rerun=True)
    refused("stage 'deploy'", "deploy")
    refused("hours 0", hours=0)
    refused("no fold", fold=())
    refused("parts 0", parts=0)
    monkeypatch.setattr("mammo_kit.local_kaggle.why_no_sandbox", lambda out: "it rains")
    refused("no sandbox: it rains", sandbox="yes", error=Stopped)
    usage = type("Usage", (), {"free": 2**29})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    refused("less than 2 GiB are free", error=Stopped)
    assert not (competition / "out").exists()


def test_who_is_not_root_gets_no_sandbox(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root" in why_no_sandbox(tmp_path)


def test_a_submission_has_the_rows_that_are_asked_for(competition, tmp_path):
    rerun_data(competition, tmp_path / "rerun", link=True)
    table, file = tmp_path / "rerun" / "test.csv", tmp_path / "submission.csv"
    good = pd.read_csv(tmp_path / "rerun" / "sample_submission.csv")
    columns = list(pd.read_csv(competition / "test.csv").columns)
    assert list(pd.read_csv(table).columns) == columns and len(good) == 24
    assert len(list((tmp_path / "rerun" / "test_images").iterdir())) == 12

    def problem(frame) -> str:
        frame.to_csv(file, index=False)
        return submission_problem(file, table)

    assert "no submission.csv" in submission_problem(file, table)
    assert problem(good) == "" and problem(good[::-1]) == ""
    assert "1 rows are missing" in problem(good[1:])
    assert "1 rows come twice" in problem(pd.concat([good, good[:1]]))
    assert "1 rows are not asked for" in problem(pd.concat([good, good[:1].assign(prediction_id="0_L")]))
    for value in (np.nan, 1.5, -.1, np.inf, "x"):
        bad = good.astype({"cancer": object})
        bad.loc[3, "cancer"] = value
        assert "1 numbers are not in [0, 1]" in problem(bad)
    assert "expected the columns prediction_id, cancer" in problem(good.reset_index())
