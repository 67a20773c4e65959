"""A stand-in for the part of Kaggle that this project talks to: real HTTP on the loopback address, state in memory.

The real client, told to use a local server, sends `http://localhost/...` through HTTP_PROXY, so that its requests
arrive here with the whole address in the request line. Nothing is passed on: what is meant for another host is refused.

    with running() as fake:
        fake.will("mammo-kit-train-f0", ["QUEUED", "RUNNING", "ERROR"], failure="CUDA out of memory", log=["epoch 1"])
        fake.fail("SaveKernel", 503, times=2)
        subprocess.run(["kaggle", "kernels", "push", "-p", folder], env=fake.environment(home))
        assert fake.sent("SaveKernel")[0]["isPrivate"] is True
"""
import base64
import hashlib
import io
import json
import os
import re
import secrets
import socket
import struct
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

OWNER, KEY, COMPETITION = "radiologist", "0123456789abcdef", "rsna-breast-cancer-detection"
FINAL = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")
SITE = "https://www.kaggle.com"

# What a request must hold, as the client names the service, the method and the fields.
REQUIRED = {
    "datasets.DatasetApiService/GetDatasetStatus": "ownerSlug datasetSlug",
    "datasets.DatasetApiService/GetDataset": "ownerSlug datasetSlug",
    "datasets.DatasetApiService/ListDatasetFiles": "ownerSlug datasetSlug",
    "datasets.DatasetApiService/DownloadDataset": "ownerSlug datasetSlug fileName",
    "datasets.DatasetApiService/CreateDataset": "ownerSlug slug title licenseName files",
    "datasets.DatasetApiService/CreateDatasetVersion": "ownerSlug datasetSlug body",
    "blobs.BlobApiService/StartBlobUpload": "type name lastModifiedEpochSeconds",
    "kernels.KernelsApiService/SaveKernel": "slug newTitle text language kernelType",
    "kernels.KernelsApiService/GetKernel": "userName kernelSlug",
    "kernels.KernelsApiService/GetKernelSessionStatus": "userName kernelSlug",
    "kernels.KernelsApiService/ListKernelSessionOutput": "userName kernelSlug",
    "kernels.KernelsApiService/ListKernelFiles": "userName kernelSlug",
    "kernels.KernelsApiService/DownloadKernelOutput": "ownerSlug kernelSlug filePath",
    "kernels.KernelsApiService/GetAcceleratorQuotaStatistics": "",
    "competitions.CompetitionApiService/GetCompetition": "competitionName",
    "competitions.CompetitionApiService/CreateCodeSubmission": "competitionName kernelOwner kernelSlug kernelVersion",
    "competitions.CompetitionApiService/ListSubmissions": "competitionName",
    "competitions.CompetitionApiService/GetSubmission": "ref",
    "competitions.CompetitionApiService/GetSubmissionLimits": "competitionName",
    "security.OAuthService/IntrospectToken": "token",
}


class Refusal(Exception):
    "An answer that is not 200."
    def __init__(self, status: int, message: str): self.status, self.message = status, message


@dataclass
class Script:
    "States that are told one a question; the last one stays."
    states: Sequence  # in order
    position: int = -1  # of the state that was told last

    @property
    def state(self): return self.states[max(self.position, 0)]

    def ask(self):
        self.position = min(self.position + 1, len(self.states) - 1)
        return self.state

    def finish(self) -> None:
        while self.position < len(self.states) - 1: self.ask()


@dataclass
class Run(Script):
    "One version of a kernel, and how its session goes."
    failure: str = ""  # told beside ERROR
    log: Sequence[str] = ()  # lines
    outputs: dict[str, bytes] = field(default_factory=dict)  # path below /kaggle/working -> content; there at the end
    pause: float = 0  # seconds before each line of the log while it is followed
    number: int = 0  # of the version, from 1
    body: dict = field(default_factory=dict)  # of SaveKernel
    attached: dict[str, int] = field(default_factory=dict)  # kernel source -> its last COMPLETE version at the push
    time: float = field(default_factory=time.time)  # of the push

    @property
    def on_gpu(self) -> bool: return bool(self.body.get("enableGpu") or "Nvidia" in self.body.get("machineShape", ""))

    @property
    def ended(self) -> bool: return self.state in FINAL

    @property
    def events(self) -> list[dict]:
        return [{"stream_name": "stdout", "time": i / 10, "data": line + "\n"} for i, line in enumerate(self.log)]


@dataclass
class Dataset(Script):
    "Its states are statuses, or 403 while it cannot be seen yet; READY before the last is still the old version's."
    title: str = ""
    private: bool = True
    versions: list[dict[str, bytes]] = field(default_factory=list)  # that are ready: file -> content
    pending: dict[str, bytes] | None = None  # the version that is being processed

    def ask(self):
        super().ask()
        if self.position == len(self.states) - 1 and self.pending is not None and self.state in ("READY", "FAILED"):
            if self.state == "READY": self.versions.append(self.pending)
            self.pending = None
        return self.state


@dataclass
class Submission(Script):
    public: str = "0.42"
    private: str = ""
    error: str = ""  # told beside ERROR
    ref: int = 0
    body: dict = field(default_factory=dict)  # of CreateCodeSubmission


@dataclass
class Fault:
    name: str
    how: int | str | dict
    times: float
    after: int
    only: str
    retry_after: float | None


def unpacked(name: str, content: bytes) -> dict[str, bytes]:
    "The files that an uploaded file becomes: archives are unpacked into a folder of their name, wheels are not."
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as z:
            return {f"{name[:-4]}/{m}": z.read(m) for m in z.namelist() if not m.endswith("/")}
    if found := re.search(r"\.(tar|tgz|tar\.gz)$", name):
        with tarfile.open(fileobj=io.BytesIO(content)) as t:
            return {f"{name[:found.start()]}/{m.name}": t.extractfile(m).read() for m in t if m.isfile()}
    return {name: content}


def page(items: Sequence, body: dict) -> tuple[Sequence, dict]:
    "The items that are asked for, and the token of the next page if there is one."
    start, size = int(body.get("pageToken") or 0), body.get("pageSize") or 20
    return items[start:start + size], {"nextPageToken": str(start + size)} if start + size < len(items) else {}


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class FakeKaggle:
    """The state of the server. Attributes may be changed at any time; every method takes a slug or `owner/slug`.

    `requests` lists what came, in order: (method of the API, body); besides those "upload" {name, bytes, range},
    "upload status", "download" {name, range}, "logs" {kernel}, and "elsewhere" {url} for any other address."""

    def __init__(self, owner: str = OWNER, key: str = KEY, competitions: Sequence[str] = (COMPETITION,)):
        self.owner, self.key, self.competitions = owner, key, list(competitions)
        self.requests: list[tuple[str, dict]] = []
        self.datasets: dict[str, Dataset] = {}
        self.kernels: dict[str, list[Run]] = {}
        self.submissions: list[Submission] = []
        self.unknown = 403  # status for a dataset or kernel that does not exist; Kaggle has used 404, too
        self.hidden = 1  # questions about a new dataset's status that are answered 403
        self.processing = ["NOT_YET_PERSISTED", "BLOBS_RECEIVED", "READY"]  # statuses of a new version, one a question
        self.sessions = {"GPU": 2, "CPU": 5}  # that may run at the same time
        self.quota_hours, self.used_hours = 30., 4.5  # of GPU time, a week
        self.daily_submissions = 5
        self._runs: dict[str, list[dict]] = {}
        self._scores: list[dict] = []
        self._faults: list[Fault] = []
        self._uploads: dict[str, dict] = {}
        self._downloads: dict[str, tuple[str, bytes, float]] = {}
        self._lock = threading.RLock()
        self.port = 0

    # What a test says.

    def ref(self, slug: str) -> str: return slug if "/" in slug else f"{self.owner}/{slug}"

    def will(self, kernel: str, states: Sequence[str] = ("QUEUED", "RUNNING", "COMPLETE"), **run) -> None:
        """The kernel's next version runs thus: one state a question, with `failure`, `log`, `outputs` and `pause` of
        `Run`. Calls queue up, one a version; the last one holds for all later versions."""
        self._runs.setdefault(self.ref(kernel), []).append({"states": list(states), **run})

    def will_score(self, states: Sequence[str] = ("PENDING", "COMPLETE"), **submission) -> None:
        "The next submission goes thus, with `public`, `private` and `error` of `Submission`; as with `will`."
        self._scores.append({"states": list(states), **submission})

    def fail(self, name: str, how: int | str | dict, times: float = 1, after: int = 0, only: str = "",
             retry_after: float | None = .1) -> None:
        """The next `times` requests of this name (as `requests` names them) whose body contains the text `only` fail.
        `how`: a status; a dict, answered with 200; "reset": the connection breaks before anything is done, or `after`
        so many lines of a log or bytes of an upload; "lost": it breaks when all is done, so that only the answer is
        missing; "truncate": a log ends in good order `after` so many lines, a download breaks `after` so many bytes.
        An upload with a status keeps the first `after` bytes; 429 comes with Retry-After."""
        self._faults.append(Fault(name, how, times, after, only, retry_after))

    def add_dataset(self, dataset: str, files: dict[str, bytes], title: str = "") -> None:
        "A dataset that is ready."
        self.datasets[self.ref(dataset)] = Dataset(["READY"], title=title or dataset, versions=[dict(files)])

    def add_kernel(self, kernel: str, outputs: dict[str, bytes] | None = None, states: Sequence[str] = ("COMPLETE",),
                   **run) -> Run:
        "One more version of a kernel, without a push."
        runs = self.kernels.setdefault(self.ref(kernel), [])
        runs.append(Run(list(states), outputs=outputs or {}, number=len(runs) + 1, **run))
        return runs[-1]

    def forget_upload(self, name: str) -> None:
        "The uploads of files of this name expire."
        self._uploads = {token: u for token, u in self._uploads.items() if u["name"] != name}

    def sent(self, name: str) -> list[dict]:
        "The bodies of all requests of this name, in order."
        return [body for n, body in self.requests if n == name]

    def environment(self, home: Path) -> dict[str, str]:
        "All that a subprocess needs to reach this server, and nothing else that calls itself Kaggle."
        home = Path(home)
        for folder in ("tmp", ".kaggle"): (home / folder).mkdir(parents=True, exist_ok=True)
        proxy = f"http://127.0.0.1:{self.port}"
        foreign = re.compile(r"kaggle_|xdg_|.*_proxy$", re.I)
        names = [f(n) for n in ("http_proxy", "https_proxy", "all_proxy") for f in (str.lower, str.upper)]
        return {k: v for k, v in os.environ.items() if not foreign.match(k)} | dict.fromkeys(names, proxy) | {
            "NO_PROXY": "", "no_proxy": "", "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "KAGGLE_API_TOKEN": "",
            "KAGGLE_USERNAME": self.owner, "KAGGLE_KEY": self.key, "KAGGLE_CONFIG_DIR": str(home / ".kaggle"),
            "HOME": str(home), "TMPDIR": str(home / "tmp")}

    def use(self, monkeypatch, home: Path):
        "The same for this process: the client's class, which looks at the environment only when it is first imported."
        environment = self.environment(home)
        for name in os.environ.keys() - environment.keys(): monkeypatch.delenv(name)
        for name, value in environment.items() - os.environ.items(): monkeypatch.setenv(name, value)
        monkeypatch.setattr(tempfile, "tempdir", environment["TMPDIR"])
        from kaggle.api.kaggle_api_extended import KaggleApi
        folder = environment["KAGGLE_CONFIG_DIR"]
        for name, value in {"args": ["--local"], "config_dir": folder, "config": f"{folder}/kaggle.json"}.items():
            monkeypatch.setattr(KaggleApi, name, value)
        return KaggleApi

    # What the server does. Each method of the API has a method of its name here, which answers a body with a dict.

    def fault(self, name: str, body: dict) -> Fault | None:
        with self._lock:
            for f in self._faults:
                if f.name == name and f.times > 0 and f.only in json.dumps(body):
                    f.times -= 1
                    return f

    def answer(self, path: str, body: dict) -> dict:
        missing = [name for name in REQUIRED[path].split() if body.get(name) in (None, "", [], {})]
        if missing: raise Refusal(400, f"{path.split('/')[1]} needs {', '.join(missing)}")
        with self._lock: return getattr(self, path.split("/")[1])(body)

    def link(self, name: str, content: bytes, when: float) -> str:
        "An address for a file, as Kaggle's store would hand out."
        token = secrets.token_hex(8)
        self._downloads[token] = name, content, when
        return f"http://localhost/download/{token}/{quote(name)}"

    def _dataset(self, body: dict, right: str = "datasets.get") -> Dataset:
        found = self.datasets.get(f"{body['ownerSlug']}/{body['datasetSlug']}")
        if found is None: raise Refusal(self.unknown, f"Permission '{right}' was denied")
        if found.state == 403: raise Refusal(403, f"Permission '{right}' was denied")
        return found

    def GetDatasetStatus(self, body: dict) -> dict:
        found = self.datasets.get(f"{body['ownerSlug']}/{body['datasetSlug']}")
        if found is None or found.ask() == 403: self._dataset(body)
        return {"status": found.state}

    def GetDataset(self, body: dict) -> dict:
        found, ref = self._dataset(body), f"{body['ownerSlug']}/{body['datasetSlug']}"
        return {"ref": ref, "url": f"{SITE}/datasets/{ref}", "title": found.title, "isPrivate": found.private,
                "currentVersionNumber": max(len(found.versions), 1)}

    def _files(self, body: dict) -> dict[str, bytes]:
        found = self._dataset(body)
        number = body.get("datasetVersionNumber") or len(found.versions)
        if not 0 < number <= len(found.versions): raise Refusal(404, "Not found")
        files = found.versions[number - 1].items()
        return {path: part for name, content in files for path, part in unpacked(name, content).items()}

    def ListDatasetFiles(self, body: dict) -> dict:
        files, more = page(sorted(self._files(body).items()), body)
        return {"datasetFiles": [{"ref": k, "name": k, "totalBytes": len(v), "creationDate": moment(time.time())}
                                 for k, v in files], **more}

    def DownloadDataset(self, body: dict) -> dict:
        files = self._files(body)
        if body["fileName"] not in files: raise Refusal(404, "Not found")
        return {"redirect": self.link(body["fileName"], files[body["fileName"]], time.time())}

    def StartBlobUpload(self, body: dict) -> dict:
        token = secrets.token_hex(8)
        self._uploads[token] = {"name": body["name"], "size": body.get("contentLength", 0), "content": b""}
        return {"token": token, "createUrl": f"http://localhost/upload/{token}"}

    def _uploaded(self, files: list[dict]) -> dict[str, bytes]:
        blobs = [self._uploads.get(f.get("token"), {}) for f in files]
        return {b["name"]: b["content"] for b in blobs} if all(b.get("done") for b in blobs) else {}

    def _created(self, ref: str, error: str = "") -> dict:
        if error: return {"status": "error", "error": error}
        return {"status": "Ok", "ref": ref, "url": f"{SITE}/datasets/{ref}"}

    def CreateDataset(self, body: dict) -> dict:
        ref, title, files = f"{body['ownerSlug']}/{body['slug']}", body["title"], self._uploaded(body["files"])
        if body["ownerSlug"] != self.owner: return self._created(ref, "You may not create a dataset as this owner")
        if ref in self.datasets or any(d.title == title for d in self.datasets.values()):
            return self._created(ref, f"There is a dataset of the title {title} already")
        if not re.fullmatch(r"[a-z0-9-]{6,50}", body["slug"]) or not 6 <= len(title) <= 50:
            raise Refusal(400, "Bad Request")
        if not files: return self._created(ref, "Files that were not uploaded to the end")
        self.datasets[ref] = Dataset([403] * self.hidden + self.processing, title=title, pending=files,
                                     private=body.get("isPrivate", False))
        return self._created(ref)

    def CreateDatasetVersion(self, body: dict) -> dict:
        found, ref = self._dataset(body, "datasets.update"), f"{body['ownerSlug']}/{body['datasetSlug']}"
        if found.pending is not None or body["ownerSlug"] != self.owner:
            raise Refusal(403, "Permission 'datasets.update' was denied")
        files = self._uploaded(body["body"].get("files", []))
        if not files: return self._created(ref, "Files that were not uploaded to the end")
        if body["body"].get("deleteOldVersions"): found.versions.clear()
        found.states, found.position, found.pending = list(self.processing), -1, files
        return self._created(ref)

    def _run(self, body: dict) -> tuple[str, Run]:
        owner = body.get("userName") or body.get("ownerSlug")
        slug, _, version = body["kernelSlug"].partition("/")
        number = int(version or body.get("versionLabel") or body.get("versionNumber") or 0)
        runs = self.kernels.get(f"{owner}/{slug}", [])
        if not runs or number > len(runs): raise Refusal(self.unknown, "Permission 'kernels.get' was denied")
        return f"{owner}/{slug}", runs[number - 1]

    def _last_complete(self, ref: str) -> int:
        return max((r.number for r in self.kernels.get(ref, []) if r.state == "COMPLETE"), default=0)

    def SaveKernel(self, body: dict) -> dict:
        ref, spec = body["slug"], "python3"
        if ref.split("/")[0] != self.owner: raise Refusal(403, "Permission 'kernels.update' was denied")
        if body["kernelType"] == "notebook":
            notebook = json.loads(body["text"])
            if any(not isinstance(c["source"], str) for c in notebook["cells"]): raise Refusal(500, "Internal error")
            spec = notebook.get("metadata", {}).get("kernelspec", {}).get("name")
        title_slug = re.sub("[^a-z0-9]+", "-", body["newTitle"].lower()).strip("-")
        if ref not in self.kernels and title_slug != ref.split("/")[1]: return {"error": "Notebook not found"}
        scripts = self._runs.get(ref) or [{"states": ["QUEUED", "RUNNING", "COMPLETE"]}]
        run = Run(**scripts[0], body=body, number=len(self.kernels.get(ref, [])) + 1)
        kind = "GPU" if run.on_gpu else "CPU"
        busy = sum(r.on_gpu == run.on_gpu and not r.ended for runs in self.kernels.values() for r in runs)
        if busy >= self.sessions[kind]:
            return {"error": f"Maximum batch {kind} session count of {self.sessions[kind]} reached."}
        if run.on_gpu and self.used_hours >= self.quota_hours: return {"error": "The weekly GPU quota is used up."}
        if len(scripts) > 1: scripts.pop(0)
        if not spec:  # papermill finds no kernel to run the notebook with
            run.states, run.failure = ["QUEUED", "RUNNING", "ERROR"], "ValueError: No kernel name found in notebook"
        sources = [s.removesuffix("/") for s in body.get("kernelDataSources", [])]
        run.attached = {s: self._last_complete("/".join(s.split("/")[:2])) for s in sources}
        datasets = [d for d in body.get("datasetDataSources", [])
                    if not (found := self.datasets.get("/".join(d.split("/")[:2]))) or not found.versions]
        self.kernels.setdefault(ref, []).append(run)
        return {"ref": f"/code/{ref}", "url": f"{SITE}/code/{ref}", "versionNumber": run.number,
                "invalidDatasetSources": datasets,
                "invalidKernelSources": [s for s, number in run.attached.items() if not number],
                "invalidCompetitionSources": [c for c in body.get("competitionDataSources", [])
                                              if c not in self.competitions],
                "invalidModelSources": body.get("modelDataSources", []),
                "invalidTags": [t for t in body.get("categoryIds", []) if "invalid" in t]}

    def GetKernel(self, body: dict) -> dict:
        ref, run = self._run(body)
        pushed, slug = run.body, ref.split("/")[1]
        same = ("language", "kernelType", "isPrivate", "enableGpu", "enableTpu", "enableInternet", "machineShape",
                "datasetDataSources", "kernelDataSources", "competitionDataSources")
        return {"metadata": {"id": 1, "ref": ref, "slug": slug, "author": self.owner, "lastRunTime": moment(run.time),
                             "title": pushed.get("newTitle", slug), "currentVersionNumber": len(self.kernels[ref]),
                             **{k: pushed[k] for k in same if k in pushed}},
                "blob": {"source": pushed.get("text", ""), "language": pushed.get("language", "python"),
                         "kernelType": pushed.get("kernelType", "notebook"), "slug": slug}}

    def GetKernelSessionStatus(self, body: dict) -> dict:
        run = self._run(body)[1]
        return {"status": run.ask(), **({"failureMessage": run.failure} if run.ended and run.failure else {})}

    def ListKernelSessionOutput(self, body: dict) -> dict:
        run = self._run(body)[1]
        if not run.ended: return {"files": [], "log": ""}
        files, more = page(list(run.outputs.items()), body)
        return {"files": [{"fileName": k, "url": self.link(k, v, run.time)} for k, v in files],
                "log": json.dumps(run.events), **more}

    def ListKernelFiles(self, body: dict) -> dict:
        run = self._run(body)[1]
        files, more = page(list(run.outputs.items()) if run.ended else [], body)
        return {"files": [{"name": k, "size": len(v), "creationDate": moment(run.time)} for k, v in files], **more}

    def DownloadKernelOutput(self, body: dict) -> dict:
        run = self._run(body)[1]
        if not run.ended or body["filePath"] not in run.outputs: raise Refusal(404, "Not found")
        return {"redirect": self.link(body["filePath"], run.outputs[body["filePath"]], run.time)}

    def GetAcceleratorQuotaStatistics(self, body: dict) -> dict:
        def seconds(hours): return f"{hours * 3600:.0f}s"
        refresh = datetime.now(UTC) + timedelta(days=3)
        return {"quotaRefreshTime": moment(refresh.timestamp()),
                "gpuQuota": {"timeUsed": seconds(self.used_hours), "timeReserved": "0s",
                             "totalTimeAllowed": seconds(self.quota_hours), "hasEverRun": True},
                "tpuQuota": {"timeUsed": "0s", "timeReserved": "0s", "totalTimeAllowed": seconds(20)}}

    def _competition(self, body: dict) -> str:
        if body["competitionName"] not in self.competitions: raise Refusal(404, "Competition not found")
        return body["competitionName"]

    def GetCompetition(self, body: dict) -> dict:
        name = self._competition(body)
        return {"id": 1, "ref": f"{SITE}/competitions/{name}", "title": name, "userHasEntered": True,
                "isKernelsSubmissionsOnly": True, "maxDailySubmissions": self.daily_submissions}

    def CreateCodeSubmission(self, body: dict) -> dict:
        name = self._competition(body)
        run = self._run({"userName": body["kernelOwner"], **body, "versionNumber": body["kernelVersion"]})[1]
        for wrong, why in ((run.state != "COMPLETE", "the version has not run to its end without an error"),
                           (body.get("fileName") not in run.outputs, "the version has no such output file"),
                           (run.body.get("enableInternet"), "the notebook may use the internet"),
                           (len(self.submissions) >= self.daily_submissions, "no submissions are left for today")):
            if wrong: raise Refusal(400, f"Submission not allowed: {why}")
        scripts = self._scores or [{"states": ["PENDING", "COMPLETE"]}]
        self.submissions.append(Submission(**scripts[0], body=body, ref=1001 + len(self.submissions)))
        if len(scripts) > 1: scripts.pop(0)
        return {"message": f"Successfully submitted to {name}", "ref": self.submissions[-1].ref}

    def _told(self, s: Submission) -> dict:
        done = s.ask() == "COMPLETE"
        return {"ref": s.ref, "status": s.state, "date": moment(time.time()), "fileName": s.body.get("fileName"),
                "description": s.body.get("submissionDescription", ""), "submittedBy": self.owner,
                "publicScore": s.public if done else "", "privateScore": s.private if done else "",
                "errorDescription": s.error if s.state == "ERROR" else ""}

    def ListSubmissions(self, body: dict) -> dict:
        name = self._competition(body)
        found = [s for s in reversed(self.submissions) if s.body["competitionName"] == name]
        body = {"pageToken": (body["page"] - 1) * body.get("pageSize", 20), **body} if body.get("page", 0) > 0 else body
        some, more = page(found, body)
        return {"submissions": [self._told(s) for s in some], **more}

    def GetSubmission(self, body: dict) -> dict:
        found = [s for s in self.submissions if s.ref == body["ref"]]
        if not found: raise Refusal(404, "Submission not found")
        return self._told(found[0])

    def GetSubmissionLimits(self, body: dict) -> dict:
        self._competition(body)
        n = len(self.submissions)
        return {"numToday": n, "numTotal": n, "numAllowedNow": max(self.daily_submissions - n, 0)}

    def IntrospectToken(self, body: dict) -> dict:
        return {"active": True, "username": self.owner, "userId": 1} if body["token"] == self.key else {"active": False}


class Handler(BaseHTTPRequestHandler):
    "HTTP: one request a connection."
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_): pass

    def head(self, status: int, headers: dict) -> None:
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def reply(self, status: int, content: bytes | dict | str = b"", keep: int | None = None, **headers: str) -> None:
        "An answer, of which only the first `keep` bytes are sent."
        kind = {dict: "application/json", str: "text/html", bytes: "application/octet-stream"}[type(content)]
        if isinstance(content, dict): content = json.dumps(content)
        if isinstance(content, str): content = content.encode()
        self.head(status, {"Content-Type": kind, "Content-Length": len(content), **headers})
        self.wfile.write(content[:keep])

    def refuse(self, status: int, message: str, **headers: str) -> None:
        page = f"<html><body><h1>Error {status}</h1>{message}</body></html>"
        self.reply(status, page if status >= 500 else {"code": status, "message": message}, **headers)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def read(self, limit: int | None = None) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(size if limit is None else min(limit, size))

    def serve(self) -> None:
        fake: FakeKaggle = self.server.fake
        url = urlsplit(self.path if "://" in self.path else f"http://{self.headers.get('Host')}{self.path}")
        parts = [unquote(p) for p in url.path.strip("/").split("/")]
        here = self.command != "CONNECT" and url.hostname in ("localhost", "127.0.0.1")
        match (self.command, *parts) if here else ():
            case ("POST", "api", "v1", service, method): self.call(fake, f"{service}/{method}")
            case ("GET", "api", "v1", "kernels", "logs", "stream", owner, slug): self.logs(fake, owner, slug)
            case ("PUT", "upload", token): self.upload(fake, token)
            case ("GET", "download", token, *_): self.download(fake, token)
            case _:
                fake.requests.append(("elsewhere", {"url": f"{self.command} {self.path}"}))
                self.read()
                self.refuse(404 if here else 403, f"{self.command} {self.path} is not here")
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_CONNECT = serve

    def known(self, fake: FakeKaggle) -> bool:
        basic = base64.b64encode(f"{fake.owner}:{fake.key}".encode()).decode()
        return self.headers.get("Authorization") in (f"Basic {basic}", f"Bearer {fake.key}")

    def faulty(self, fault: Fault | None) -> bool:
        "Whether a fault has taken the place of the answer."
        if fault is None or fault.how in ("lost", "truncate"): return False
        if fault.how == "reset": self.reset()
        elif isinstance(fault.how, dict): self.reply(200, fault.how)
        else:
            wait = {"Retry_After": str(fault.retry_after)} if fault.how == 429 and fault.retry_after is not None else {}
            self.refuse(fault.how, "a fault that the test asked for", **wait)
        return True

    def call(self, fake: FakeKaggle, path: str) -> None:
        name = path.split("/")[1]
        try: body = json.loads(self.read() or b"{}")
        except ValueError: return self.refuse(400, "the body is not JSON")
        fake.requests.append((name, body))
        if name != "IntrospectToken" and not self.known(fake): return self.refuse(401, "Unauthenticated")
        if path not in REQUIRED: return self.refuse(404, f"{path} is not a method of this server")
        fault = fake.fault(name, body)
        if self.faulty(fault): return None
        try: answer = fake.answer(path, body)
        except Refusal as e: return self.refuse(e.status, e.message)
        if fault: return self.reset()
        if "redirect" in answer: return self.reply(302, b"", Location=answer["redirect"])
        self.reply(200, answer)

    def upload(self, fake: FakeKaggle, token: str) -> None:
        blob, span = fake._uploads.get(token), self.headers.get("Content-Range", "")
        if blob is None:
            self.read()
            return self.refuse(404, "no such upload")
        start, about = int((re.match(r"bytes (\d+)-", span) or [0, 0])[1]), {"name": blob["name"], "range": span}
        if span.startswith("bytes */"):
            fake.requests.append(("upload status", about))
            self.read()
        else:
            fault = fake.fault("upload", about)
            keep = None if fault is None or fault.how == "lost" else fault.after
            content = self.read(keep if fault and fault.how == "reset" else None)[:keep]
            fake.requests.append(("upload", about | {"bytes": len(content)}))
            if start > len(blob["content"]): return self.refuse(400, "bytes are missing before these")
            blob["content"] = blob["content"][:start] + content
            if self.faulty(fault): return None
            blob["done"] = len(blob["content"]) == blob["size"]
            if fault: return self.reset()
        got = len(blob["content"])
        self.reply(200) if blob.get("done") else self.reply(308, **({"Range": f"bytes=0-{got - 1}"} if got else {}))

    def download(self, fake: FakeKaggle, token: str) -> None:
        name, content, when = fake._downloads.get(token, ("", None, 0))
        span = self.headers.get("Range", "")
        fake.requests.append(("download", {"name": name, "range": span}))
        if content is None: return self.refuse(404, "no such file")
        fault = fake.fault("download", {"name": name})
        if self.faulty(fault): return None
        if fault and fault.how == "lost": return self.reset()
        keep = (fault.after or len(content) // 2) if fault else None
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": tag, "Accept_Ranges": "bytes", "Last_Modified": formatdate(when, usegmt=True)}
        if (found := re.fullmatch(r"bytes=(\d+)-(\d*)", span)) and self.headers.get("If-Range", tag) == tag:
            start, stop = int(found[1]), int(found[2] or len(content) - 1) + 1
            if start >= len(content): return self.reply(416, Content_Range=f"bytes */{len(content)}")
            part = content[start:stop]
            headers["Content_Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
            return self.reply(206, part, keep, **headers)
        self.reply(200, content, keep, **headers)

    def logs(self, fake: FakeKaggle, owner: str, slug: str) -> None:
        "Events while the session runs, from the first one on at each connection; one JSON array when it has ended."
        about = {"kernel": f"{owner}/{slug}"}
        fake.requests.append(("logs", about))
        if not self.known(fake): return self.refuse(401, "Unauthenticated")
        fault = fake.fault("logs", about)
        if not (fault and fault.how == "reset" and fault.after) and self.faulty(fault): return None
        try: run = fake._run({"userName": owner, "kernelSlug": slug})[1]
        except Refusal as e: return self.refuse(e.status, e.message)
        if run.ended: return self.reply(200, json.dumps(run.events).encode(), Content_Type="application/json")
        self.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        for i, event in enumerate(run.events):
            if fault and i == fault.after: break
            time.sleep(run.pause)
            self.chunk(f": line {i}\n\ndata: {json.dumps(event)}\n\n")
        if fault is None:
            self.chunk("data: END_OF_LOG\n\n")
            run.finish()
        if fault is None or fault.how == "truncate": self.wfile.write(b"0\r\n\r\n")

    def chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        "A client that went away is no error; anything else is a fault of this file."
        if not isinstance(sys.exception(), ConnectionError): super().handle_error(request, client_address)


@contextmanager
def running(**settings) -> Iterator[FakeKaggle]:
    "A server with the settings of `FakeKaggle`, until the end of the block."
    with Server(("127.0.0.1", 0), Handler) as server:
        server.fake = fake = FakeKaggle(**settings)
        fake.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": .02}, daemon=True)
        thread.start()
        try: yield fake
        finally:
            server.shutdown()
            thread.join()
