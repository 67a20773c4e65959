"""The commands that talk to Kaggle, against a stand-in of it, and what the plain client hides.

Each test has a checkout of its own; what is uploaded are small wheels, so that a test takes a fraction of a second."""
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from fake_kaggle import COMPETITION, KEY, OWNER, Dataset, running
from test_bundle import change_metadata, change_notebook, commit, git, make_checkout, make_wheel

from mammo_kit import bundle, publish
from mammo_kit.bundle import library_version
from mammo_kit.cli import main

LIBRARY, PREPROCESS, INFER = (f"{OWNER}/mammo-kit{end}" for end in ("", "-preprocess", "-infer"))


def train(fold: int) -> str: return f"{OWNER}/mammo-kit-train-f{fold}"


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    "A checkout, and beside it the library that is made of it, with wheels of others that hold nothing."
    at = tmp_path_factory.mktemp("published")
    root = make_checkout(at / "checkout")
    others = [make_wheel(at / "wheels", "dicomsdl", "0.109.4", f"cp{n}-cp{n}-manylinux2014_x86_64") for n in (311, 312)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "dependency_wheels", lambda root: others)
        bundle.build_library(at / "library", OWNER, root)
    return at


@pytest.fixture
def fake(original, tmp_path, monkeypatch):
    "Kaggle, a checkout to publish from, and a client that does not wait long."
    shutil.copytree(original / "checkout", tmp_path / "checkout", symlinks=True)
    monkeypatch.chdir(tmp_path / "checkout")
    with running() as server:
        server.use(monkeypatch, tmp_path / "home")
        server.home = tmp_path / "home"
        from kaggle.api import kaggle_api_extended as client

        class Hurried:
            sleep = staticmethod(lambda seconds: time.sleep(min(seconds, .01)))
            def __getattr__(self, name): return getattr(time, name)

        def build(folder: Path, owner: str, root: Path, dirty: bool = False) -> str:
            "Pip builds the wheel once only; here it gets the name of the commit."
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(original / "library", folder)
            (wheel,), version = folder.glob("mammo_kit-*.whl"), library_version(root, dirty)
            wheel.rename(folder / publish._wheel(version))
            (folder / "requirements.txt").write_text(f"mammo_kit=={version}\n")
            return version

        monkeypatch.setattr(client, "time", Hurried())
        monkeypatch.setattr(publish, "build_library", build)
        monkeypatch.setattr(publish, "stale_modules", lambda root: [])
        yield server


@dataclass
class Told:
    status: int
    out: str
    err: str


@pytest.fixture
def kit(fake, capsys):
    "`mammo-kit`, as it is called from a terminal."
    def run(*args) -> Told:
        capsys.readouterr()
        signal.alarm(20)  # what waits for ever fails; it does not hang
        status = main([*map(str, args), *(["--every", ".01"] if args[0] != "status" else [])])
        signal.alarm(0)
        return Told(status, *capsys.readouterr())

    def too_long(*_): raise AssertionError("mammo-kit has waited for 20 seconds")
    before = signal.signal(signal.SIGALRM, too_long)
    yield run
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def files_of(root: Path) -> dict[str, bytes]:
    "What the dataset of this checkout holds."
    version = library_version(root)
    return {publish._wheel(version): b"", "requirements.txt": f"mammo_kit=={version}\n".encode()}


@pytest.fixture
def published(fake):
    "Kaggle with the library of this checkout."
    fake.add_dataset("mammo-kit", files_of(Path.cwd()))
    return fake


def pushed(fake) -> list[str]: return [body["slug"] for body in fake.sent("SaveKernel")]


def names(fake) -> list[str]: return [name for name, _ in fake.requests]


def held(fake) -> list[str]:
    "The files of the dataset's last version."
    return sorted(fake.datasets[LIBRARY].versions[-1])


WHEELS = [f"dicomsdl-0.109.4-cp{n}-cp{n}-manylinux2014_x86_64.whl" for n in (311, 312)]


def all_files(root: Path) -> list[str]:
    return sorted([*WHEELS, publish._wheel(library_version(root)), "requirements.txt"])


# Publish.

def test_a_new_dataset_is_private_and_waited_for_although_it_is_hidden_at_first(fake, kit):
    fake.hidden = 4
    told = kit("publish")
    assert told.status == 0 and f"{LIBRARY} holds mammo_kit 0.1.0+g" in told.out and "is ready: https://" in told.out
    assert "uploading 4 files" in told.out and f"{LIBRARY}: not there yet; waiting" in told.out
    (made,) = fake.sent("CreateDataset")
    assert made["isPrivate"] is True and (made["ownerSlug"], made["slug"]) == (OWNER, "mammo-kit")
    assert held(fake) == all_files(Path.cwd()) and len(fake.datasets[LIBRARY].versions) == 1
    sent = fake.datasets[LIBRARY].versions[0][publish._wheel(library_version(Path.cwd()))]
    assert sent == next(Path("work/kaggle/dataset").glob("mammo_kit-*")).read_bytes()
    assert git(Path.cwd(), "status", "--porcelain") == ""


def test_what_is_there_is_not_sent_again_and_a_new_commit_is_a_new_version(fake, kit):
    assert kit("publish").status == 0
    fake.requests.clear()
    told = kit("publish")
    assert told.status == 0 and "already holds" in told.out
    assert {"StartBlobUpload", "upload", "CreateDataset", "CreateDatasetVersion"}.isdisjoint(names(fake))
    commit(Path.cwd(), "mammo_kit/competition.py", "x = 1\n")
    version = library_version(Path.cwd())
    told = kit("publish")
    assert told.status == 0 and f"{LIBRARY} holds mammo_kit {version}" in told.out
    assert len(fake.datasets[LIBRARY].versions) == 2 and held(fake) == all_files(Path.cwd())
    (body,) = fake.sent("CreateDatasetVersion")
    assert version in body["body"]["versionNotes"] and not body["body"].get("deleteOldVersions")


def test_a_version_that_is_still_being_processed_is_waited_for(fake, kit):
    fake.datasets[LIBRARY] = Dataset(["BLOBS_RECEIVED", "BLOBS_RECEIVED", "READY"], title="mammo-kit",
                                     versions=[{"old": b""}], pending={"old": b""})
    told = kit("publish")
    assert told.status == 0 and f"{LIBRARY}: blobs_received; waiting" in told.out
    assert len(fake.datasets[LIBRARY].versions) == 3 and held(fake) == all_files(Path.cwd())


def test_403_while_kaggle_works_on_the_last_version_is_waited_for(fake, kit):
    fake.add_dataset("mammo-kit", {"old": b""})
    fake.fail("CreateDatasetVersion", 403, times=2)
    told = kit("publish")
    assert told.status == 0 and told.out.count("answers 403") == 2 and held(fake) == all_files(Path.cwd())


def test_403_for_ever_is_an_error(fake, kit):
    fake.fail("CreateDataset", 403, times=99)
    told = kit("publish")
    assert told.status == 3 and "still answers 403" in told.err and LIBRARY not in fake.datasets


def test_a_dataset_that_is_there_but_hidden_gets_a_version(fake, kit):
    fake.fail("CreateDataset", {"status": "error", "error": 'The requested title "mammo-kit" is already in use by a '
                                                            "dataset. Please choose another title."})
    fake.datasets[LIBRARY] = Dataset([403, 403, 403, "BLOBS_RECEIVED", "READY"], pending={"old": b""})
    told = kit("publish")
    assert told.status == 0 and held(fake) == all_files(Path.cwd())


def test_a_dataset_of_an_interrupted_publish_is_taken_up(fake, kit):
    assert kit("publish").status == 0
    fake.datasets[LIBRARY] = Dataset([403, 403, 403, "READY"], title="mammo-kit",
                                     pending=fake.datasets[LIBRARY].versions[0])
    told = kit("publish")
    assert told.status == 0 and held(fake) == all_files(Path.cwd())


def test_ready_is_not_believed_while_it_is_the_version_before(fake, kit):
    fake.add_dataset("mammo-kit", {"old": b""})
    fake.processing = ["READY", "READY", "BLOBS_RECEIVED", "READY"]
    told = kit("publish")
    assert told.status == 0 and held(fake) == all_files(Path.cwd())
    assert "waiting" in told.out and len(fake.sent("CreateDatasetVersion")) == 1


@pytest.mark.parametrize("how", [403, 404, "reset", 503])
def test_an_upload_that_fails_once_is_sent_again(fake, kit, how):
    fake.fail("upload", how, only="mammo_kit", after=100)
    assert kit("publish").status == 0
    assert held(fake) == all_files(Path.cwd())
    (wheel,) = Path("work/kaggle/dataset").glob("mammo_kit-*")
    assert fake.datasets[LIBRARY].versions[0][wheel.name] == wheel.read_bytes()


@pytest.mark.parametrize("new", [True, False])
def test_an_upload_that_fails_for_good_stops_all(fake, kit, new):
    if not new: fake.add_dataset("mammo-kit", {"old": b""})
    fake.fail("upload", 403, times=99, only="requirements")
    told = kit("publish")
    assert told.status == 3 and "requirements.txt could not be uploaded" in told.err
    assert not fake.sent("CreateDataset") and not fake.sent("CreateDatasetVersion"), "nothing is made without the file"


def test_uploads_of_a_broken_try_that_expired_are_sent_anew(fake, kit):
    fake.add_dataset("mammo-kit", {"old": b""})
    fake.fail("CreateDatasetVersion", 400)
    told = kit("publish")
    assert told.status == 3 and "400" in told.err
    for name in all_files(Path.cwd()): fake.forget_upload(name)
    assert kit("publish").status == 0 and held(fake) == all_files(Path.cwd())


@pytest.mark.parametrize("name", ["CreateDataset", "CreateDatasetVersion"])
def test_an_error_of_the_dataset_inside_a_200_answer(fake, kit, name):
    if name == "CreateDatasetVersion": fake.add_dataset("mammo-kit", {"old": b""})
    fake.fail(name, {"status": "error", "error": "Private quota of 200 GB is used up"})
    told = kit("publish")
    assert told.status == 3 and "Private quota of 200 GB is used up" in told.err and "is ready" not in told.out


@pytest.mark.parametrize("name", ["CreateDataset", "CreateDatasetVersion"])
def test_a_lost_answer_makes_no_second_version(fake, kit, name):
    if name == "CreateDatasetVersion": fake.add_dataset("mammo-kit", {"old": b""})
    before = len(fake.datasets[LIBRARY].versions) if LIBRARY in fake.datasets else 0
    fake.fail(name, "lost")
    kit("publish")  # the client itself asks again, and is refused: it may say 0 or 3
    told = kit("publish")
    assert told.status == 0 and held(fake) == all_files(Path.cwd())
    assert len(fake.datasets[LIBRARY].versions) == before + 1


def test_a_version_that_kaggle_cannot_process(fake, kit):
    fake.processing = ["BLOBS_RECEIVED", "FAILED"]
    told = kit("publish")
    assert told.status == 3 and "failed" in told.err


def test_nothing_is_asked_while_the_library_is_not_committed(fake, kit):
    Path("mammo_kit/competition.py").write_text("x = 1\n")
    for command in (["publish"], ["push", "preprocess"]):
        told = kit(*command)
        assert told.status == 2 and "mammo_kit/competition.py" in told.err and "commit" in told.err
    assert "SaveKernel" not in names(fake) and "StartBlobUpload" not in names(fake)


def test_what_is_private_in_the_dataset_is_found_before_any_request(fake, kit, monkeypatch):
    monkeypatch.setattr(publish, "build_library", bundle.build_library)
    monkeypatch.setattr(bundle, "dependency_wheels", lambda root: [])
    at = Path("kernel-metadata/dataset")
    (at / "scan").write_bytes(bytes(128) + b"DICM")
    (at / "notes.txt").write_text(f"one\nmy {KEY}\n")
    (at / "login.py").write_text('data = "/home/ann/train.csv"\n')
    told = kit("publish")
    assert told.status == 2 and "nothing was sent" in told.err
    for what in ("scan: pixels", "notes.txt, line 2: a secret that is in use", "login.py, line 1: the path of a home"):
        assert what in told.err
    assert KEY not in told.out + told.err and fake.requests == []


@pytest.mark.parametrize("how", [429, 500, 502, 503, 504, "reset"])
def test_what_is_transient_is_asked_again(fake, kit, how):
    fake.add_dataset("mammo-kit", {"old": b""})
    for name in ("GetDatasetStatus", "ListDatasetFiles"): fake.fail(name, how, times=2)
    assert kit("publish").status == 0 and held(fake) == all_files(Path.cwd())


def test_kaggle_says_how_long_to_wait(published, kit):
    published.fail("GetDatasetStatus", 429, retry_after=1)
    start = time.monotonic()
    assert kit("publish").status == 0 and time.monotonic() - start >= 1


@pytest.mark.parametrize(("how", "word"), [(500, "answers 500"), (503, "answers 503"), ("reset", "no connection"),
                                           (429, "answers 429")])
def test_what_does_not_pass_is_an_error(fake, kit, how, word):
    fake.fail("GetDatasetStatus", how, times=999)
    told = kit("publish")
    assert told.status == 3 and word in told.err and f"the status of {LIBRARY}" in told.err
    assert 1 < len(fake.sent("GetDatasetStatus")) < 20


# Who is asking.

COMMANDS = [["publish"], ["push", "preprocess"], ["push", "infer"], ["status"], ["pull", "train", "out"], ["submit"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_credentials_that_kaggle_does_not_accept(fake, kit, monkeypatch, command):
    monkeypatch.setenv("KAGGLE_KEY", "anotherwrongkey")
    told = kit(*command)
    assert told.status == 2 and "credentials: sign in again" in told.err
    assert "SaveKernel" not in names(fake)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nobody_is_signed_in(fake, kit, monkeypatch, command):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"): monkeypatch.delenv(name)
    told = kit(*command)
    assert told.status == 2 and "nobody is signed in to Kaggle" in told.err and "KAGGLE_KEY" in told.err
    assert fake.requests == [] and told.out == ""


def test_a_token_in_the_place_of_a_key(published, kit, monkeypatch):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"): monkeypatch.delenv(name)
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    assert kit("push", "preprocess").status == 0 and pushed(published) == [PREPROCESS]
    change_notebook(Path.cwd(), "preprocess", lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell(KEY)))
    told = kit("push", "preprocess")
    assert told.status == 2 and "a secret that is in use here" in told.err and len(pushed(published)) == 1


# Push: what is sent.

def test_preprocess_is_sent_private_offline_and_without_a_gpu(published, kit):
    told = kit("push", "preprocess", "--set", "SIZE=64x32", "--set", "PART=1/2")
    assert told.status == 0 and f"{PREPROCESS} version 1 pushed: https://" in told.out
    (body,) = published.sent("SaveKernel")
    assert (body["slug"], body["newTitle"]) == (PREPROCESS, "mammo-kit-preprocess")
    assert body["isPrivate"] is True and body["enableInternet"] is False
    assert not body.get("enableGpu") and not body.get("machineShape")
    assert body["datasetDataSources"] == [LIBRARY] and body["competitionDataSources"] == [COMPETITION]
    assert (body["language"], body["kernelType"]) == ("python", "notebook")
    cells = json.loads(body["text"])["cells"]
    (given,) = (c for c in cells if "injected-parameters" in c["metadata"].get("tags", []))
    assert 'SIZE = "64x32"' in given["source"] and 'PART = "1/2"' in given["source"], "neither of two --set is lost"
    assert "GetAcceleratorQuotaStatistics" not in names(published) and "GPU" not in told.out
    assert git(Path.cwd(), "status", "--porcelain") == ""


def test_several_values_behind_one_set(published, kit):
    assert kit("push", "preprocess", "--set", "SIZE=64x32", "FORMAT=jpeg", "--set", "PART=1/2").status == 0
    text = published.sent("SaveKernel")[0]["text"]
    assert all(value in text for value in (r'SIZE = \"64x32\"', r'FORMAT = \"jpeg\"', r'PART = \"1/2\"'))


def test_the_quota_is_shown_before_a_gpu_is_asked_for(published, kit):
    published.add_kernel("mammo-kit-preprocess")
    published.used_hours, published.sessions["GPU"] = 27.25, 5
    told = kit("push", "train")
    assert told.status == 0 and "GPU hours left: 2.8 of 30" in told.out
    assert names(published).index("GetAcceleratorQuotaStatistics") < names(published).index("SaveKernel")
    (body,) = published.sent("SaveKernel")
    assert body["enableGpu"] is True and body["machineShape"] == "NvidiaTeslaT4" and body["enableInternet"] is False
    published.fail("GetAcceleratorQuotaStatistics", 403)
    told = kit("push", "train", "--fold", "1", "--accelerator", "NvidiaTeslaP100")
    assert told.status == 0 and "Kaggle does not say" in told.out
    assert published.sent("SaveKernel")[-1]["machineShape"] == "NvidiaTeslaP100"
    published.used_hours = 31
    told = kit("push", "train", "--fold", "2")
    assert told.status == 3 and "GPU hours left: 0.0 of 30" in told.out
    assert "not pushed: The weekly GPU quota is used up" in told.err


def test_folds_do_not_overwrite_each_other(published, kit):
    published.sessions["GPU"] = 5
    published.add_kernel("mammo-kit-preprocess")
    told = kit("push", "train", "--fold", "0", "1", "3")
    assert told.status == 0 and pushed(published) == [train(0), train(1), train(3)]
    assert [len(published.kernels[train(k)]) for k in (0, 1, 3)] == [1, 1, 1]
    for k, body in zip((0, 1, 3), published.sent("SaveKernel"), strict=True):
        assert f"FOLD = {k}\\n" in body["text"] and body["kernelDataSources"] == [PREPROCESS]


def part(k: int) -> str: return f"{PREPROCESS}-p{k}"


def test_parts_run_side_by_side_and_training_waits_for_all_of_them(published, kit):
    words = "push", "all", "--parts", "3", "--set", "SIZE=2048x1024", "--attach", "you/weights", "--wait"
    told = kit(*words)
    assert told.status == 3 and "--attach you/weights: Kaggle shows no such dataset" in told.err
    assert pushed(published) == []
    published.add_dataset("you/weights", {"a.safetensors": b""})
    assert kit(*words).status == 0
    assert pushed(published) == [part(1), part(2), part(3), train(0), INFER]
    *made, training, _ = published.sent("SaveKernel")
    for k, body in enumerate(made, 1):
        assert rf'PART = \"{k}/3\"' in body["text"] and r'SIZE = \"2048x1024\"' in body["text"]
    assert training["kernelDataSources"] == [part(1), part(2), part(3)]
    assert training["datasetDataSources"] == [LIBRARY, "you/weights"]
    assert r'PREPROCESS = \"mammo-kit-preprocess-p*\"' in training["text"]
    assert published.kernels[train(0)][0].attached == {part(k): 1 for k in (1, 2, 3)}


def test_all_parts_are_sent_before_the_first_is_waited_for(published, kit):
    for k in (1, 2): published.will(f"mammo-kit-preprocess-p{k}", ["QUEUED", "RUNNING", "RUNNING", "COMPLETE"])
    told = kit("push", "preprocess", "--parts", "2", "--wait")
    assert told.status == 0 and told.out.index(f"{part(2)} version 1 pushed") < told.out.index(f"{part(1)}: ")
    assert told.out.splitlines()[-2:] == [f"{part(k)} version 1 COMPLETE" for k in (1, 2)]


def test_a_part_that_failed_is_named_and_pushed_again_alone(published, kit):
    published.will("mammo-kit-preprocess-p2", ["QUEUED", "ERROR"], failure="the disk is full")
    published.will("mammo-kit-preprocess-p2", ["QUEUED", "COMPLETE"])
    told = kit("push", "preprocess", "--parts", "2", "--wait")
    assert told.status == 3 and f"{part(2)} version 1 ended with ERROR: the disk is full" in told.err
    assert told.err.rstrip().endswith("its log: mammo-kit pull preprocess OUT --part 2")
    told = kit("push", "train", "--parts", "2")
    assert told.status == 3 and "Mend it, then: mammo-kit push preprocess --parts 2 --part 2" in told.err
    assert kit("push", "preprocess", "--parts", "2", "--part", "2", "--wait").status == 0
    assert kit("push", "train", "--parts", "2").status == 0
    assert pushed(published) == [part(1), part(2), part(2), train(0)]
    told = kit("push", "train", "--parts", "3")
    assert told.status == 3 and "has never run" in told.err and "push preprocess --parts 3 --part 3" in told.err


def test_status_and_pull_know_of_parts(published, kit):
    for k in (1, 2): published.add_kernel(f"mammo-kit-preprocess-p{k}", {"images/part": bytes([k])})
    lines = dict(line.split(maxsplit=1) for line in kit("status").out.splitlines())
    assert [lines.get(ref) for ref in (PREPROCESS, part(1), part(2), part(3))] == [
        "not there", "version 1 COMPLETE", "version 1 COMPLETE", None]
    assert kit("pull", "preprocess", "out", "--part", "2").status == 0
    assert Path("out/images/part").read_bytes() == b"\2"
    told = kit("pull", "preprocess", "out", "--part", "3")
    assert told.status == 3 and "has never run: mammo-kit push preprocess --parts N --part 3" in told.err
    assert "--part belongs to preprocess" in kit("pull", "train", "out", "--part", "2").err


def test_more_folds_than_the_notebook_has_by_default(published, kit):
    published.add_kernel("mammo-kit-preprocess")
    told = kit("push", "train", "--fold", "6", "--set", "N_FOLDS=7")
    assert told.status == 0 and pushed(published) == [train(6)]
    published.kernels[train(6)][0].finish()
    assert kit("push", "infer").status == 0
    assert published.sent("SaveKernel")[-1]["kernelDataSources"] == [train(6)], "infer takes all that was trained"


def test_infer_takes_all_folds_that_were_trained_or_those_that_it_is_told(published, kit):
    for k in (0, 3, 4): published.add_kernel(f"mammo-kit-train-f{k}")
    assert kit("push", "infer").status == 0
    assert kit("push", "infer", "--fold", "3", "0", "--accelerator", "NvidiaTeslaT4").status == 0
    first, second = published.sent("SaveKernel")
    assert first["kernelDataSources"] == [train(0), train(3), train(4)] and first["machineShape"] == "NvidiaTeslaP100"
    assert second["kernelDataSources"] == [train(3), train(0)] and second["machineShape"] == "NvidiaTeslaT4"
    assert published.kernels[INFER][0].attached == {train(0): 1, train(3): 1, train(4): 1}


@pytest.mark.parametrize(("args", "words"), [
    (["train", "--set", "EPOCH=4"], "no parameter EPOCH"),
    (["train", "--set", "EPOCHS=many"], "expected int"),
    (["train", "--set", "EPOCHS"], "expected NAME=VALUE"),
    (["train", "--set", "FOLD=1"], "--fold"),
    (["train", "--fold", "5"], "fold 5: expected 0 to 4"),
    (["preprocess", "--fold", "1"], "--fold belongs to train"),
    (["preprocess", "--parts", "0"], "--parts 0: expected 1 or more"),
    (["preprocess", "--parts", "2", "--part", "3"], "part 3: expected 1 to 2 of 2 parts"),
    (["preprocess", "--parts", "2", "--set", "PART=1/2"], "choose it by --parts"),
    (["preprocess", "--attach", "you/weights"], "--attach belongs to train"),
    (["infer", "--parts", "2"], "--parts belongs to preprocess and train"),
    (["train", "--parts", "2", "--part", "1"], "--part belongs to preprocess"),
    (["train", "--set", "RECIPE=best"], "RECIPE 'best': expected one of small"),
])
def test_wrong_use_is_said_before_any_request(fake, kit, args, words):
    told = kit("push", *args)
    assert told.status == 2 and words in told.err and fake.requests == []


@pytest.mark.parametrize(("change", "words"), [
    ({"title": "Fold of a training"}, "makes the slug 'fold-of-a-training'"),
    ({"enable_internet": True}, "enable_internet true: expected false"),
    ({"is_private": ...}, "is_private null"),
    ({"code_file": "train.ipynb"}, "no such file"),
])
def test_metadata_is_checked_before_any_request(fake, kit, change, words):
    change_metadata(Path.cwd(), "train", **change)
    told = kit("push", "train")
    assert told.status == 2 and words in told.err and fake.requests == []


@pytest.mark.parametrize("stage", ["preprocess", "train", "infer"])
@pytest.mark.parametrize("line", [f"login('{KEY}')", "!cp /home/ann/x ."], ids=["key", "home"])
def test_what_is_private_in_a_kernel_is_found_before_any_request(published, kit, stage, line):
    change_notebook(Path.cwd(), stage, lambda nb: nb.cells.append(nbformat.v4.new_code_cell(line)))
    told = kit("push", stage)
    assert told.status == 2 and "nothing was sent" in told.err and f"{stage}.ipynb" in told.err
    assert published.requests == [] and KEY not in told.err


def test_a_value_that_names_somebodys_home_is_private_too(published, kit):
    told = kit("push", "preprocess", "--set", "SRC=/home/ann/rsna")
    assert told.status == 2 and "the path of a home folder" in told.err and pushed(published) == []


# Push: only onto what it needs.

def test_the_dataset_holds_this_commits_library_or_nothing_is_pushed(fake, kit):
    told = kit("push", "preprocess")
    assert told.status == 3 and f"{LIBRARY} is not on Kaggle yet: mammo-kit publish" in told.err
    fake.add_dataset("mammo-kit", {"mammo_kit-0.1.0+g0123456789ab-py3-none-any.whl": b""})
    told = kit("push", "preprocess")
    assert told.status == 3 and "mammo_kit-0.1.0+g0123456789ab" in told.err and "mammo-kit publish" in told.err
    assert library_version(Path.cwd()) in told.err and pushed(fake) == []


def test_a_dataset_that_is_being_processed_is_waited_for(fake, kit):
    fake.datasets[LIBRARY] = Dataset(["BLOBS_RECEIVED", "BLOBS_RECEIVED", "READY"], versions=[{"old": b""}],
                                     pending=files_of(Path.cwd()))
    told = kit("push", "preprocess")
    assert told.status == 0 and f"{LIBRARY}: blobs_received; waiting" in told.out
    assert pushed(fake) == [PREPROCESS] and held(fake) == sorted(files_of(Path.cwd()))


def test_a_dataset_whose_last_version_failed_is_not_waited_for(fake, kit):
    fake.datasets[LIBRARY] = Dataset(["FAILED"], versions=[{"old": b""}])
    told = kit("push", "preprocess")
    assert told.status == 3 and "failed" in told.err and pushed(fake) == []


def test_a_stale_export_is_not_pushed(published, kit, monkeypatch):
    monkeypatch.setattr(publish, "stale_modules", lambda root: ["dicom.py"])
    told = kit("push", "preprocess")
    assert told.status == 2 and "mammo_kit/dicom.py: not what the notebooks export" in told.err
    assert pushed(published) == []


@pytest.mark.parametrize(("stage", "upstream", "command"), [
    ("train", "mammo-kit-preprocess", "mammo-kit push preprocess"),
    ("infer", "mammo-kit-train-f0", "mammo-kit push train"),
])
def test_an_upstream_is_complete_or_nothing_is_pushed(published, kit, stage, upstream, command):
    told = kit("push", stage)
    assert told.status == 3 and f"{upstream} has never run" in told.err and command in told.err
    run = published.add_kernel(upstream, states=["QUEUED", "RUNNING", "RUNNING", "RUNNING", "COMPLETE"])
    told = kit("push", stage)
    assert told.status == 0 and f"{upstream}: RUNNING; waiting" in told.out
    (body,) = published.sent("SaveKernel")
    assert published.kernels[body["slug"]][0].attached == {f"{OWNER}/{upstream}": 1} and run.ended
    for state, failure in (("ERROR", "Your notebook tried to allocate more memory"), ("CANCEL_ACKNOWLEDGED", "")):
        published.add_kernel(upstream, states=["RUNNING", "RUNNING", state], failure=failure)
        told = kit("push", stage)
        assert told.status == 3 and f"ended with {state}" in told.err and failure in told.err and command in told.err
    assert len(pushed(published)) == 1


def test_infer_waits_for_every_fold(published, kit):
    published.add_kernel("mammo-kit-train-f0")
    published.add_kernel("mammo-kit-train-f1", states=["QUEUED", "RUNNING", "RUNNING", "RUNNING", "COMPLETE"])
    assert kit("push", "infer").status == 0 and published.kernels[INFER][0].attached == {train(0): 1, train(1): 1}
    published.add_kernel("mammo-kit-train-f1", states=["ERROR"], failure="out of memory")
    told = kit("push", "infer")
    assert told.status == 3 and "mammo-kit-train-f1" in told.err and "mammo-kit push train --fold 1" in told.err


def test_a_training_goes_on_from_its_own_output_once_there_is_one(published, kit):
    published.add_kernel("mammo-kit-preprocess")
    runs = [["QUEUED", "ERROR"], ["QUEUED", "CANCEL_ACKNOWLEDGED"], ["QUEUED", "COMPLETE"], ["QUEUED", "ERROR"],
            ["QUEUED", "RUNNING"], ["QUEUED"]]
    for states in runs: published.will("mammo-kit-train-f0", states)
    for states in runs[:-2]: assert kit("push", "train", "--wait").status == (0 if states[-1] == "COMPLETE" else 3)
    assert kit("push", "train").status == 0
    told = kit("push", "train")
    assert told.status == 0 and "its last version is still RUNNING; this one will run beside it" in told.out
    own = [train(0) in body["kernelDataSources"] for body in published.sent("SaveKernel")]
    assert own == [False, False, False, True, True, True]
    assert all(PREPROCESS in body["kernelDataSources"] for body in published.sent("SaveKernel"))
    assert all(run.attached.get(train(0), 3) == 3 for run in published.kernels[train(0)])


def test_a_complete_run_that_nobody_waited_for_is_gone_on_from(published, kit):
    published.add_kernel("mammo-kit-preprocess")
    published.add_kernel("mammo-kit-train-f2")
    assert kit("push", "train", "--fold", "2").status == 0
    assert published.sent("SaveKernel")[0]["kernelDataSources"] == [PREPROCESS, train(2)]


# Push: what Kaggle answers.

@pytest.mark.parametrize(("key", "name"), [
    ("invalidDatasetSources", LIBRARY), ("invalidCompetitionSources", COMPETITION),
    ("invalidKernelSources", train(0)), ("invalidModelSources", "google/gemma/pyTorch/2b/1"), ("invalidTags", "gpu")])
def test_a_source_that_kaggle_leaves_out_is_an_error(published, kit, key, name):
    published.fail("SaveKernel", {"versionNumber": 7, "ref": "x", "url": "https://www.kaggle.com/code/x", key: [name]})
    told = kit("push", "preprocess", "--wait")
    assert told.status == 3 and name in told.err and "version 7 was pushed and runs without" in told.err
    assert len(pushed(published)) == 1


def test_rules_that_were_not_accepted(published, kit):
    published.competitions = []
    told = kit("push", "preprocess")
    assert told.status == 3 and f"competition sources: {COMPETITION}" in told.err


@pytest.mark.parametrize(("answer", "words"), [
    ({"error": "Something went wrong"}, "not pushed: Something went wrong"),
    ({"error": "Notebook not found", "invalidTags": ["x"]}, "Notebook not found"),
    ({}, "no version number"),
])
def test_an_error_of_a_push_inside_a_200_answer(published, kit, answer, words):
    published.fail("SaveKernel", answer)
    told = kit("push", "preprocess", "--wait")
    assert told.status == 3 and words in told.err and "pushed: https" not in told.out


def test_more_sessions_than_kaggle_allows(published, kit):
    published.sessions["GPU"] = 1
    published.add_kernel("mammo-kit-preprocess")
    told = kit("push", "train", "--fold", "0", "1")
    assert told.status == 3 and "f1 was not pushed: Maximum batch GPU session count of 1 reached" in told.err
    assert f"{train(0)} version 1 pushed" in told.out


def test_a_refusal_of_a_push(published, kit):
    published.fail("SaveKernel", 400)
    told = kit("push", "preprocess")
    assert told.status == 3 and "400" in told.err and len(pushed(published)) == 1
    published.fail("SaveKernel", 403)
    told = kit("push", "preprocess")
    assert told.status == 3 and f"pushing {PREPROCESS}: Kaggle answers" in told.err and len(pushed(published)) == 2


def test_a_push_whose_answer_is_lost_is_not_made_twice(published, kit):
    published.fail("SaveKernel", "lost", times=9)
    for number in (1, 2):
        told = kit("push", "preprocess", "--wait")
        assert told.status == 0 and f"version {number} pushed, although Kaggle's answer was lost" in told.out
        assert len(published.kernels[PREPROCESS]) == number == len(pushed(published))


@pytest.mark.parametrize("how", [500, 504, "reset"])
def test_a_push_that_may_have_happened_but_did_not(published, kit, how):
    published.add_kernel("mammo-kit-preprocess")
    published.fail("SaveKernel", how)
    told = kit("push", "preprocess")
    assert told.status == 0 and "may have happened" in told.err
    assert len(pushed(published)) == 2 and len(published.kernels[PREPROCESS]) == 2


@pytest.mark.parametrize("how", [503, 429])
def test_a_push_that_kaggle_was_too_busy_for_is_made_again(published, kit, how):
    published.fail("SaveKernel", how, times=2)
    assert kit("push", "preprocess").status == 0
    assert len(pushed(published)) == 3 and len(published.kernels[PREPROCESS]) == 1


# Push: waiting for the run.

LINES = [f"epoch {i}" for i in range(6)]


def shown(out: str) -> list[str]: return [line for line in out.splitlines() if line.startswith("epoch")]


def test_the_log_is_printed_while_it_runs(published, kit):
    published.will("mammo-kit-preprocess", log=LINES, pause=.01)
    told = kit("push", "preprocess", "--wait")
    assert told.status == 0 and shown(told.out) == LINES
    assert told.out.splitlines()[-1] == f"{PREPROCESS} version 1 COMPLETE"


def test_the_log_of_a_run_that_was_never_seen_running(published, kit):
    published.will("mammo-kit-preprocess", ["QUEUED", "ERROR"], log=LINES, failure="no space left")
    told = kit("push", "preprocess", "--wait")
    assert told.status == 3 and shown(told.out) == LINES and "no space left" in told.err


@pytest.mark.parametrize("how", ["reset", "truncate", 503])
def test_a_log_that_breaks_off_goes_on_without_repeating_itself(published, kit, how):
    published.will("mammo-kit-preprocess", ["QUEUED", "RUNNING", *["RUNNING"] * 9, "COMPLETE"], log=LINES)
    published.fail("logs", how, after=2)
    published.fail("logs", how, after=4)
    told = kit("push", "preprocess", "--wait")
    assert told.status == 0 and shown(told.out) == LINES
    assert len(published.sent("logs")) >= 3


def test_a_run_without_a_log(published, kit):
    published.fail("logs", 404, times=99)
    assert kit("push", "preprocess", "--wait").status == 0


@pytest.mark.parametrize(("state", "failure"), [("ERROR", "Your notebook was stopped: CUDA out of memory"),
                                                ("CANCEL_ACKNOWLEDGED", "")])
def test_a_run_that_fails_says_why(published, kit, state, failure):
    published.add_kernel("mammo-kit-preprocess")
    published.will("mammo-kit-train-f1", ["QUEUED", "RUNNING", state], failure=failure, log=LINES)
    told = kit("push", "train", "--fold", "1", "2", "--wait")
    assert told.status == 3 and f"{train(1)} version 1 ended with {state}" in told.err and failure in told.err
    assert "mammo-kit pull train OUT --fold 1" in told.err and shown(told.out) == LINES
    assert pushed(published) == [train(1)], "the fold behind it is not started"


def test_a_run_that_is_being_cancelled_has_not_ended(published, kit):
    published.will("mammo-kit-preprocess", ["RUNNING", "CANCEL_REQUESTED", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED"])
    told = kit("push", "preprocess", "--wait")
    assert told.status == 3 and "CANCEL_REQUESTED" in told.out and "ended with CANCEL_ACKNOWLEDGED" in told.err


@pytest.mark.parametrize("before", [1, 2])
def test_complete_right_after_a_push_is_the_run_before(published, kit, before):
    published.will("mammo-kit-preprocess", [*["COMPLETE"] * before, "RUNNING", "ERROR"], failure="no space left")
    told = kit("push", "preprocess", "--wait")
    assert told.status == 3 and "no space left" in told.err
    published.fail("SaveKernel", "lost")
    told = kit("push", "preprocess", "--wait")
    assert told.status == 3 and "no space left" in told.err, "nor where the answer was lost"


def test_what_is_transient_does_not_end_the_waiting(published, kit):
    published.will("mammo-kit-preprocess", ["QUEUED", *["RUNNING"] * 5, "COMPLETE"])
    for how in (503, "reset"): published.fail("GetKernelSessionStatus", how, times=2)
    assert kit("push", "preprocess", "--wait").status == 0


def test_folds_are_waited_for_one_after_the_other(published, kit):
    published.sessions["GPU"] = 1
    published.add_kernel("mammo-kit-preprocess")
    told = kit("push", "train", "--fold", "0", "1", "2", "--wait")
    assert told.status == 0 and pushed(published) == [train(0), train(1), train(2)]
    assert told.out.splitlines()[-3:] == [f"{train(k)} version 1 COMPLETE" for k in range(3)]


def test_all_stages_at_once(published, kit):
    told = kit("push", "all", "--fold", "0", "1", "--set", "EPOCHS=3", "--set", "SIZE=64x32", "--wait")
    assert told.status == 0 and pushed(published) == [PREPROCESS, train(0), train(1), INFER]
    bodies = published.sent("SaveKernel")
    assert bodies[-1]["kernelDataSources"] == [train(0), train(1)]
    assert ["SIZE = " + r'\"64x32\"' in b["text"] for b in bodies] == [True, False, False, False]
    assert [r"EPOCHS = 3\n" in b["text"] for b in bodies] == [False, True, True, False]
    assert published.kernels[INFER][0].attached == {train(0): 1, train(1): 1}


def test_ctrl_c_while_waiting(published):
    published.will("mammo-kit-preprocess", ["QUEUED", "RUNNING"], log=["epoch 0"])
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from mammo_kit.cli import main; sys.exit(main())", "push", "preprocess",
         "--wait", "--every", ".05"], env=published.environment(published.home), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)
    try:
        for line in process.stdout:
            if "RUNNING" in line: break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally: process.kill()
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert len(published.kernels[PREPROCESS]) == 1


# Push: for the plain client.

def test_a_prepared_folder_is_taken_by_the_plain_client(published, kit):
    published.add_kernel("mammo-kit-preprocess")
    told = kit("push", "train", "--fold", "1", "2", "--set", "EPOCHS=3", "--prepare")
    assert told.status == 0 and pushed(published) == []
    commands = re.findall(r"^kaggle kernels push -p (\S+)$", told.out, re.MULTILINE)
    assert len(commands) == 2 and git(Path.cwd(), "status", "--porcelain") == ""
    plain = subprocess.run([sys.executable, "-m", "kaggle", "kernels", "push", "-p", commands[0]], capture_output=True,
                           env=published.environment(published.home), text=True)
    assert "Kernel version 1 successfully pushed" in plain.stdout and "not valid" not in plain.stdout, plain
    (body,) = published.sent("SaveKernel")
    assert body["slug"] == train(1) and body["machineShape"] == "NvidiaTeslaT4" and body["enableInternet"] is False
    assert r"EPOCHS = 3" in body["text"] and r"FOLD = 1" in body["text"]
    published.requests.clear()
    assert kit("push", "train", "--fold", "2", "--set", "EPOCHS=3").status == 0
    (ours,) = published.sent("SaveKernel")
    assert {k: v for k, v in ours.items() if k not in ("slug", "newTitle", "text")} == {
        k: v for k, v in body.items() if k not in ("slug", "newTitle", "text")}, "the same is sent either way"


# Status.

def test_how_everything_stands(fake, kit):
    told = kit("status")
    assert told.status == 0 and told.out.count("not there") == 1 + 1 + 5 + 1
    fake.add_dataset("mammo-kit", files_of(Path.cwd()))
    for state in ("ERROR", "COMPLETE"): fake.add_kernel("mammo-kit-preprocess", states=[state])
    fake.add_kernel("mammo-kit-train-f0", states=["RUNNING"])
    told = kit("status")
    lines = dict(line.split(maxsplit=1) for line in told.out.splitlines())
    assert told.status == 0 and lines[LIBRARY] == f"ready {publish._wheel(library_version(Path.cwd()))}"
    assert (lines[PREPROCESS], lines[train(0)], lines[train(4)], lines[INFER]) == (
        "version 2 COMPLETE", "version 1 RUNNING", "not there", "not there")
    fake.add_kernel("mammo-kit-train-f0", states=["ERROR"], failure="out of memory")
    told = kit("status")
    assert told.status == 3 and f"{train(0)}" in told.out and "version 2 ERROR: out of memory" in told.out


# Pull.

OUTPUTS = {"manifest.csv": b"a,b\n", "images/shards/00000.tar": bytes(range(256)) * 8, "empty.txt": b""}


def tree(folder: Path) -> dict[str, bytes]:
    "What is there by name, but for hidden files and a log that is empty."
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*"))
            if f.is_file() and not f.name.startswith(".") and (f.suffix != ".log" or f.stat().st_size)}


def test_outputs_come_in_folders_with_the_log(fake, kit):
    fake.add_kernel("mammo-kit-preprocess", {"old": b""})
    fake.add_kernel("mammo-kit-preprocess", OUTPUTS, log=LINES)
    told = kit("pull", "preprocess", "out")
    assert told.status == 0 and "3 files, 3 of them fetched now" in told.out
    assert tree(Path("out")) == OUTPUTS | {"mammo-kit-preprocess.log": "".join(f"{line}\n" for line in LINES).encode()}


def test_many_outputs_come_in_pages(fake, kit):
    fake.add_kernel("mammo-kit-preprocess", {f"shards/{i:05}.tar": bytes([i]) for i in range(130)})
    assert kit("pull", "preprocess", "out").status == 0
    assert tree(Path("out")) == {f"shards/{i:05}.tar": bytes([i]) for i in range(130)}


def test_what_is_there_is_not_fetched_again_and_what_changed_is(fake, kit):
    fake.add_kernel("mammo-kit-preprocess", OUTPUTS, time=1e9)
    assert kit("pull", "preprocess", "out").status == 0
    before = Path("out/images/shards/00000.tar").stat()
    told = kit("pull", "preprocess", "out")
    assert told.status == 0 and "3 files, 0 of them fetched now" in told.out
    assert Path("out/images/shards/00000.tar").stat() == before
    fake.add_kernel("mammo-kit-preprocess", OUTPUTS | {"manifest.csv": b"c,d\n"}, time=1e9)  # as long as before
    Path("out/empty.txt").unlink()
    told = kit("pull", "preprocess", "out")
    assert "3 files, 2 of them fetched now" in told.out
    assert tree(Path("out")) == OUTPUTS | {"manifest.csv": b"c,d\n"}


def test_a_file_that_was_cut_off_here_is_fetched_again(fake, kit):
    fake.add_kernel("mammo-kit-preprocess", OUTPUTS)
    assert kit("pull", "preprocess", "out").status == 0
    Path("out/images/shards/00000.tar").write_bytes(b"half")
    assert kit("pull", "preprocess", "out").status == 0 and tree(Path("out")) == OUTPUTS


@pytest.mark.parametrize("name", ["../stolen", "/tmp/mammo_kit_stolen", "a/../../stolen"])
def test_an_output_that_would_lie_outside_is_refused(fake, kit, name):
    fake.add_kernel("mammo-kit-preprocess", {name: b"x"})
    told = kit("pull", "preprocess", "out")
    assert told.status == 3 and "outside" in told.err
    assert not Path("stolen").exists() and not Path("/tmp/mammo_kit_stolen").exists()


@pytest.mark.parametrize("how", ["truncate", "reset", 500, 503, 429])
def test_a_download_that_breaks_is_made_whole(fake, kit, how):
    fake.add_kernel("mammo-kit-preprocess", OUTPUTS)
    fake.fail("download", how, times=2, after=500, only="00000.tar")
    assert kit("pull", "preprocess", "out").status == 0 and tree(Path("out")) == OUTPUTS


@pytest.mark.parametrize("how", [503, 404, 403])
def test_the_page_of_an_error_is_not_an_output(fake, kit, how):
    fake.add_kernel("mammo-kit-preprocess", OUTPUTS)
    fake.fail("download", how, times=99, only="manifest")
    told = kit("pull", "preprocess", "out")
    assert told.status == 3 and "manifest.csv" in told.err and not Path("out/manifest.csv").exists()


def test_a_pull_that_breaks_off_goes_on_where_it_was(fake, kit):
    outputs = OUTPUTS | {"images/shards/00000.tar": bytes(range(256)) * (10 << 12)}  # the client writes 1 MiB at a time
    fake.add_kernel("mammo-kit-preprocess", outputs, time=1e9)
    fake.fail("download", "truncate", times=7, after=(1 << 20) + 10, only="00000.tar")
    told = kit("pull", "preprocess", "out")
    assert told.status == 3 and "the same command goes on" in told.err
    assert "images/shards/00000.tar" not in tree(Path("out")), "half a file has not the name of a whole one"
    fake._faults.clear()
    fake.requests.clear()
    told = kit("pull", "preprocess", "out")
    assert told.status == 0 and tree(Path("out")) == outputs
    ranges = [b["range"] for b in fake.sent("download") if b["name"].endswith("00000.tar")]
    assert f"bytes={6 << 20}-" in ranges, "what was there is not fetched again"


def test_a_failed_run_leaves_its_log(fake, kit):
    fake.add_kernel("mammo-kit-train-f2", {"model/partial.pt": b"x"}, ["ERROR"], failure="out of memory", log=["Why"])
    told = kit("pull", "train", "out", "--fold", "2")
    assert told.status == 3 and "ERROR: out of memory" in told.out
    assert tree(Path("out")) == {"mammo-kit-train-f2.log": b"Why\n", "model/partial.pt": b"x"}


def test_what_cannot_be_pulled(fake, kit):
    told = kit("pull", "train", "out", "--fold", "1")
    assert told.status == 3 and "has never run: mammo-kit push train --fold 1" in told.err
    fake.add_kernel("mammo-kit-train-f1", OUTPUTS, ["RUNNING"])
    told = kit("pull", "train", "out", "--fold", "1")
    assert told.status == 3 and "still RUNNING" in told.err and not Path("out").exists()


# Submit.

SUBMISSION = {"submission.csv": b"prediction_id,cancer\n0_L,0.5\n", "submission.probabilities.csv": b""}


def test_the_last_version_is_submitted_and_its_score_waited_for(fake, kit):
    fake.add_kernel("mammo-kit-infer", {"other.csv": b""}, ["ERROR"])
    fake.add_kernel("mammo-kit-infer", SUBMISSION)
    fake.will_score(["PENDING", "PENDING", "COMPLETE"], public="0.53")
    told = kit("submit")
    assert told.status == 0 and told.out.splitlines()[-1] == \
        f"{INFER} version 2 submitted to {COMPETITION}: public score 0.53"
    (body,) = fake.sent("CreateCodeSubmission")
    assert (body["kernelOwner"], body["kernelSlug"], body["kernelVersion"]) == (OWNER, "mammo-kit-infer", 2)
    assert body["fileName"] == "submission.csv" and "version 2" in body["submissionDescription"]
    assert git(Path.cwd(), "status", "--porcelain") == ""


def test_a_run_is_waited_for_before_it_is_submitted(fake, kit):
    fake.add_kernel("mammo-kit-infer", SUBMISSION, ["QUEUED", "RUNNING", "COMPLETE"])
    told = kit("submit", "--message", "first try", "--no-wait")
    assert told.status == 0 and "RUNNING; waiting" in told.out and "score" not in told.out
    assert fake.sent("CreateCodeSubmission")[0]["submissionDescription"] == "first try"
    assert names(fake).count("ListSubmissions") == 1  # what was there before


@pytest.mark.parametrize(("states", "outputs", "words"), [
    (["ERROR"], SUBMISSION, "ended with ERROR: out of memory"),
    (["RUNNING", "CANCEL_ACKNOWLEDGED"], SUBMISSION, "ended with CANCEL_ACKNOWLEDGED"),
    (["COMPLETE"], {"predictions.csv": b""}, "no output submission.csv; it has predictions.csv"),
    (["COMPLETE"], {}, "no output submission.csv; it has none"),
])
def test_what_is_not_submitted(fake, kit, states, outputs, words):
    fake.add_kernel("mammo-kit-infer", SUBMISSION)
    fake.add_kernel("mammo-kit-infer", outputs, states, failure="out of memory")
    told = kit("submit")
    assert told.status == 3 and words in told.err and not fake.sent("CreateCodeSubmission")


def test_nothing_to_submit(fake, kit):
    told = kit("submit")
    assert told.status == 3 and f"{INFER} has never run" in told.err and "mammo-kit push infer" in told.err


def test_a_submission_that_is_refused(fake, kit):
    fake.add_kernel("mammo-kit-infer", SUBMISSION)
    fake.daily_submissions = 0
    told = kit("submit")
    assert told.status == 3 and "no submissions are left for today" in told.err


def test_a_submission_that_fails_says_why(fake, kit):
    fake.add_kernel("mammo-kit-infer", SUBMISSION)
    fake.will_score(["PENDING", "ERROR"], error="Notebook Timeout")
    told = kit("submit")
    assert told.status == 3 and "Notebook Timeout" in told.err


def test_each_submission_has_its_own_score(fake, kit):
    fake.add_kernel("mammo-kit-infer", SUBMISSION)
    fake.will_score(public="0.41")
    fake.will_score(["PENDING", "PENDING", "COMPLETE"], public="0.42")
    assert ["score 0.41" in kit("submit").out, "score 0.42" in kit("submit").out] == [True, True]


def test_a_submission_whose_answer_is_lost_is_not_made_twice(fake, kit):
    fake.add_kernel("mammo-kit-infer", SUBMISSION)
    fake.fail("CreateCodeSubmission", "lost")
    told = kit("submit")
    assert len(fake.submissions) == 1
    assert told.status == 0 or "may have happened" in told.err


def test_a_submission_that_kaggle_was_too_busy_for_is_made_again(fake, kit):
    fake.add_kernel("mammo-kit-infer", SUBMISSION)
    fake.fail("CreateCodeSubmission", 503, times=2)
    for how in (500, "reset"): fake.fail("ListSubmissions", how)
    assert kit("submit").status == 0 and len(fake.submissions) == 1


# From a clone to a submission, as a user types it.

def test_from_a_clone_to_a_submission(original, tmp_path):
    root = shutil.copytree(original / "checkout", tmp_path / "checkout")
    kept = root / "work" / "kaggle" / "wheels"
    pins = bundle._pins(root)
    for python in bundle.PYTHONS:
        folder = kept / "-".join([python, *(f"{name}{version}" for name, version in pins.items())])
        make_wheel(folder, "accelerate", pins["accelerate"], "py3-none-any")
    head = git(root, "rev-parse", "HEAD")
    with running() as fake:
        fake.will("mammo-kit-infer", outputs=SUBMISSION, log=["done"])

        def kit(*args) -> str:
            command = "import sys; from mammo_kit.cli import main; sys.exit(main())"
            ended = subprocess.run([sys.executable, "-c", command, *args, "--every", ".05"], text=True, cwd=root,
                                   env=fake.environment(tmp_path / "home"), capture_output=True)
            assert ended.returncode == 0, ended
            return ended.stdout

        assert f"{LIBRARY} holds mammo_kit 0.1.0+g{head[:12]} and is ready" in kit("publish")
        assert "done" in kit("push", "all", "--fold", "0", "1", "--wait")
        assert "public score 0.42" in kit("submit")
        assert fake.sent("elsewhere") == [] and OWNER not in git(root, "log", "--format=%an %ae")
        assert held(fake) == sorted([f"mammo_kit-0.1.0+g{head[:12]}-py3-none-any.whl", "requirements.txt",
                                     f"accelerate-{pins['accelerate']}-py3-none-any.whl"])
    assert git(root, "status", "--porcelain") == "" and git(root, "rev-parse", "HEAD") == head
    tracked = [root / name for name in git(root, "ls-files").splitlines()]
    assert [f for f in tracked if OWNER.encode() in f.read_bytes()] == []
