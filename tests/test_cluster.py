"Jobs on a Dask cluster of real processes: lost workers and schedulers, workers that are not fit, mistakes, Ctrl-C."
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from mammo_kit import cluster
from mammo_kit.cluster import on_cluster

needs_dask = pytest.mark.skipif(find_spec("distributed") is None,
                                reason="distributed is not installed: pip install 'mammo_kit[dask]'")
HERE = Path(__file__).parent  # on the workers' path, so that they find the tasks below; the scheduler does without


class Dask:
    "A scheduler, as yet without workers, on free ports of the loopback."
    def __init__(self, folder: Path, **environment):
        self.folder, self.processes = folder, []
        file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file),
                                     **environment)
        wait_for(lambda: file.exists() and file.read_text(), self.scheduler)
        self.address = json.loads(file.read_text())["address"]

    def worker(self, *options: str, **environment) -> subprocess.Popen:
        "One of one thread, without a nanny unless asked for."
        return self._start(
            "worker", self.address, "--nthreads", "1", *(options or ["--no-nanny"]),
            **{"PYTHONPATH": str(HERE), "DASK_DISTRIBUTED__WORKER__DAEMON": "False", **environment})

    def _start(self, *command: str, **environment) -> subprocess.Popen:
        with open(self.folder / f"{command[0]}-{len(self.processes)}.log", "w") as log:
            p = subprocess.Popen([sys.executable, "-m", "dask", *command, "--no-dashboard"], cwd=self.folder,
                                 stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True)
        self.processes.append(p)
        return p

    def ask(self, question):
        "`question` of the scheduler."
        from distributed import Client
        with Client(self.address, set_as_default=False) as client:
            return client.run_on_scheduler(lambda dask_scheduler: question(dask_scheduler))

    def jobs_known(self) -> int:
        return self.ask(lambda scheduler: len(scheduler.tasks))

    def end(self):
        for p in self.processes:
            end_session(p)


def end_session(process: subprocess.Popen):
    "Kill it and its children, as when a machine is switched off."
    with suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition, process: subprocess.Popen):
    "Until then `process` is alive."
    until = time.monotonic() + 30
    while not condition():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(.02)


@contextmanager
def dask(folder: Path, **environment):
    cluster = Dask(folder, **environment)
    try: yield cluster
    finally: cluster.end()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "A cluster of two workers, for tests that leave it as it was."
    with dask(tmp_path_factory.mktemp("two")) as cluster:
        cluster.worker()
        cluster.worker()
        yield cluster


@pytest.fixture
def own(tmp_path):
    "A scheduler for a test that does it harm. It gives a job up when one worker was lost under it."
    with dask(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as cluster:
        yield cluster


# What follows runs on the workers.

def write(out: Path, job: int) -> int:
    "As preprocessing does: a file in a common folder, and a small result."
    time.sleep(.1)
    (out / f".{job}.{os.getpid()}").write_text(f"result of {job}")
    os.replace(out / f".{job}.{os.getpid()}", out / f"{job}.txt")
    return job * job


def write_or_hang(out: Path, job: int) -> int:
    "Job 5 hangs the first time, having said whose child its process is."
    mark = out / "mark"
    if job == 5 and not mark.exists():
        (out / "mark.tmp").write_text(str(os.getsid(0)))
        os.replace(out / "mark.tmp", mark)
        time.sleep(1000)
    return write(out, job)


def fail(job):
    if job == 2: raise FileNotFoundError(2, "not there", "two.dcm")
    if job == 3: sys.exit("enough")
    return threading.Lock() if job == 4 else job


def kill(out: Path, times: int, job: int):
    "Job 1 kills its worker so many times; none is done quickly, so that others die with it."
    marks = len(list(out.glob("mark*")))
    if job == 1 and marks < times:
        (out / f"mark{marks}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(.2)
    return job


def in_a_child(job):
    "`square` in a process of its own."
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    child = context.Process(target=square, args=(there, job), daemon=True)
    child.start()
    result = here.recv()
    child.join()
    return result


def square(pipe, job):
    pipe.send(job * job)


def version():
    return {"pixels": os.environ.get("VERSION", "1"), "same": 1}


# The tests.

def test_import_without_distributed(monkeypatch):
    code = "import sys, mammo_kit.cluster; print('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"pip install 'mammo_kit\[dask\]'"):
        next(on_cluster("tcp://127.0.0.1:1", abs, [1]))


@needs_dask
def test_wrong_address(capfd):
    for address in ("127.0.0.1", "127.0.0.1:8786", "tcp://127.0.0.1", "http://127.0.0.1:8786"):
        with pytest.raises(ValueError, match="expected the scheduler's address, e.g. tcp://"):
            next(on_cluster(address, abs, [1]))
    with (pytest.raises(ValueError, match="no Dask scheduler answered.*`dask scheduler`"),
          cluster._connected("tcp://127.0.0.1:1", limit=.5)):
        pass
    assert capfd.readouterr() == ("", "")


@needs_dask
def test_each_job_once_and_few_at_a_time(two):
    taken = []

    def jobs():
        for job in range(50):
            taken.append(job)
            yield job

    results = {}
    for job, result in on_cluster(two.address, abs, jobs()):
        results[job] = result
        assert len(taken) - len(results) < 2 * 2
        if job == 30: assert two.jobs_known() <= 2 * 2
    assert results == {job: job for job in range(50)}
    assert list(on_cluster(two.address, abs, [])) == []
    assert two.jobs_known() == 0


@needs_dask
def test_exceptions_name_the_job_and_the_worker(two):
    with pytest.raises(FileNotFoundError, match="not there") as e:
        list(on_cluster(two.address, fail, [1, 2]))
    assert e.value.errno == 2 and e.value.__notes__[-1] == "in job 2"
    assert e.value.__notes__[0].startswith("on worker tcp://127.0.0.1:")
    with pytest.raises(RuntimeError, match=r"SystemExit\('enough'\) on worker tcp") as e:
        list(on_cluster(two.address, fail, [3]))
    assert e.value.__notes__[-1] == "in job 3"
    with pytest.raises(TypeError, match="lock") as e:  # a result that cannot travel
        list(on_cluster(two.address, fail, [4]))
    assert e.value.__notes__[-1] == "in job 4"


@needs_dask
def test_a_task_that_the_workers_cannot_import(two, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def task(job): return job")
    monkeypatch.syspath_prepend(tmp_path)
    from only_here import task
    with pytest.raises(ValueError, match="worker tcp.* cannot import the task .*only_here.*install"):
        list(on_cluster(two.address, task, [1]))


@needs_dask
def test_a_worker_without_mammo_kit(own, tmp_path):
    (tmp_path / "mammo_kit.py").write_text("")
    own.worker(PYTHONPATH=str(tmp_path))
    with pytest.raises(ValueError, match="a worker lacks mammo_kit"):
        list(on_cluster(own.address, abs, [1]))


@needs_dask
def test_closing_the_generator_drops_the_jobs(two, tmp_path, capfd):
    with closing(on_cluster(two.address, partial(write, tmp_path), range(1000))) as results:
        next(results)
    assert two.jobs_known() == 0
    assert capfd.readouterr().err == ""


@needs_dask
def test_ctrl_c(two, tmp_path):
    code = ("import sys, time; from mammo_kit.cluster import on_cluster\n"
            "for job, _ in on_cluster(sys.argv[1], time.sleep, [0, *[1] * 1000]): print(job, flush=True)")
    run = subprocess.Popen([sys.executable, "-c", code, two.address], text=True, start_new_session=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert run.stdout.readline() == "0\n"
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=20)[1]
    finally: end_session(run)
    assert run.returncode == -signal.SIGINT
    assert said.endswith("KeyboardInterrupt\n") and said.count("Traceback") == 1
    assert two.jobs_known() == 0


@needs_dask
def test_a_worker_of_another_version_joins(own, tmp_path):
    own.worker(VERSION="1")
    results = on_cluster(own.address, partial(write, tmp_path), range(1000), version)
    next(results)
    own.worker(VERSION="2")
    with pytest.raises(ValueError, match="worker tcp://.* differs: pixels '2' there, '1' here. Install"):
        list(results)


@needs_dask
def test_jobs_with_children_need_workers_that_may_have_some(own):
    nanny = own.worker("--nanny")
    assert dict(on_cluster(own.address, in_a_child, range(4))) == {0: 0, 1: 1, 2: 4, 3: 9}
    end_session(nanny)
    nanny = own.worker("--nanny", DASK_DISTRIBUTED__WORKER__DAEMON="True")
    with pytest.raises(ValueError, match="is daemonic.*DASK_DISTRIBUTED__WORKER__DAEMON=False dask worker.*--no-nanny"):
        list(on_cluster(own.address, in_a_child, [1]))


@needs_dask
def test_a_machine_is_lost(tmp_path):
    "The outcome is that of a run without a cluster; the job that the machine was at is done by another."
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with dask(tmp_path) as own:
        machines = [own.worker("--nanny"), own.worker("--nanny")]

        def lose():
            wait_for((there / "mark").exists, own.scheduler)
            end_session(next(m for m in machines if m.pid == int((there / "mark").read_text())))

        thread = threading.Thread(target=lose, daemon=True)
        thread.start()
        results = dict(on_cluster(own.address, partial(write_or_hang, there), range(12)))
        thread.join()
        assert sorted(m.poll() is None for m in machines) == [False, True]
    assert results == {job: write(here, job) for job in range(12)}
    assert {f.name: f.read_text() for f in there.glob("*.txt")} == {f.name: f.read_text() for f in here.glob("*.txt")}


@needs_dask
def test_a_job_under_which_workers_are_lost(own, tmp_path, monkeypatch):
    "After three losses it is done yet; one that kills all its workers is named, and not those that ran beside it."
    own.worker("--nanny")
    own.worker("--nanny", "--nthreads", "2")
    assert sorted(job for job, _ in on_cluster(own.address, partial(kill, tmp_path, 3), range(5))) == list(range(5))
    assert len(list(tmp_path.glob("mark*"))) == 3
    monkeypatch.setattr(cluster, "_MOST_LOST", 2)
    done = []
    with pytest.raises(RuntimeError, match="job 1: 2 workers died while they ran it"):
        for job, _ in on_cluster(own.address, partial(kill, tmp_path, 99), range(5)): done.append(job)
    assert set(done) <= {0, 2, 3, 4}


@needs_dask
def test_no_workers_and_all_workers_lost(own, tmp_path, capfd):
    with pytest.raises(ValueError, match="no worker came within 0.5 s. Start some: `DASK_.*dask worker tcp://"):
        next(on_cluster(own.address, abs, [1], patience=.5))
    assert capfd.readouterr().err == "The cluster has no worker that takes jobs: none has come yet. Waiting for one\n"
    worker, waiting, said = own.worker(), [], []

    def revive():
        "A new worker as soon as it was said that one is missing."
        while not waiting or "all are lost" not in (text := capfd.readouterr().err): time.sleep(.05)
        said.append(text)
        own.worker()

    thread = threading.Thread(target=revive, daemon=True)
    thread.start()
    results = []
    for job, _ in on_cluster(own.address, partial(write, tmp_path), range(8)):
        results.append(job)
        if len(results) == 3:
            end_session(worker)
            waiting.append(True)
    thread.join()
    assert sorted(results) == list(range(8)) and "".join(said).count("all are lost") == 1


@needs_dask
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_scheduler_is_lost(own, tmp_path, capfd, how):
    own.worker()
    results = on_cluster(own.address, partial(write, tmp_path), range(1000))
    next(results)
    capfd.readouterr()
    own.scheduler.send_signal(how)
    with pytest.raises(ConnectionError, match="the scheduler is lost"):
        list(results)
    assert capfd.readouterr().err == ""
