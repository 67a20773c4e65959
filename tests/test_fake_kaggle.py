"""The real client against the fake server: that the fake speaks the client's language, and what the client hides.

The tests named `trap` are the reasons why `mammo_kit.publish` looks at every answer itself; the client is 2.2.4."""
import json
import subprocess
import sys
import time

import pytest
import requests
from fake_kaggle import COMPETITION, KEY, OWNER, running

NOTEBOOK = {"cells": [{"cell_type": "code", "source": ["import mammo_kit\n", "1"], "outputs": [], "metadata": {}}],
            "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
DONE = {"submission.csv": b"prediction_id,cancer\n0_L,0.5\n", "model/best.safetensors": bytes(range(256)) * 8}


@pytest.fixture()
def fake():
    with running() as server: yield server


@pytest.fixture()
def kaggle(fake, tmp_path):
    "The client's command, as a user runs it."
    def run(*args, **environment):
        return subprocess.run([sys.executable, "-m", "kaggle", *map(str, args)], capture_output=True, text=True,
                              env=fake.environment(tmp_path / "home") | environment, cwd=tmp_path, timeout=60)
    return run


@pytest.fixture()
def api(fake, tmp_path, monkeypatch):
    "The client as Python sees it."
    client = fake.use(monkeypatch, tmp_path / "home")()
    client.authenticate()
    return client


@pytest.fixture()
def library(tmp_path):
    "A dataset of two files, one of them empty, and a folder that the client passes over."
    folder = tmp_path / "library"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "a.txt").write_text("a")
    (folder / "mammo_kit-0.1.0-py3-none-any.whl").write_bytes(bytes(range(256)) * 400)
    (folder / "requirements.txt").touch()
    (folder / "dataset-metadata.json").write_text(json.dumps(
        {"id": f"{OWNER}/mammo-kit", "title": "mammo-kit", "licenses": [{"name": "apache-2.0"}]}))
    return folder


@pytest.fixture()
def stage(tmp_path):
    "Makes the folder of a kernel."
    def make(slug="mammo-kit-train-f0", **metadata):
        folder = tmp_path / slug
        folder.mkdir(exist_ok=True)
        (folder / "train.ipynb").write_text(json.dumps(NOTEBOOK))
        (folder / "kernel-metadata.json").write_text(json.dumps(
            {"id": f"{OWNER}/{slug}", "title": slug, "code_file": "train.ipynb", "language": "python",
             "kernel_type": "notebook", "enable_internet": False, **metadata}))
        return folder
    return make


# Datasets.

def test_a_dataset_is_created_seen_after_a_while_and_given_a_version(fake, kaggle, api, library):
    made = kaggle("datasets", "create", "-p", library)
    assert made.returncode == 0 and "Your private Dataset is being created" in made.stdout
    assert "Skipping folder: docs" in made.stdout
    request, = fake.sent("CreateDataset")
    assert request["isPrivate"] and request["slug"] == "mammo-kit" and len(request["files"]) == 2
    first = kaggle("datasets", "status", f"{OWNER}/mammo-kit")
    assert first.returncode == 1 and "denied" in first.stderr
    assert [api.dataset_status(f"{OWNER}/mammo-kit") for _ in range(2)] == ["not_yet_persisted", "blobs_received"]
    with pytest.raises(requests.HTTPError, match="datasets.update"): api.dataset_create_version(str(library), "early")
    state = json.loads(api.dataset_status(f"{OWNER}/mammo-kit", format="json"))
    assert state == {"status": "ready", "current_version_number": 1}
    (library / "requirements.txt").write_text("mammo_kit==0.1.0\n")
    assert api.dataset_create_version(str(library), "commit abc", quiet=True).status == "Ok"
    assert fake.sent("CreateDatasetVersion")[-1]["body"]["versionNotes"] == "commit abc"
    while api.dataset_status(f"{OWNER}/mammo-kit") != "ready": pass
    sizes = {f.name: f.total_bytes for f in api.dataset_list_files(f"{OWNER}/mammo-kit").files}
    assert sizes == {"mammo_kit-0.1.0-py3-none-any.whl": 102400, "requirements.txt": 17}
    old = {f.name: f.total_bytes for f in api.dataset_list_files(f"{OWNER}/mammo-kit/1").files}
    assert old["requirements.txt"] == 0
    assert "requirements.txt" in kaggle("datasets", "files", f"{OWNER}/mammo-kit").stdout


def test_archives_of_a_dataset_are_unpacked_wheels_are_not_and_lists_have_pages(fake, api, library):
    fake.hidden, fake.processing = 0, ["READY"]
    (library / "docs" / "b.txt").write_text("bb")
    api.dataset_create_new(str(library), quiet=True, dir_mode="zip")
    assert api.dataset_status(f"{OWNER}/mammo-kit") == "ready"
    first = api.dataset_list_files(f"{OWNER}/mammo-kit", page_size=3)
    rest = api.dataset_list_files(f"{OWNER}/mammo-kit", page_size=3, page_token=first.next_page_token)
    assert [f.name for f in (*first.files, *rest.files)] == [
        "docs/a.txt", "docs/b.txt", "mammo_kit-0.1.0-py3-none-any.whl", "requirements.txt"]
    assert not rest.next_page_token


def test_a_file_of_a_dataset_is_downloaded(fake, api, tmp_path):
    fake.add_dataset("mammo-kit", {"requirements.txt": b"mammo_kit==0.1.0\n"})
    assert api.dataset_download_file(f"{OWNER}/mammo-kit", "requirements.txt", path=str(tmp_path / "got"))
    assert (tmp_path / "got/requirements.txt").read_text() == "mammo_kit==0.1.0\n"


def test_trap_a_dataset_that_exists_is_not_created_and_the_command_says_0(fake, kaggle, library):
    fake.add_dataset("mammo-kit", {"requirements.txt": b""})
    made = kaggle("datasets", "create", "-p", library)
    assert made.returncode == 0 and "Dataset creation error" in made.stdout
    assert not fake.sent("CreateDataset")


def test_trap_a_file_whose_upload_fails_is_left_out_and_the_command_says_0(fake, kaggle, library):
    fake.add_dataset("mammo-kit", {"requirements.txt": b""})
    fake.fail("upload", 403, only=".whl")
    made = kaggle("datasets", "version", "-p", library, "-m", "commit abc")
    assert made.returncode == 0 and "Dataset version is being created" in made.stdout
    assert "Upload unsuccessful: mammo_kit" in made.stdout
    fake.datasets[f"{OWNER}/mammo-kit"].finish()
    assert list(fake.datasets[f"{OWNER}/mammo-kit"].versions[-1]) == ["requirements.txt"]


def test_trap_ready_may_still_be_said_of_the_version_before(fake, api, library):
    fake.add_dataset("mammo-kit", {"requirements.txt": b""})
    fake.processing = ["READY", "BLOBS_RECEIVED", "READY"]
    api.dataset_create_version(str(library), "commit abc", quiet=True)
    states = [json.loads(api.dataset_status(f"{OWNER}/mammo-kit", format="json")).values() for _ in range(3)]
    assert [tuple(s) for s in states] == [("ready", 1), ("blobs_received", 1), ("ready", 2)]


def test_an_upload_that_breaks_off_goes_on_where_it_stopped(fake, api, library):
    fake.add_dataset("mammo-kit", {})
    fake.fail("upload", 503, after=1000, only=".whl")
    fake.fail("upload", "reset", after=4000, only=".whl")
    fake.fail("upload", "lost", only="requirements")
    api.dataset_create_version(str(library), "commit abc", quiet=True)
    whole = (library / "mammo_kit-0.1.0-py3-none-any.whl").read_bytes()
    assert fake.datasets[f"{OWNER}/mammo-kit"].pending["mammo_kit-0.1.0-py3-none-any.whl"] == whole
    ranges = [b["range"] for b in fake.sent("upload") if ".whl" in b["name"]]
    assert ranges[:2] == ["", "bytes 1000-102399/102400"] and len(ranges) == 3


def test_trap_uploads_of_a_broken_try_are_taken_up_and_those_that_expired_are_left_out(fake, api, library):
    fake.add_dataset("mammo-kit", {"requirements.txt": b""})
    fake.fail("CreateDatasetVersion", 500, times=2)
    for _ in range(2):
        with pytest.raises(requests.HTTPError): api.dataset_create_version(str(library), "commit abc", quiet=True)
    assert len(fake.sent("StartBlobUpload")) == len(fake.sent("upload")) == len(fake.sent("upload status")) == 2
    fake.forget_upload("mammo_kit-0.1.0-py3-none-any.whl")
    assert api.dataset_create_version(str(library), "commit abc", quiet=True).status == "Ok"
    assert list(fake.datasets[f"{OWNER}/mammo-kit"].pending) == ["requirements.txt"]


# Kernels.

def test_a_kernel_is_pushed_followed_and_fetched(fake, kaggle, api, stage, tmp_path):
    fake.add_dataset("mammo-kit", {"requirements.txt": b""})
    fake.add_kernel("mammo-kit-preprocess")
    fake.add_kernel("mammo-kit-preprocess", states=["RUNNING"])
    fake.will("mammo-kit-train-f0", log=[f"epoch {i}" for i in range(5)], outputs=DONE)
    folder = stage(dataset_sources=[f"{OWNER}/mammo-kit"], kernel_sources=[f"{OWNER}/mammo-kit-preprocess"],
                   competition_sources=[COMPETITION], machine_shape="NvidiaTeslaT4", enable_gpu=True)
    pushed = kaggle("kernels", "push", "-p", folder)
    assert pushed.returncode == 0 and "Kernel version 1 successfully pushed" in pushed.stdout
    assert "not valid" not in pushed.stdout
    sent, = fake.sent("SaveKernel")
    assert sent["isPrivate"] and not sent["enableInternet"] and sent["machineShape"] == "NvidiaTeslaT4"
    assert json.loads(sent["text"])["cells"][0]["source"] == "import mammo_kit\n1"
    ref = f"{OWNER}/mammo-kit-train-f0"
    assert fake.kernels[ref][0].attached == {f"{OWNER}/mammo-kit-preprocess": 1}, "the last version that is COMPLETE"
    assert 'has status "KernelWorkerStatus.QUEUED"' in kaggle("kernels", "status", ref).stdout
    assert api.kernels_status(ref).status.name == "RUNNING"
    assert api.kernels_output(ref, str(tmp_path / "early")) == ([], ""), "nothing is there before the end"
    followed = kaggle("kernels", "logs", "-f", ref)
    assert followed.stdout.splitlines() == [f"epoch {i}" for i in range(5)]
    assert api.kernels_status(ref).status.name == "COMPLETE"
    assert [e["data"] for e in api.kernels_logs_stream(ref)] == [f"epoch {i}\n" for i in range(5)]
    assert "epoch 4" in kaggle("kernels", "logs", ref).stdout
    assert kaggle("kernels", "output", ref, "-p", tmp_path / "out").returncode == 0
    assert {n: (tmp_path / "out" / n).read_bytes() for n in DONE} == DONE
    assert json.loads((tmp_path / "out/mammo-kit-train-f0.log").read_text())[4]["data"] == "epoch 4\n"
    assert {f.name: f.size for f in api.kernels_list_files(ref).files} == {n: len(c) for n, c in DONE.items()}
    api.kernels_pull(ref, str(tmp_path / "pulled"), metadata=True)
    assert json.loads((tmp_path / "pulled/kernel-metadata.json").read_text())["machine_shape"] == "NvidiaTeslaT4"


def test_many_outputs_come_in_pages_and_a_pattern_picks_some(fake, api, tmp_path):
    fake.add_kernel("mammo-kit-preprocess", {f"images/{i:02}.tar": bytes([i]) for i in range(45)})
    files, token = api.kernels_output(f"{OWNER}/mammo-kit-preprocess", str(tmp_path / "all"))
    assert len([f for f in files if f.endswith(".tar")]) == 45 and not token
    assert (tmp_path / "all/images/44.tar").read_bytes() == b"\x2c"
    assert len(fake.sent("ListKernelSessionOutput")) == 3
    api.kernels_output(f"{OWNER}/mammo-kit-preprocess", str(tmp_path / "some"), file_pattern="7[.]tar$")
    assert len(list((tmp_path / "some/images").iterdir())) == 4


def test_a_kernel_that_fails_says_why_and_keeps_its_log(fake, kaggle, api, stage):
    fake.will("mammo-kit-train-f0", ["QUEUED", "ERROR"], failure="CUDA out of memory", log=["Traceback"])
    fake.will("mammo-kit-train-f0", ["CANCEL_ACKNOWLEDGED"])
    ref = f"{OWNER}/mammo-kit-train-f0"
    assert api.kernels_push(str(stage())).version_number == 1
    assert [api.kernels_status(ref).status.name for _ in range(3)] == ["QUEUED", "ERROR", "ERROR"]
    told = kaggle("kernels", "status", ref)
    assert told.returncode == 0 and 'Failure message: "CUDA out of memory"' in told.stdout
    assert "Traceback" in api.kernels_logs(ref)
    assert api.kernels_push(str(stage())).version_number == 2, "the second script is for the second version"
    assert api.kernels_status(ref).status.name == "CANCEL_ACKNOWLEDGED"


def test_trap_a_push_that_is_refused_says_0(fake, kaggle, api, stage):
    gpu = {"enable_gpu": True}
    for fold in range(2): api.kernels_push(str(stage(f"mammo-kit-train-f{fold}", **gpu)))
    pushed = kaggle("kernels", "push", "-p", stage("mammo-kit-train-f2", **gpu))
    assert pushed.returncode == 0
    assert "Kernel push error: Maximum batch GPU session count of 2 reached" in pushed.stdout
    assert "mammo-kit-train-f2" not in str(fake.kernels)
    fake.kernels[f"{OWNER}/mammo-kit-train-f0"][0].finish()
    assert api.kernels_push(str(stage("mammo-kit-train-f2", **gpu))).version_number == 1
    fake.fail("SaveKernel", {"error": "Something went wrong"})
    pushed = kaggle("kernels", "push", "-p", stage("mammo-kit-infer"))
    assert pushed.returncode == 0 and "Kernel push error: Something went wrong" in pushed.stdout


def test_trap_a_push_runs_without_the_sources_that_are_invalid_and_says_0(fake, kaggle, api, stage):
    fake.add_kernel("mammo-kit-preprocess", states=["RUNNING"])
    folder = stage(dataset_sources=[f"{OWNER}/mammo-kit"], competition_sources=["never-entered"],
                   kernel_sources=[f"{OWNER}/mammo-kit-preprocess", f"{OWNER}/mammo-kit-none"],
                   model_sources=["google/gemma/pyTorch/2b/1"])
    pushed = kaggle("kernels", "push", "-p", folder)
    assert pushed.returncode == 0 and "Kernel version 1 successfully pushed" in pushed.stdout
    assert pushed.stdout.count("are not valid") == 3, "of invalid models not even the command speaks"
    answer = api.kernels_push(str(folder))
    assert answer.invalid_dataset_sources == [f"{OWNER}/mammo-kit"]
    assert answer.invalid_competition_sources == ["never-entered"]
    assert answer.invalid_kernel_sources == [f"{OWNER}/mammo-kit-preprocess", f"{OWNER}/mammo-kit-none"]
    assert answer.invalid_model_sources == ["google/gemma/pyTorch/2b/1"] and not answer.error


def test_trap_a_title_of_another_slug(fake, kaggle, stage):
    pushed = kaggle("kernels", "push", "-p", stage(title="Mammography, fold 0"))
    assert pushed.returncode == 0 and "Kernel push error: Notebook not found" in pushed.stdout


def test_trap_a_notebook_that_names_no_kernel_is_pushed_and_fails(fake, api, stage):
    folder = stage()
    (folder / "train.ipynb").write_text(json.dumps({**NOTEBOOK, "metadata": {}}))
    assert api.kernels_push(str(folder)).version_number == 1
    answers = [api.kernels_status(f"{OWNER}/mammo-kit-train-f0") for _ in range(3)]
    assert answers[-1].status.name == "ERROR" and "No kernel name" in answers[-1].failure_message


def test_trap_a_session_may_go_on_after_its_log_has_ended(fake, kaggle, api):
    fake.add_kernel("mammo-kit-train-f0", states=["RUNNING"], log=["epoch 0"])
    assert kaggle("kernels", "logs", "-f", f"{OWNER}/mammo-kit-train-f0").stdout == "epoch 0\n"
    assert api.kernels_status(f"{OWNER}/mammo-kit-train-f0").status.name == "RUNNING"


def test_a_log_that_breaks_off_starts_again_at_the_first_line(fake, kaggle, api):
    run = fake.add_kernel("mammo-kit-train-f0", states=["RUNNING", "COMPLETE"], log=list("abcde"))
    fake.fail("logs", "reset", after=2)
    ref = f"{OWNER}/mammo-kit-train-f0"
    seen = []
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        for event in api.kernels_logs_stream(ref): seen.append(event["data"])
    assert seen == ["a\n", "b\n"]
    fake.fail("logs", "reset", after=3)
    assert kaggle("kernels", "logs", "-f", ref).stdout.split() == list("abcde")
    assert len(fake.sent("logs")) == 3 and run.ended


def test_trap_a_log_that_ends_early_in_good_order_looks_finished(fake, api):
    run = fake.add_kernel("mammo-kit-train-f0", states=["RUNNING", "COMPLETE"], log=list("abcde"))
    fake.fail("logs", "truncate", after=2)
    assert [e["data"] for e in api.kernels_logs_stream(f"{OWNER}/mammo-kit-train-f0")] == ["a\n", "b\n"]
    assert not run.ended


def test_trap_the_page_of_an_error_is_written_as_an_output(fake, kaggle, tmp_path):
    fake.add_kernel("mammo-kit-train-f0", DONE)
    fake.fail("download", 503, only="submission")
    got = kaggle("kernels", "output", f"{OWNER}/mammo-kit-train-f0", "-p", tmp_path)
    assert got.returncode == 0
    assert (tmp_path / "submission.csv").read_text().startswith("<html>")
    assert (tmp_path / "model/best.safetensors").read_bytes() == DONE["model/best.safetensors"]


def test_trap_east_of_greenwich_an_output_of_the_version_before_is_kept(fake, kaggle, tmp_path):
    pull = ("kernels", "output", f"{OWNER}/mammo-kit-infer", "-p", tmp_path / "out")
    fake.add_kernel("mammo-kit-infer", {"submission.csv": b"first"})
    kaggle(*pull)
    fake.add_kernel("mammo-kit-infer", {"submission.csv": b"again"}, time=time.time() + 60)
    kept = kaggle(*pull, TZ="Asia/Tokyo")
    assert kept.returncode == 0 and (tmp_path / "out/submission.csv").read_bytes() == b"first"
    kaggle(*pull, "--force", TZ="Asia/Tokyo")
    assert (tmp_path / "out/submission.csv").read_bytes() == b"again"


def test_a_download_that_breaks_off_is_an_error_and_goes_on_from_where_it_was(fake, api, tmp_path, monkeypatch):
    fake.add_kernel("mammo-kit-train-f0", DONE)
    fake.fail("download", "truncate", only="safetensors")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        api.kernels_output(f"{OWNER}/mammo-kit-train-f0", str(tmp_path))
    url = fake.link("best.safetensors", DONE["model/best.safetensors"], 0)
    part = requests.get(url, headers={"Range": "bytes=2000-"})
    assert (part.status_code, part.content) == (206, DONE["model/best.safetensors"][2000:])
    assert part.headers["Content-Range"] == "bytes 2000-2047/2048"
    assert requests.get(url, headers={"Range": "bytes=2048-"}).status_code == 416
    assert requests.get(url, headers={"Range": "bytes=2000-", "If-Range": '"of another file"'}).status_code == 200


def test_one_output_is_downloaded_by_name(fake, api):
    from kagglesdk.kernels.types.kernels_api_service import ApiDownloadKernelOutputRequest
    fake.add_kernel("mammo-kit-infer", DONE)
    request = ApiDownloadKernelOutputRequest()
    request.owner_slug, request.kernel_slug, request.file_path = OWNER, "mammo-kit-infer", "submission.csv"
    with api.build_kaggle_client() as client:
        assert client.kernels.kernels_api_client.download_kernel_output(request).content == DONE["submission.csv"]


def test_quota(fake, kaggle, api):
    fake.used_hours = 27.25
    assert api.quota_view().gpu_quota.time_used.total_seconds() == 27.25 * 3600
    shown = kaggle("quota").stdout
    assert "2.75h" in shown and "30.00h" in shown


# Competitions.

def test_a_version_is_submitted_and_scored(fake, kaggle, api):
    fake.add_kernel("mammo-kit-infer", DONE)
    fake.will_score(["PENDING", "PENDING", "COMPLETE"], public="0.61", private="0.58")
    fake.will_score(["ERROR"], error="Submission Scoring Error")
    done = kaggle("competitions", "submit", COMPETITION, "-k", f"{OWNER}/mammo-kit-infer", "-v", "1",
                  "-f", "submission.csv", "-m", "commit abc")
    assert done.returncode == 0 and "Successfully submitted" in done.stdout and "4 submissions remaining" in done.stdout
    assert fake.sent("CreateCodeSubmission") == [
        {"competitionName": COMPETITION, "kernelOwner": OWNER, "kernelSlug": "mammo-kit-infer", "kernelVersion": 1,
         "fileName": "submission.csv", "submissionDescription": "commit abc"}]
    assert [api.competition_submissions(COMPETITION)[0].status.name for _ in range(2)] == ["PENDING", "PENDING"]
    shown = kaggle("competitions", "submissions", COMPETITION).stdout
    assert "0.61" in shown and "0.58" in shown and "commit abc" in shown
    answer = api.competition_submit_code("submission.csv", "again", COMPETITION, f"{OWNER}/mammo-kit-infer", 1)
    with api.build_kaggle_client() as client:
        from kagglesdk.competitions.types import competition_api_service as types
        request = types.ApiGetSubmissionRequest()
        request.ref = answer.ref
        told = client.competitions.competition_api_client.get_submission(request)
        request = types.ApiGetCompetitionRequest()
        request.competition_name = COMPETITION
        assert client.competitions.competition_api_client.get_competition(request).is_kernels_submissions_only
    assert told.status.name == "ERROR" and told.error_description == "Submission Scoring Error"
    assert api.competition_get_submission_limits(COMPETITION).num_allowed_now == 3


@pytest.mark.parametrize(("states", "outputs", "kernel", "status"), [
    (["RUNNING"], DONE, "mammo-kit-infer", 400),
    (["COMPLETE"], {}, "mammo-kit-infer", 400),
    (["COMPLETE"], DONE, "mammo-kit-other", 403),
])
def test_what_cannot_be_submitted(fake, api, states, outputs, kernel, status):
    fake.add_kernel("mammo-kit-infer", outputs, states)
    with pytest.raises(requests.HTTPError) as error:
        api.competition_submit_code("submission.csv", "", COMPETITION, f"{OWNER}/{kernel}", 1)
    assert error.value.response.status_code == status and not fake.submissions


def test_no_more_submissions_than_a_day_has(fake, api):
    fake.add_kernel("mammo-kit-infer", DONE)
    fake.daily_submissions = 1
    api.competition_submit_code("submission.csv", "", COMPETITION, f"{OWNER}/mammo-kit-infer", 1)
    with pytest.raises(requests.HTTPError, match="no submissions are left"):
        api.competition_submit_code("submission.csv", "", COMPETITION, f"{OWNER}/mammo-kit-infer", 1)


# Who may ask, what is not there, and what breaks.

def test_unknown_credentials_and_tokens(fake, kaggle):
    wrong = kaggle("kernels", "status", f"{OWNER}/mammo-kit-infer", KAGGLE_KEY="wrong")
    assert wrong.returncode == 1 and not fake.kernels
    token = kaggle("quota", KAGGLE_API_TOKEN=KEY, KAGGLE_KEY="wrong")
    assert token.returncode == 0 and "GPU" in token.stdout
    assert [name for name, _ in fake.requests] == [
        "GetKernelSessionStatus", "IntrospectToken", "GetAcceleratorQuotaStatistics"]


def test_what_does_not_exist(fake, api):
    for ask in (api.kernels_status, api.kernels_logs, lambda ref: list(api.kernels_logs_stream(ref))):
        with pytest.raises(ValueError, match="wrong kernel slug"): ask(f"{OWNER}/mammo-kit-none")
    with pytest.raises(requests.HTTPError, match="datasets.get"): api.dataset_status(f"{OWNER}/mammo-kit-none")
    fake.unknown = 404
    with pytest.raises(requests.HTTPError) as error: api.kernels_status(f"{OWNER}/mammo-kit-none")
    assert error.value.response.status_code == 404
    with pytest.raises(requests.HTTPError, match="Competition not found"): api.competition_submissions("never-entered")
    with pytest.raises(requests.HTTPError, match="ListKernels is not"): api.kernels_list()
    assert fake.sent("ListKernels")


def test_a_body_without_what_it_needs(fake, api):
    from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelRequest
    with api.build_kaggle_client() as client, pytest.raises(requests.HTTPError, match="needs slug, newTitle, text"):
        client.kernels.kernels_api_client.save_kernel(ApiSaveKernelRequest())


@pytest.mark.parametrize("how", [500, 503, 429, "reset"])
def test_faults_pass_after_as_many_times_as_asked(fake, api, how):
    fake.add_dataset("mammo-kit", {})
    fake.fail("GetDatasetStatus", how, times=2)
    for _ in range(2):
        with pytest.raises((requests.HTTPError, requests.ConnectionError)): api.dataset_status(f"{OWNER}/mammo-kit")
    assert api.dataset_status(f"{OWNER}/mammo-kit") == "ready"


def test_the_client_waits_as_long_as_a_429_says(fake, api, library):
    fake.add_dataset("mammo-kit", {})
    fake.fail("CreateDatasetVersion", 429, times=3, retry_after=.05)
    assert api.dataset_create_version(str(library), "commit abc", quiet=True).status == "Ok"
    assert len(fake.sent("CreateDatasetVersion")) == 4


def test_trap_an_answer_that_is_lost_leaves_the_version_behind(fake, kaggle, api, stage):
    fake.fail("SaveKernel", "lost")
    with pytest.raises(requests.ConnectionError): api.kernels_push(str(stage()))
    assert len(fake.kernels[f"{OWNER}/mammo-kit-train-f0"]) == 1
    assert api.kernels_push(str(stage())).version_number == 2


def test_nothing_else_is_reached(fake, tmp_path, monkeypatch):
    fake.use(monkeypatch, tmp_path)
    with pytest.raises(requests.exceptions.ProxyError): requests.get("https://www.kaggle.com", timeout=10)
    assert requests.get("http://www.kaggle.com/api/v1/hello", timeout=10).status_code == 403
    assert [body["url"] for body in fake.sent("elsewhere")] == [
        "CONNECT www.kaggle.com:443", "GET http://www.kaggle.com/api/v1/hello"]
