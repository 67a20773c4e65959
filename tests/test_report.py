"The report: its content, its size, and how it behaves in a real browser."
import io
import json
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mammo_kit.phantom import make_competition
from mammo_kit.policy import RULES
from mammo_kit.preprocess import preprocess
from mammo_kit.report import report

NASTY = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>, \"it's\".dcm"
BROKEN = "<b>cut off</b>.dcm"
BOX = "top", "left", "bottom", "right"


def alarm(path: str, rule: str, score: float, threshold: float, severity="note", unit="grey levels", decision="",
          box=("", "", "", ""), reason="As seen.") -> dict:
    return {"path": path, "rule": rule, "severity": severity, "score": score, "threshold": threshold, "unit": unit,
            "reason": reason, "decision": decision, **dict(zip(BOX, box))}


def append(tar_file: Path, name: str, data: bytes) -> int:
    "Put a file into a tar; where its bytes begin."
    with tarfile.open(tar_file, "a", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        return tar.offset - -(-len(data) // 512) * 512


def jpeg(seed: int, height: int, width: int) -> bytes:
    "Tissue on black, with film grain: about as hard to compress as an overview of a mammogram."
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.normal(size=(12, 10)), (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:height, :width]
    tissue = 120 + 35 * coarse + rng.normal(size=(height, width)) * 9
    inside = (x / width) ** 2 + (2 * y / height - 1) ** 2 < .8
    return cv2.imencode(".jpg", np.clip(tissue * inside, 0, 255).astype(np.uint8))[1].tobytes()


def read(csv: Path) -> pd.DataFrame:
    return pd.read_csv(csv, dtype={"decision": str, "reason": str, "repairs": str, "machine_id": str}).fillna(
        {"decision": "", "reason": "", "repairs": ""})


def prepare(src: Path, out: Path, decisions: Path | None = None) -> Path:
    preprocess(src, out, "64x32", workers=1, progress=False, decisions=decisions)
    return out


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    "Mammograms with every artifact and every faulty header that the phantom knows; and one file is no image."
    src = tmp_path_factory.mktemp("faulty") / "src"
    make_competition(src, 10, test_patients=1, scale=.15, workers=1, progress=False, faults=.8)
    wrong = set(read(src / "faults.csv")["path"])
    sound = next(p for p in sorted(src.glob("train_images/*/*.dcm")) if str(p.relative_to(src)) not in wrong)
    sound.write_bytes(b"This is no image.")
    return src


@pytest.fixture(scope="module")
def checked(faulty, tmp_path_factory) -> Path:
    "As preprocessing leaves it, when a reviewer has accepted two alarms and overruled one that excludes."
    out = prepare(faulty, tmp_path_factory.mktemp("checked") / "out")
    alarms = read(out / "alarms.csv")
    decisions = pd.concat([alarms[alarms["rule"] == rule].head(1).assign(decision=decision)
                           for rule, decision in (("circle", "accept"), ("stripes", "accept"), ("blank", "overrule"))])
    file = out.parent / "decisions.csv"
    decisions[["path", "rule", "decision"]].to_csv(file, index=False)
    return prepare(faulty, out, file)


@pytest.fixture(scope="module")
def nasty(faulty, tmp_path_factory) -> Path:
    "A plain folder in which files have names to be wary of."
    src, faults = tmp_path_factory.mktemp("nasty") / "src", read(faulty / "faults.csv").set_index("rule")["path"]
    for name in (NASTY, BROKEN): (src / name).parent.mkdir(parents=True)
    shutil.copy(faulty / faults[faults.index == "stripes"].iloc[0], src / NASTY)
    (src / BROKEN).write_bytes(b"This is no image.")
    return prepare(src, src.parent / "out")


def scored(out: Path) -> tuple[str, pd.DataFrame]:
    "The rule with most different scores, and its alarms, strongest first."
    alarms = read(out / "alarms.csv")
    rule = alarms[~alarms["rule"].map(lambda name: RULES[name].below)].groupby("rule")["score"].nunique().idxmax()
    return rule, alarms[alarms["rule"] == rule].sort_values("score", ascending=False)


def data_of(html: Path) -> dict:
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', html.read_text())[1])


def pictures_of(html: Path) -> list[str]:
    return re.search('<script type="text/plain" id="pictures">(.*?)</script>', html.read_text(), re.S)[1].split("\n")


def test_totals_alarms_and_decisions(checked, tmp_path):
    made = report(checked, html=tmp_path / "page.html")
    data, manifest, alarms = data_of(made.html), read(checked / "manifest.csv"), read(checked / "alarms.csv")
    assert (made.exit_status, made.alarms, made.shown) == (0, len(alarms), len(alarms))
    assert str(made.html) in str(made)
    status = manifest["status"].value_counts()
    totals = {label: n for label, n, _ in data["totals"]}
    assert totals == {"images": len(manifest), "ok": status["ok"], "excluded": status["excluded"], "failed": 1,
                      "unprocessed": 0, "repaired": (manifest["repairs"] != "").sum(), "alarms": len(alarms),
                      "images with an alarm": alarms["path"].nunique()}
    assert totals["excluded"] > 1 < totals["repaired"]
    kinds = {k["rule"]: k for k in data["kinds"]}
    assert {rule: k["alarms"] for rule, k in kinds.items()} == Counter(alarms["rule"])
    for name, rule in RULES.items():
        if name in kinds: assert (kinds[name]["meaning"], kinds[name]["action"]) == (rule.meaning, rule.action)
    found = {(data["images"][a["image"]]["path"], data["kinds"][a["kind"]]["rule"]): a for a in data["alarms"]}
    assert len(found) == len(alarms) and Counter(alarms["decision"])["overrule"] == 1
    size = manifest.set_index("path")[["source_height", "source_width"]]
    for a in alarms.itertuples():
        shown = found[a.path, a.rule]
        assert (shown["decision"], shown["severity"], shown["reason"]) == (a.decision, a.severity, a.reason)
        assert shown["score"] == pytest.approx(a.score, rel=1e-5)
        if np.isnan(a.top): assert shown["box"] is None
        else:
            h, w = size.loc[a.path]
            assert shown["box"] == pytest.approx([a.top / h, a.left / w, a.bottom / h, a.right / w], abs=.001)
    [failure] = data["failures"]
    assert failure[:2] == [1, "failed"]
    charts = {c["title"]: c for c in data["charts"]}
    excluding = alarms[(alarms["severity"] == "exclude") & (alarms["decision"] != "overrule")]
    assert {rule: n for rule, n, _ in charts["Excluded by rule"]["rows"]} == Counter(excluding["rule"])
    repairs = Counter(" ".join(manifest["repairs"]).split())
    assert {rule: n for rule, n, _ in charts["Repaired by rule"]["rows"]} == repairs
    assert sum(n for _, n, _ in charts["Machine"]["rows"]) == len(manifest)  # failed ones are in train.csv too
    assert sum(n for _, _, n, _ in charts["Sizes"]["points"]) == manifest["source_height"].notna().sum()
    windows = manifest[["window_center", "window_width"]].dropna()
    assert sum(n for _, _, n, _ in charts["Windows"]["points"]) == len(windows) > 20


def test_windows_are_told_relative_to_the_bits(tmp_path):
    "By hand: 4096 values; 2048 of them are 50 %, 4096 are 100 %; a center of 30000 is drawn at the margin."
    rows = [(12, 2048, 4096)] * 2 + [(12, 1024, 2048), (12, 30000, 410), (12, "", ""), (16, "nan", "nan")]
    images = [{"path": f"{i}.dcm", "image_id": i, "status": "ok", "reason": "", "bits_stored": bits,
               "window_center": center, "window_width": width} for i, (bits, center, width) in enumerate(rows)]
    pd.DataFrame(images).to_csv(tmp_path / "manifest.csv", index=False)
    pd.DataFrame([alarm("2.dcm", "circle", 30, 10)]).to_csv(tmp_path / "alarms.csv", index=False)
    [windows] = (c for c in data_of(report(tmp_path).html)["charts"] if c["title"] == "Windows")
    assert windows["axes"] == ["width", "center"]
    assert sorted(windows["points"]) == [[10, 200, 1, 0], [50, 25, 1, 1], [100, 50, 2, 0]]


def test_a_score_that_differs_is_a_histogram_with_its_threshold(checked, tmp_path):
    rule, alarms = scored(checked)
    [scores] = (s for s in data_of(report(checked, html=tmp_path / "page.html").html)["scores"] if s["rule"] == rule)
    assert sum(scores["counts"]) == len(alarms) and scores["threshold"] == RULES[rule].threshold == scores["low"]
    assert scores["high"] == alarms["score"].max()


def test_every_picture_is_in_the_page_once(checked, tmp_path):
    made = report(checked, html=tmp_path / "page.html")
    manifest, pictures = read(checked / "manifest.csv"), pictures_of(made.html)
    assert len(pictures) == len(data_of(made.html)["images"]) > 20
    assert sum(map(bool, pictures)) == manifest["overview_length"].notna().sum()
    assert not data_of(made.html)["banner"]  # a colour picture, say, has none, and this is no fault of the shards


def test_no_name_becomes_markup(nasty, tmp_path):
    html = report(nasty).html
    page = html.read_text()
    assert "window.hacked=1" in page and "<img src=x" not in page and "<script>window" not in page
    assert page.count("</script>") == 3 and "http:" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in page and "<title>out " in page
    odd = shutil.copytree(nasty, tmp_path / "<i>")
    assert "<title>&lt;i&gt; " in report(odd).html.read_text()


def test_decisions_about_what_is_no_alarm_now_are_not_lost(checked, tmp_path):
    out = shutil.copytree(checked, tmp_path / "out")
    with open(out / "decisions.csv", "a") as f: f.write("gone.dcm,circle,accept\n")
    assert ["gone.dcm", "circle", "accept"] in data_of(report(out).html)["carried"]


def test_shard_unpacked_to_a_folder(checked, tmp_path):
    out = shutil.copytree(checked, tmp_path / "out")
    expected = pictures_of(report(out).html)
    for tar_file in (out / "shards").glob("*.tar"):
        with tarfile.open(tar_file) as tar: tar.extractall(tar_file.with_suffix(""), filter="data")
        tar_file.unlink()
    assert pictures_of(report(out).html) == expected
    shutil.rmtree(out / "shards")
    html = report(out).html
    assert not any(pictures_of(html))
    assert f"{sum(map(bool, expected))} pictures could not be read" in data_of(html)["banner"]


@pytest.mark.parametrize("name, text, message", [
    ("manifest.csv", None, "manifest.csv is missing: expected a folder made by `mammo-kit preprocess"),
    ("manifest.csv", "", "is no CSV file"), ("manifest.csv", "path,status\n", "no column image_id"),
    ("alarms.csv", None, "alarms.csv is missing"),
    ("alarms.csv", "path,rule\na,b\n", "no column severity"),
    ("alarms.csv", ",".join(alarm("", "", 0, 0)) + "\na,b,note,1,0,,,yes,,,,\n", "a: decision 'yes'; expected accept"),
    ("alarms.csv", ",".join(alarm("", "", 0, 0)) + "\na,b,grave,1,0,,,,,,,\n", "a: severity 'grave'; expected note"),
    ("decisions.csv", "path,rule,decision\na,nothing,accept\n", "line 2: there is no rule 'nothing'")])
def test_bad_input_is_named(checked, tmp_path, name, text, message):
    out = shutil.copytree(checked, tmp_path / "out")
    (out / name).unlink() if text is None else (out / name).write_text(text)
    with pytest.raises(ValueError, match=message): report(out)


def test_scores_and_boxes_that_are_none(checked, tmp_path):
    out = shutil.copytree(checked, tmp_path / "out")
    rows = [alarm("gone.dcm", "circle", float("nan"), 1, box=(1, 2, 3, 4)), alarm("gone.dcm", "stripes", "", "inf")]
    pd.DataFrame(rows).to_csv(out / "alarms.csv", index=False)
    data = data_of(report(out).html)
    assert [(a["score"], a["box"]) for a in data["alarms"]] == [(None, None)] * 2 and len(data["images"]) == 1


@pytest.fixture(scope="module")
def flagged(tmp_path_factory):
    "Makes a folder in which two rules have fired on many images; 50 pictures, again and again."
    def make(images: int) -> Path:
        out = tmp_path_factory.mktemp("many")
        (out / "shards").mkdir()
        pictures = [jpeg(i, 300, 240) for i in range(50)]
        places = [append(out / "shards" / "00000.tar", f"{i}.overview.jpg", data) for i, data in enumerate(pictures)]
        rng = np.random.default_rng(0)
        manifest, alarms = [], []
        for i in range(images):
            path = f"train_images/{10000 + i // 4}/{900000000 + i}.dcm"
            manifest.append({"path": path, "image_id": i, "status": "ok", "reason": "", "shard": 0,
                             "member": f"{i}.png", "source_height": 3000 + i % 9, "source_width": 2400,
                             "overview_offset": places[i % 50], "overview_length": len(pictures[i % 50])})
            for rule, threshold in (("circle", 10), *[("stripes", 4)] * (i % 3 == 0)):
                score = round(threshold * (1 + rng.exponential()), 3)
                alarms.append(alarm(path, rule, score, threshold, box=(300, 300, 900, 1200),
                                    reason=f"A sentence of the usual length that says why: {score} grey levels."))
        pd.DataFrame(manifest).to_csv(out / "manifest.csv", index=False)
        pd.DataFrame(alarms).to_csv(out / "alarms.csv", index=False)
        return out
    return make


@pytest.fixture(scope="module")
def many(flagged) -> Path:
    "The report of 5,000 flagged images."
    return report(flagged(5000)).html


def test_5000_images_fit_60_mb(many):
    pictures = pictures_of(many)
    assert many.stat().st_size < 60e6 and len(pictures) == 5000 and all(pictures)
    assert many.stat().st_size > 30e6  # and the room is used: pictures are not smaller than they must be


def test_too_many_alarms_are_left_out_and_it_says_so(flagged, monkeypatch):
    "With a smaller page in place of more images."
    monkeypatch.setattr("mammo_kit.report._MOST", 1_000_000)
    out = flagged(900)
    alarms = pd.read_csv(out / "alarms.csv", dtype={"decision": str}, keep_default_na=False)
    lowest = alarms.sort_values("score").groupby("rule").head(1).index
    alarms.loc[lowest, "decision"] = "overrule"
    alarms.to_csv(out / "alarms.csv", index=False)
    made = report(out)
    data = data_of(made.html)
    assert made.html.stat().st_size <= 1_000_000 and 200 < made.shown < made.alarms == 1200
    assert all(pictures_of(made.html))
    assert re.match(f"{1200 - made.shown} of 1,200 alarms are left out.*alarms.csv has them all", data["banner"])
    shown = {rule: [a["score"] for a in data["alarms"] if data["kinds"][a["kind"]]["rule"] == rule]
             for rule in ("circle", "stripes")}
    for rule, scores in shown.items():
        assert scores == alarms.loc[alarms["rule"] == rule, "score"].nlargest(len(scores)).tolist()
    assert sum(k["alarms"] for k in data["kinds"]) == 1200
    assert len(data["carried"]) + sum(a["decision"] != "" for a in data["alarms"]) == 2  # no decision is lost


@pytest.fixture(scope="module")
def with_models(prepared, trained, tmp_path_factory) -> Path:
    return report(prepared, trained, html=tmp_path_factory.mktemp("trained") / "page.html", progress=False).html


def test_what_models_have_learnt(with_models, prepared, trained):
    from mammo_kit.evaluate import evaluate
    seen, data = evaluate(prepared, trained, with_models.parent), data_of(with_models)["training"]
    assert data["about"] == str(seen) and dict(data["totals"]) == seen.totals()
    assert [title for title, _ in data["figures"]] == list(seen.figures())
    assert data["head"] == list(seen.table()) and data["rows"] == seen.table().to_numpy(object).tolist()
    assert [[c["caption"] for c in cases] for _, cases in data["cases"]] == [
        [c.caption for c in cases] for cases in (seen.positives, seen.negatives)]
    for _, cases in data["cases"]:
        for shown in cases:
            for _, *pictures in shown["views"]: assert all(p.startswith("data:image/webp;base64,") for p in pictures)
    assert (with_models.parent / "out_of_fold.csv").read_bytes().count(b"\n") == len(seen.images) + 1
    assert with_models.stat().st_size < 3e6


def test_models_that_are_none_leave_no_page(prepared, tmp_path):
    with pytest.raises(ValueError, match="nowhere: expected a folder of `mammo-kit train`"):
        report(prepared, tmp_path / "nowhere", html=tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


# What follows drives a browser.

@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program: pytest.skip("there is no chromium to open the report in (Debian: apt-get install chromium)")
    with driver.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    "Opens a file in a fresh profile; whatever the page asks of the network or complains about fails the test."
    complaints, context = [], browser.new_context()

    def noted(request):
        if not request.url.startswith(("data:", "blob:", "file:")): complaints.append(request.url)

    def visit(html: Path, height: int = 800):
        page = context.new_page()
        page.set_viewport_size({"width": 1280, "height": height})
        page.on("request", noted)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("console", lambda m: complaints.append(m.text))
        page.goto(html.resolve().as_uri())
        return page

    yield visit
    context.close()
    assert not complaints


@pytest.fixture
def page(visit, checked, tmp_path):
    "So high that every card is in view."
    return visit(report(checked, html=tmp_path / "page.html").html, 9000)


def test_training_has_a_page_of_its_own(visit, with_models, checked, tmp_path):
    page = visit(with_models)
    tab = page.get_by_role("tab", name="Training")
    assert tab.get_attribute("aria-selected") == "true"
    training = page.get_by_role("tabpanel", name="Training")
    assert training.get_by_text("AUROC").first.is_visible()
    pictures = training.get_by_role("img")
    assert pictures.count() > 10
    sizes = pictures.evaluate_all("all => all.map(e => [e.naturalWidth, e.clientWidth, e.alt])")
    assert all(natural > 0 < shown and alt for natural, shown, alt in sizes)
    page.get_by_role("tab", name="Summary").click()
    assert not training.is_visible() and page.get_by_text("images with an alarm").first.is_visible()
    tab.click()
    assert training.is_visible()
    without = visit(report(checked, html=tmp_path / "page.html").html)
    assert without.get_by_role("tab").all_text_contents() == ["Summary", "Review"]  # those that are not hidden


def listed(page) -> list[str]:
    "The names of the cards, in their order."
    return page.get_by_role("listbox", name="Alarms").evaluate("""e => [...e.querySelectorAll("[role=option]")]
        .sort((a, b) => a.ariaPosInSet - b.ariaPosInSet).map(card => card.ariaLabel)""")


def paths(page) -> list[str]:
    return [name.split(", ", 2)[2].rpartition(", ")[0] for name in listed(page)]


def scores(page) -> list[float]:
    return [float(name.split(", ")[1].split()[0].replace(",", "")) for name in listed(page)]


def current(page) -> str:
    gallery = page.get_by_role("listbox", name="Alarms")
    return gallery.get_by_role("option", selected=True).get_attribute("aria-label")


def choose(page, rule: str):
    page.get_by_role("group", name="Rule").get_by_text(rule.replace("_", " "), exact=True).click()


def save(page) -> pd.DataFrame:
    with page.expect_download() as download: page.get_by_role("button", name="Save decisions").click()
    assert download.value.suggested_filename == "decisions.csv"
    return pd.read_csv(download.value.path(), dtype=str, keep_default_na=False)


def test_filters_and_order(page, checked):
    alarms, (rule, mine) = read(checked / "alarms.csv"), scored(checked)
    assert len(listed(page)) == len(alarms)
    choose(page, rule)
    strongest_first = pytest.approx(mine["score"].tolist(), rel=1e-3)
    assert scores(page) == strongest_first
    page.get_by_label("Sort by").select_option("score, lowest first")
    assert scores(page)[::-1] == strongest_first
    page.get_by_label("Sort by").select_option("path")
    assert paths(page) == sorted(mine["path"])
    choose(page, "all rules")
    assert paths(page) == sorted(alarms["path"])
    page.get_by_label("Decision", exact=True).select_option("overrule")
    assert paths(page) == alarms.loc[alarms["decision"] == "overrule", "path"].tolist()
    assert listed(page)[0].endswith(", overrule")
    page.get_by_label("Decision", exact=True).select_option("")
    page.get_by_label("Severity").select_option("exclude")
    assert paths(page) == sorted(alarms.loc[alarms["severity"] == "exclude", "path"])
    page.get_by_label("Status of the image").select_option("excluded")
    excluded = set(read(checked / "manifest.csv").query("status == 'excluded'")["path"])
    assert set(paths(page)) == excluded
    page.get_by_label("Machine").select_option(index=1)
    machine = page.get_by_label("Machine").input_value()
    assert 0 < page.get_by_text(f" · machine {machine} · ").count() or not listed(page)
    page.get_by_label("Path").fill("no such image")
    assert not listed(page) and page.get_by_text("No alarm passes these filters").is_visible()


def test_keys_walk_decide_and_undo(page, checked):
    order, decided = listed(page), (read(checked / "alarms.csv")["decision"] != "").sum()
    assert current(page) == order[0]
    for key, place in [("j", 1), ("ArrowRight", 2), ("k", 1), ("ArrowLeft", 0), ("ArrowLeft", 0),
                       ("End", len(order) - 1), ("Home", 0), ("ArrowDown", 3), ("ArrowUp", 0)]:
        page.keyboard.press(key)
        assert current(page) == order[place], key
    page.get_by_label("Path").fill("j")  # typing is no command
    page.get_by_label("Path").fill("")
    page.keyboard.press("Escape")

    def progress() -> int: return int(page.get_by_text(re.compile("of .* decided")).text_content().split(" of ")[0])

    assert progress() == decided
    page.keyboard.press("Home")
    while not current(page).endswith("undecided"): page.keyboard.press("j")
    place = listed(page).index(current(page))
    page.keyboard.press("a")
    assert progress() == decided + 1 and listed(page)[place].endswith(", accept")
    assert current(page) == order[place + 1]
    page.keyboard.press("u")
    assert progress() == decided and current(page) == order[place]
    page.get_by_role("button", name="Overrule").click()
    page.get_by_role("button", name="Previous alarm").click()
    assert page.get_by_role("button", name="Overrule").get_attribute("aria-pressed") == "true"
    page.keyboard.press("c")
    assert progress() == decided


def test_decisions_are_saved_kept_and_loaded(visit, checked, tmp_path):
    html, (rule, _) = report(checked, html=tmp_path / "page.html").html, scored(checked)
    page = visit(html, 9000)
    before = {(path, rule): d for path, rule, d in save(page).to_numpy()}
    alarms = read(checked / "alarms.csv")
    assert before == alarms[alarms["decision"] != ""].set_index(["path", "rule"])["decision"].to_dict()
    choose(page, rule)
    page.get_by_label("Decision", exact=True).select_option("undecided")
    undecided = paths(page)
    for key in "aoa": page.keyboard.press(key)  # each leaves the list as it is decided
    assert paths(page) == undecided[3:]
    page.keyboard.press("u")
    assert paths(page) == undecided[2:]
    saved = save(page)
    assert list(saved) == ["path", "rule", "decision"]
    after = {(path, rule): d for path, rule, d in saved.to_numpy()}
    assert after == before | {(undecided[0], rule): "accept", (undecided[1], rule): "overrule"}
    page.reload()
    counts = f"{len(after)} of {len(alarms)} decided"
    assert page.get_by_text(counts).is_visible() and save(page).equals(saved)

    file, other = tmp_path / "d.csv", shutil.copytree(checked, tmp_path / "other")
    saved.to_csv(file, index=False)
    with open(file, "a") as f: f.write("elsewhere.dcm,circle,accept\r\n")
    (other / "settings.json").write_text("{}")  # another digest: nothing is kept for it
    page = visit(report(other).html)
    assert page.get_by_text(f"{len(before)} of {len(alarms)} decided").is_visible()
    page.get_by_label("A CSV file of decisions").set_input_files(file)
    page.get_by_text(counts).wait_for()
    assert page.get_by_text(f"{len(after) + 1} decisions loaded from d.csv; 1 of them").is_visible()
    expected = pd.read_csv(file).to_numpy().tolist()
    assert sorted(save(page).to_numpy().tolist()) == sorted(expected)
    (tmp_path / "wrong.csv").write_text("path,rule\na,b\n")
    page.get_by_label("A CSV file of decisions").set_input_files(tmp_path / "wrong.csv")
    page.get_by_text("expected the columns path, rule, decision; found path, rule").wait_for()


def test_an_overruled_image_is_trained_on_again(visit, faulty, checked, tmp_path):
    "From the alarm to the report after next: overruled by a key, saved by a download, fed back, shown."
    out = shutil.copytree(checked, tmp_path / "out")
    manifest = read(out / "manifest.csv").set_index("path")
    page = visit(report(out).html)
    page.get_by_label("Severity").select_option("exclude")
    page.get_by_label("Status of the image").select_option("excluded")
    [path] = manifest[(manifest["status"] == "excluded") & (manifest["length"] > 0)].index[:1]
    page.get_by_label("Path").fill(path)
    page.get_by_label("Status of the image").focus()  # where it is after a choice: keys work all the same
    for _ in range(rules := len(listed(page))): page.keyboard.press("o")
    with page.expect_download() as download: page.keyboard.press("s")
    download.value.save_as(tmp_path / "decisions.csv")

    prepare(faulty, out, tmp_path / "decisions.csv")
    now = read(out / "manifest.csv").set_index("path")
    assert now.loc[path, "status"] == "ok" and now.drop(path)["status"].equals(manifest.drop(path)["status"])
    page = visit(report(out).html)
    page.get_by_label("Path").fill(path)
    page.get_by_label("Severity").select_option("exclude")
    assert len(listed(page)) == rules and all(name.endswith(", overrule") for name in listed(page))
    assert page.get_by_role("button", name="Overrule o").get_attribute("aria-pressed") == "true"
    assert page.get_by_role("region", name="Current alarm").get_by_text("ok · ").is_visible()


def test_a_page_without_memory_still_works(visit, checked, tmp_path):
    "Some browsers keep nothing for files."
    html = report(checked, html=tmp_path / "page.html").html
    page = visit(html)
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw Error('no') }})")
    page.reload()
    page.keyboard.press("a")
    assert page.get_by_text("keeps nothing between visits").is_visible() and len(save(page)) >= 2


def test_nothing_of_a_name_is_run(visit, nasty):
    page = visit(report(nasty).html)
    assert paths(page)[0] == NASTY and page.get_by_text(NASTY).first.is_visible()
    for _ in range(5): page.keyboard.press("j")
    page.get_by_role("tab", name="Summary").click()
    assert page.get_by_text(BROKEN).is_visible()
    assert page.evaluate("window.hacked") is None and page.locator("img[src=x]").count() == 0
    assert page.locator("script").count() == 3


def test_box_lies_where_it_should(page, checked):
    alarms = read(checked / "alarms.csv").dropna(subset=["top"])
    at = alarms.iloc[(alarms["bottom"] - alarms["top"]).argmax()]
    height, width = read(checked / "manifest.csv").set_index("path").loc[at["path"], ["source_height", "source_width"]]
    page.set_viewport_size({"width": 1280, "height": 800})
    page.get_by_label("Path").fill(at["path"])
    choose(page, at["rule"])
    region = page.get_by_role("region", name="Current alarm")
    picture, box = region.locator("img").bounding_box(), region.locator("rect.over").bounding_box()
    share = picture["height"] / height
    for side, start, end, length in (("y", "top", "bottom", "height"), ("x", "left", "right", "width")):
        assert box[side] - picture[side] == pytest.approx(at[start] * share, abs=4)
        assert box[length] == pytest.approx((at[end] - at[start]) * share, abs=4)
    assert picture["width"] / picture["height"] == pytest.approx(width / height, abs=.01)


def test_the_summary_counts_and_leads_back(page, checked):
    rule, alarms = scored(checked)
    decided = Counter(alarms["decision"])
    page.get_by_role("tab", name="Summary").click()
    row = page.get_by_role("row", name=rule.replace("_", " "))
    yes, no = decided["accept"], decided["overrule"]
    assert row.get_by_role("cell").all_text_contents() == [
        rule.replace("_", " "), alarms["severity"].iloc[0], RULES[rule].meaning,
        f"{RULES[rule].threshold:g} {RULES[rule].unit}", str(len(alarms)), str(yes), str(no),
        f"{100 * yes / (yes + no):.0f} %" if yes + no else "–"]
    row.get_by_role("button").click()
    assert len(listed(page)) == len(alarms)


def test_the_friendly_page(visit, prepared, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(prepared, out)
    (out / "alarms.csv").write_text(",".join(alarm("", "", 0, 0)) + "\n")
    page = visit(report(out).html)
    assert page.get_by_text("No rule fired").is_visible() and page.get_by_text("Transfer syntax").is_visible()
    assert not page.get_by_role("button", name="Save decisions").is_visible()


def test_5000_images_are_filtered_and_sorted_at_once(visit, many):
    page = visit(many)
    milliseconds = """async e => {
        const start = performance.now();
        e.tagName === "SELECT" ? e.dispatchEvent(new Event("change")) : e.click();
        await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
        return performance.now() - start;
    }"""
    rules = page.get_by_role("group", name="Rule")
    for rule in ("stripes", "circle", "all rules"):
        times = []
        for _ in range(3):
            rules.get_by_role("button").first.click()
            times.append(rules.get_by_role("button", name=rule).evaluate(milliseconds))
        assert min(times) < 300, (rule, times)
    order = page.get_by_label("Sort by")
    for value in ("path", "high", "excess"):
        times = [order.evaluate(f"e => {{ e.value = '{value}'; return ({milliseconds})(e) }}") for _ in range(3)]
        assert min(times) < 300, (value, times)
    cards = page.get_by_role("listbox", name="Alarms").get_by_role("option")
    assert 6 < cards.count() < 60 and page.locator("img").count() < 60
