"The machine as files and nvidia-smi tell it, the yardsticks against our pictures, the profile from files to report."
import dataclasses
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo_kit import machine, phantom
from mammo_kit.breast import find_breast
from mammo_kit.dicom import open_bytes, read
from mammo_kit.machine import (
    NOTES_MACHINES,
    Gpu,
    Setting,
    all_settings,
    beside,
    choose,
    notes_way,
    profile,
    project,
    pydicom_way,
    this_machine,
    time_readers,
)
from mammo_kit.pool import Pool, fastest, usable_cores
from mammo_kit.preprocess import Settings, prepare

# Few settings of each kind, so that it takes seconds.
FEW = {"size": "128x64", "repeats": 2, "processes": (2,), "opencv_threads": (1,), "numexpr_threads": (1,),
       "start_methods": ("fork", "forkserver"), "progress": False}


def tree(root: Path, files: dict) -> Path:
    "A file system with these files, or parts of them."
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def nvidia_smi(root: Path, *cards: str, head="CUDA Version: 12.6", knows=("name", "compute_cap")) -> dict:
    "An environment whose nvidia-smi tells of these cards."
    script = f"""#!{sys.executable}
import sys
query = next((a for a in sys.argv if a.startswith("--query-gpu=")), None)
if query is None: print("| NVIDIA-SMI 560.35  Driver Version: 560.35  {head} |")
elif "compute_cap" in query and "compute_cap" not in {knows!r}: sys.exit("not a valid field to query")
else:
    for card in {cards!r}: print(card if "compute_cap" in query else card.rpartition(", ")[0])
"""
    tree(root, {"bin/nvidia-smi": script})
    (root / "bin/nvidia-smi").chmod(0o755)
    return {"PATH": str(root / "bin")}


MEMINFO = {"proc/meminfo": "MemTotal:       16390860 kB\nMemFree:  1 kB\nMemAvailable:   15000000 kB\n"}
GIB = 2**30


def test_no_container_no_card(tmp_path):
    m = this_machine({"PATH": str(tmp_path)}, tree(tmp_path, MEMINFO))
    assert (m.stage, m.gpus, m.cuda, m.driver) == ("local machine", (), None, None)
    assert (m.memory_kb, m.memory_limit_kb, m.free_memory_kb) == (16390860, None, 15000000)
    assert m.cores == usable_cores(tmp_path) and m.all_cores == os.cpu_count()
    assert m.opencv == cv2.__version__ and m.torch
    shown = str(m).splitlines()
    assert shown[0].split("|")[2].strip() == "local machine" and "| Total memory kB  | 16390860 " in str(m)
    assert not any("Memory limit" in line for line in shown)


def test_a_system_that_tells_nothing(tmp_path):
    m = this_machine({}, tmp_path)
    assert (m.memory_kb, m.memory_limit_kb, m.free_memory_kb, m.gpus) == (None, None, None, ())
    assert "CPU cores" in str(m) and "Total memory" not in str(m)


@pytest.mark.parametrize(("files", "limit", "free"), [
    # Version 2: the group above sets the limit; files kept in memory give way
    ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n",
      "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n", "sys/fs/cgroup/a/memory.current": f"{3 * GIB}\n",
      "sys/fs/cgroup/a/memory.stat": f"file 1\ninactive_file {GIB}\n"}, 8 * 2**20, 6 * 2**20),
    # Version 2 in a container: its own group is the root that it sees
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{4 * GIB}\n", "sys/fs/cgroup/memory.current": "0\n"},
     4 * 2**20, 4 * 2**20),
    # Version 1 in a container: the path is the host's, the files are at the root
    ({"proc/self/cgroup": "4:memory:/docker/77\n3:cpuset:/\n",
      "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
      "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n"}, 2 * 2**20, 2**20),
    # Version 1 without a limit is a very large number
    ({"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"},
     None, 15000000),
])
def test_what_a_container_allows(tmp_path, files, limit, free):
    m = this_machine({}, tree(tmp_path, MEMINFO | files))
    assert (m.memory_limit_kb, m.free_memory_kb) == (limit, free)


def test_cores_are_those_of_the_quota(tmp_path):
    assert this_machine({}, tree(tmp_path, {"sys/fs/cgroup/cpu.max": "100000 100000\n"})).cores == 1


@pytest.mark.parametrize(("cards", "stage", "first"), [
    (["Tesla T4, 560.35, 15360, 7.5"] * 2, "Kaggle, 2 x T4", Gpu("T4", 15360, "7.5")),
    (["Tesla P100-PCIE-16GB, 560.35, 16384, 6.0"], "Kaggle, P100", Gpu("P100", 16384, "6.0")),
    (["NVIDIA L4, 560.35, [N/A], 8.9"], "Kaggle, L4", Gpu("L4", None, "8.9")),
])
def test_cards(tmp_path, cards, stage, first):
    environ = nvidia_smi(tmp_path, *cards)
    m = this_machine(environ | {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, tmp_path)
    assert (m.stage, m.gpus[0], len(m.gpus), m.cuda, m.driver) == (stage, first, len(cards), "12.6", "560.35")
    assert this_machine(environ, tmp_path).stage == "local machine"


def test_kaggle_by_its_folder_and_without_a_card(tmp_path):
    (tmp_path / "kaggle/working").mkdir(parents=True)
    assert this_machine({}, tmp_path).stage == "Kaggle, no accelerator"


def test_an_old_driver_does_not_tell_the_capability(tmp_path):
    environ = nvidia_smi(tmp_path, "Tesla T4, 470.82, 15109, 7.5", head="CUDA Version: 11.4", knows=("name",))
    m = this_machine(environ, tmp_path)
    assert (m.gpus, m.cuda) == ((Gpu("T4", 15109, None),), "11.4")


def test_a_broken_driver_is_no_card(tmp_path):
    environ = nvidia_smi(tmp_path)
    (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert this_machine(environ, tmp_path).gpus == ()


def test_beside_the_machines_of_the_notes(tmp_path):
    m = this_machine(nvidia_smi(tmp_path, "NVIDIA A100-SXM4-40GB, 560.35, 40960, 8.0"), tree(tmp_path, MEMINFO))
    lines = beside(*NOTES_MACHINES, m).splitlines()
    assert len({len(line) for line in lines}) == 1  # aligned
    cells = {name: rest for name, *rest in ([c.strip() for c in line.strip("|").split("|")] for line in lines)}
    assert cells[""] == ["notes: no accelerator", "notes: 2 x T4", "notes: 1 x P100", "local machine"]
    assert cells["Total memory kB"] == ["32880876", "16390860", "16390868", "16390860"]
    assert cells["GPU"] == ["none", "2 x T4", "P100", "A100"]
    assert cells["Compute capability"] == ["–", "7.5", "6.0", "8.0"]


@pytest.fixture
def agree(monkeypatch):
    "Assert that both yardsticks make our picture of a file, all in the box of ours; what differs is rounding."
    def check(path: Path) -> np.ndarray:
        ours, found = prepare(open_bytes(path.read_bytes()), Settings(256, 128, full_resolution=True)), []

        def in_our_box(grey, laterality):
            found.append(find_breast(grey, laterality))
            return dataclasses.replace(found[-1], box=ours.box)

        monkeypatch.setattr(machine, "find_breast", in_our_box)
        for way in (notes_way, pydicom_way):
            theirs = cv2.imdecode(np.frombuffer(way(path, (256, 128)), np.uint8), cv2.IMREAD_UNCHANGED)
            assert theirs.shape == ours.pixels.shape and theirs.dtype == np.uint8
            assert ours.pixels.std() > 20  # there is something to agree on
            assert np.abs(theirs.astype(int) - ours.pixels).mean() < .5, way.__name__
            assert np.abs(np.subtract(dataclasses.astuple(found[-1].box), dataclasses.astuple(ours.box))).max() < 24
        return ours.pixels
    return check


@pytest.mark.parametrize("id", phantom.MACHINES)
@pytest.mark.filterwarnings("ignore:Applying a VOI LUT on a float")  # pydicom's rescale makes them
def test_yardsticks_make_our_picture(id, agree, tmp_path):
    "On every VOI function, LUT, codec and photometric interpretation."
    p = phantom.mammogram(40 + id, "LR"[id % 2], "CC", shape=(512, 416), pixel_spacing_mm=.45)
    phantom.write_dicom(tmp_path / "a.dcm", p, phantom.MACHINES[id], 1, 1)
    agree(tmp_path / "a.dcm")


def test_yardsticks_rescale_and_take_the_first_window(agree, tmp_path):
    "Stored values in another unit, 2 v - 100, and two windows: the picture is that of the plain file."
    from pydicom import dcmread
    p = phantom.mammogram(3, "L", "CC", shape=(512, 416), pixel_spacing_mm=.45)
    phantom.write_dicom(tmp_path / "a.dcm", p, dataclasses.replace(phantom.MACHINES[93], voi="LINEAR"), 1, 1)
    ds = dcmread(tmp_path / "a.dcm")
    ds.RescaleSlope, ds.RescaleIntercept = 2, -100
    ds.WindowCenter, ds.WindowWidth = [2 * ds.WindowCenter - 100, 5], [2 * ds.WindowWidth, 9]
    ds.save_as(tmp_path / "b.dcm")
    plain, other = agree(tmp_path / "a.dcm"), agree(tmp_path / "b.dcm")
    assert np.abs(plain.astype(int) - other).mean() < .1


@given(st.floats(0, 5), st.floats(.01, 3), st.integers(1, 8), st.integers(1, 20))
def test_projection_is_exact_for_a_steady_pool(start, each, processes, rounds):
    "Each process makes an image in `each` seconds, after `start`; as long as all of them are busy to the end."
    images = processes * (rounds + 2)
    seconds = start + (rounds + 2) * each
    assert project(start + each, seconds, images, processes, to=images) == pytest.approx(seconds)
    many = 1000 * processes
    assert project(start + each, seconds, images, processes, to=many) == pytest.approx(start + 1000 * each)


def test_settings_are_all_combinations_or_one_change_at_a_time():
    axes = (0, 1), (1, 4), (1, 4, 8), ("fork", "spawn", "forkserver")
    settings = all_settings(*axes)
    assert len(settings) == len(set(settings)) == 36 + 9  # no threads and one are the same to ours
    assert {s.numexpr_threads for s in settings if s.way == "ours"} == {None}
    cores = usable_cores()
    quick = all_settings((1, 3), (1, 3), (cores, cores + 5), ("fork", "forkserver"), one_at_a_time=True)
    usual = Setting("ours", 1, None, cores, "forkserver")
    assert usual in quick and usual.pool == Pool(cores)
    assert len([s for s in quick if s.way == "notes"]) == 5 and len([s for s in quick if s.way == "ours"]) == 4


def test_the_default_stays_unless_another_is_clearly_faster():
    default, other, third = Pool(4), Pool(8), Pool(4, start_method="fork")
    assert choose({default: [10, 11, 12], other: [8, 9, 7]}, default) == other
    assert choose({default: [10, 11, 12], other: [8, 9, 10.5]}, default) == default  # one run within the spread
    assert choose({default: [10, 10, 10], other: [9.8, 9.8, 9.8]}, default) == default  # 2 % is not worth it
    assert choose({default: [10], other: [1]}, default) == default  # no spread is known
    assert choose({default: [9, 11], other: [8, 8], third: [7, 7]}, default) == third
    assert choose({other: [3, 3], third: [2, 9]}, default) == other  # the default was not among them


@pytest.fixture(scope="module")
def files(competition, tmp_path_factory):
    "A folder with images of at least two codecs, the third file in ten a text, the last one cut off."
    folder = tmp_path_factory.mktemp("files")
    some = sorted((competition / "train_images").rglob("*.dcm"))[::3][:10]
    for i, f in enumerate(some): (folder / f"{i}.dcm").write_bytes(f.read_bytes())
    (folder / "2.dcm").write_text("not an image")
    phantom.write_dicom(folder / "9.dcm", phantom.mammogram(1, "L", "CC", shape=(410, 330), pixel_spacing_mm=.55),
                        phantom.MACHINES[93], 1, 1)
    (folder / "9.dcm").write_bytes((folder / "9.dcm").read_bytes()[:100_000])
    return folder


def test_readers_that_cannot_have_no_time(files):
    "dicomsdl crashes on the file that was cut off, the others refuse it; the files that are whole go on."
    syntax = read(files / "0.dcm").header.transfer_syntax_uid
    timings, steps = {}, []
    which = {phantom.UNCOMPRESSED: [files / "9.dcm"], syntax: [files / "0.dcm"]}
    time_readers(which, timings, 2, 60, lambda: steps.append(1))
    assert len(steps) >= 3 * 3 + 3  # every reading of the readers that can, and one of each that cannot
    assert {reader for reader, _ in timings} >= {"pydicom", "pydicom, pylibjpeg", "dicomsdl", "mammo_kit"}
    for (_, uid), timing in timings.items():
        if uid == phantom.UNCOMPRESSED: assert str(timing) == "–" and "9.dcm" in timing.error
        else: assert len(timing.values) == 2 and not timing.error and "(" in str(timing)
    assert "crashed" in timings["dicomsdl", phantom.UNCOMPRESSED].error


@pytest.fixture(scope="module")
def result(files, tmp_path_factory):
    "A profile, and the folder where it leaves its plot and its settings."
    folder = tmp_path_factory.mktemp("config")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        yield profile(files, plot=folder / "bars.png", **FEW), folder


def test_profile_reports_everything(result):
    found, folder = result
    report = str(found)
    assert (found.files, len(found.sample), sorted(found.left_out), found.exit_status) == (10, 8, ["2.dcm", "9.dcm"], 0)
    assert "8 of 10 files. Left out: 2. The first: 2.dcm, not a DICOM file" in report
    for part in ("notes: 2 x T4", "| mammo_kit ", "| dicomsdl ", "+ numexpr, 8 images to 128x64", "Ours, 8 images"):
        assert part in report, part
    assert len(found.runs) == 4 and all(len(t.values) == 2 and not t.error for t in found.runs.values()), report
    for way, columns in (("notes", 6), ("ours", 5)):
        table = [line for line in found._settings_table(way).splitlines() if line.startswith("| ")]
        assert len(table) == 3 and {line.count("|") for line in table} == {columns + 1}
        middle = [sum(t.values) for t in found.of(way).values()]
        assert middle == sorted(middle)  # of two, the median is the mean: fastest first


def test_profile_draws_a_png(result):
    _, folder = result
    image = cv2.imread(str(folder / "bars.png"))
    assert (folder / "bars.png").read_bytes()[:4] == b"\x89PNG" and image.shape[1] == 800 and image.std() > 10


def test_profile_saves_what_preprocess_then_uses(result):
    found, _ = result
    assert fastest() in {s.pool for s in found.runs if s.way == "ours"} | {Pool(usable_cores())}
    assert f"processes {fastest().workers}" in found.outcome and "saved in" in found.outcome


def test_a_profile_of_ours_alone_where_the_notes_way_can_do_nothing(tmp_path, monkeypatch):
    "LINEAR with a width of 1 divides by 0 there. Nothing is saved unless wanted."
    from pydicom import dcmread
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "src").mkdir()
    phantom.write_dicom(tmp_path / "a.dcm", phantom.mammogram(1, "L", "CC", shape=(410, 330), pixel_spacing_mm=.55),
                        phantom.MACHINES[48], 1, 1)
    ds = dcmread(tmp_path / "a.dcm")
    ds.WindowWidth = 1
    ds.save_as(tmp_path / "src/a.dcm")
    few = FEW | {"start_methods": ("spawn",), "repeats": 1}
    found = profile(tmp_path / "src", plot=tmp_path / "bars.png", save=False, **few)
    assert {s.way for s in found.runs} == {"ours"} and "The notes' way cannot: ZeroDivisionError" in str(found)
    assert found.sample == ["a.dcm"] and "not saved" in found.outcome and not (tmp_path / "config").exists()


def test_from_a_zip(files, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with ZipFile(tmp_path / "c.zip", "w") as z:
        for name in ("0.dcm", "1.dcm", "2.dcm"): z.write(files / name, f"clinic/{name}")
    few = FEW | {"start_methods": ("fork",), "repeats": 1}
    found = profile(tmp_path / "c.zip", plot=tmp_path / "bars.png", **few)
    assert found.sample == ["clinic/0.dcm", "clinic/1.dcm"] and list(found.left_out) == ["clinic/2.dcm"]
    assert all(t.values for t in found.runs.values())


def test_a_spread_sample_and_one_change_at_a_time(files, tmp_path, monkeypatch):
    "Of the 4 x 2 + 2 x 2 combinations, too long for 0 minutes: 3 and 2 changes of the usual settings, and those."
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "_in_a_fresh_process", lambda limit, *args: (.1, .2))
    two = {"opencv_threads": (1, 2), "numexpr_threads": (1, 2), "processes": (1, 2), "start_methods": ("fork",)}
    found = profile(files, images=4, minutes=0, plot=tmp_path / "bars.png", **FEW | two)
    assert found.files == 10 and found.sample + sorted(found.left_out) == ["0.dcm", "3.dcm", "6.dcm", "9.dcm"]
    assert [len(found.of(way)) for way in ("notes", "ours")] == [4, 3]


def test_a_run_that_fails_is_a_dash(files, tmp_path, monkeypatch):
    "Neither a crash nor a hang of one setting stops the others, and what failed is not saved."
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    how = {"notes": BrokenProcessPool("died"), "ours": TimeoutError}

    def fragile(limit, function, src, paths, shape, setting, timeout):
        if setting.start_method == "spawn": raise how[setting.way]
        return .1, {"fork": 1, "forkserver": 2}[setting.start_method]

    monkeypatch.setattr(machine, "_in_a_fresh_process", fragile)
    some = {"start_methods": ("fork", "spawn", "forkserver"), "processes": (usable_cores(),)}
    found = profile(files, plot=tmp_path / "bars.png", **FEW | some)
    assert "–: BrokenProcessPool: died" in str(found) and "–: took longer than" in str(found)
    assert [str(t) for t in found.of("ours").values()] == ["1 (1 to 1)", "2 (2 to 2)", "–"]
    assert fastest() == Pool(usable_cores(), start_method="fork") and "start method fork;" in found.outcome


def test_a_fresh_process_may_crash_or_hang():
    with pytest.raises(BrokenProcessPool): machine._in_a_fresh_process(60, os.abort)
    with pytest.raises(TimeoutError): machine._in_a_fresh_process(.2, time.sleep, 60)
    with pytest.raises(ZeroDivisionError): machine._in_a_fresh_process(60, divmod, 1, 0)
    assert machine._in_a_fresh_process(60, divmod, 7, 2) == (3, 1)


def test_a_codec_that_dicomsdl_cannot_read_is_still_compared(files, tmp_path, monkeypatch):
    "Its files are left out of the runs only."
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "_in_a_fresh_process", lambda limit, *args: (.1, .2))
    def syntax(path): return read(files / path).header.transfer_syntax_uid

    def some_cannot(src, paths, *args):
        return {path: "The notes' way cannot" for path in paths if syntax(path) == phantom.JPEG_2000}, .1

    monkeypatch.setattr(machine, "_try_all_notes", some_cannot)
    found = profile(files, plot=tmp_path / "bars.png", **FEW)
    assert found.sample and phantom.JPEG_2000 not in map(syntax, found.sample)
    assert {uid for _, uid in found.readers} >= {phantom.JPEG_LOSSLESS, phantom.JPEG_2000}


@pytest.mark.parametrize(("options", "words"), [
    ({"images": 0}, "images 0: expected at least 1"), ({"timeout": 0}, "timeout 0"),
    ({"repeats": 0}, "repeats 0: expected at least 1"),
    ({"processes": (2, 0)}, "processes 0"), ({"opencv_threads": (-1,)}, "opencv_threads -1"),
    ({"numexpr_threads": (0,)}, "numexpr_threads 0"), ({"start_methods": ()}, "start_methods"),
    ({"size": "big"}, "HEIGHTxWIDTH"), ({"plot": Path("nowhere/bars.png")}, "nowhere/bars.png"),
    ({"plot": Path(".")}, "plot ."),
])
def test_wrong_use_is_refused_before_anything_is_timed(files, options, words):
    with pytest.raises(ValueError, match=words): profile(files, **FEW | options)


def test_no_image_to_time(tmp_path):
    with pytest.raises(ValueError, match="nowhere"): profile(tmp_path / "nowhere", plot=tmp_path / "p", **FEW)
    (tmp_path / "src").mkdir()
    with pytest.raises(ValueError, match="no files"): profile(tmp_path / "src", plot=tmp_path / "p", **FEW)
    (tmp_path / "src/a.dcm").write_text("text")
    with pytest.raises(ValueError, match="none of the 1 files tried can be read. a.dcm: not a DICOM file"):
        profile(tmp_path / "src", plot=tmp_path / "p", **FEW)


SCRIPT = """
import sys
from pathlib import Path
from mammo_kit.machine import profile
if __name__ == "__main__":
    one = {"opencv_threads": (1,), "numexpr_threads": (1,)}
    result = profile(Path(sys.argv[1]), "128x64", repeats=5, processes=(2,), **one)
    print(result)
    sys.exit(result.exit_status)
"""


def alive(session: int) -> list[str]:
    "The processes of a session that have not ended."
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try: state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError: continue
        if int(sid) == session and state != "Z": found.append(stat.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ended_in_the_middle(how, files, tmp_path):
    "Ctrl-C shows the tables so far; after neither is any process left."
    (tmp_path / "script.py").write_text(SCRIPT)
    command, environ = [sys.executable, "script.py", str(files)], os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}
    with open(tmp_path / "err", "w") as err:
        run = subprocess.Popen(command, cwd=tmp_path, env=environ, start_new_session=True, text=True,
                               stdout=subprocess.PIPE, stderr=err)
    deadline = time.monotonic() + 120
    while "| 4/30" not in (tmp_path / "err").read_text():
        assert time.monotonic() < deadline and run.poll() is None, (tmp_path / "err").read_text()
        time.sleep(.05)
    if how == signal.SIGINT: os.killpg(run.pid, how)
    else: run.kill()
    out, _ = run.communicate(timeout=60)
    while left := alive(run.pid):
        assert time.monotonic() < deadline, left
        time.sleep(.05)
    if how == signal.SIGINT:
        assert run.returncode == 130 and "Interrupted" in out and "Nothing was saved" in out
        assert "Ours, 8 images" in out and (tmp_path / "profile.png").exists()
        assert not (tmp_path / "mammo_kit").exists()
