from __future__ import annotations

import base64
import os
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

import kinn.report.page
from kinn.cli import main
from kinn.report import export, write_report


class Reader(HTMLParser):
    """Collects what a browser would load, and checks that elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.sources: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag == "img":
            self.images.append(given)
        self.addresses += [given[name] for name in ("src", "href", "srcset") if name in given]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def without_pictures(records):
    return [{**record, "curves": {}, "fields": []} for record in records]


@pytest.fixture(scope="module")
def page(demo, tmp_path_factory):
    return Reader(write_report(demo, tmp_path_factory.mktemp("report")).read_text(encoding="utf-8"))


def test_one_image_for_each_figure(page):
    # Navier-Stokes: rollout fields, losses, rollout error, spectrum; Poisson: two samples, losses, spectrum
    assert len(page.images) == 8
    assert page.tags.count("figcaption") == 8
    assert not page.open


def test_every_image_is_whole_and_described(page):
    for image in page.images:
        assert len(image["alt"]) > 40
        kind, content = re.fullmatch(r"data:image/(png|svg\+xml);base64,(.+)", image["src"]).groups()  # pyright: ignore
        content = base64.b64decode(content)
        assert content.startswith(b"\x89PNG") if kind == "png" else ElementTree.fromstring(content).tag.endswith("svg")
    light, dark = page.addresses[-2:]
    assert light != dark


def test_page_loads_nothing(page):
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_page_says_what_happened(page):
    for text in (
        "Ours was worse: the baseline FNO (0.0481)",
        "Ours was better: UKNO K=2 (0.0187)",
        "kinn reproduce demo --seed 0",
        "AMD EPYC 7B13",
        "2.13.0",
        "2026-03-14",
        "learning rate",
        "The Euclidean norm of the error divided by that of the truth",
        "0.0101",
    ):
        assert text in page.text


def test_names_that_share_their_letters_do_not_share_files(records, tmp_path):
    names = "渦", "流れ", "test_1", "test-1"
    runs = [{**record, "experiment": name} for name in names for record in records[:2]]
    paths = export(runs, tmp_path)
    assert len({*paths}) == len(paths) > 4 * 10


def test_a_factors_name_leads_to_no_other_folder(records, tmp_path):
    runs = [
        {**record, "variant": f"V{i}", "factor": {"name": "../../a/b: c", "value": i}}
        for i, record in enumerate(records[:2])
    ]
    paths = export(runs, tmp_path / "deep" / "paper")
    assert {path.parent for path in paths} == {tmp_path / "deep" / "paper"}
    assert "demo-poisson-a-b-c.svg" in {path.name for path in paths}


def test_hostile_names_are_text(records, tmp_path):
    evil = '<script>alert("1")</script> $\\frac$ {{ 7*7 }} & '
    for record in records:
        record["title"] = record["budget"] = record["command"] = evil
        record["data"] = {evil: evil}
        record["hardware"] = {evil: [evil]}
    records[1]["variant"] = records[1]["fields"][0]["label"] = evil
    page = Reader(write_report(records, tmp_path).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert evil in page.text
    assert any(evil.strip() in image["alt"] for image in page.images)


def test_records_without_curves_and_fields_still_make_a_page(records, tmp_path):
    required = ("schema", "experiment", "variant", "role", "seed", "primary_metric", "metrics")
    bare = [{key: record[key] for key in required} for record in records]
    page = Reader(write_report(bare, tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert page.images == []
    assert "Ours was worse" in page.text


def test_a_part_of_the_runs_is_enough(records, save):
    folder = save(without_pictures(records[1:3]))
    page = Reader(write_report(folder, folder).read_text(encoding="utf-8"))
    assert "No baseline was trained." in page.text
    assert "No Kirchhoff variant was trained." in page.text


def test_overview_comes_before_its_experiments(tables, tmp_path):
    text = write_report(without_pictures(tables("ns-rollout")), tmp_path).read_text(encoding="utf-8")
    anchors = re.findall(r'<section id="([^"]+)"', text)
    assert anchors[:4] == ["ns-rollout-small-overview", *(f"ns-rollout-unroll-{n}-small" for n in (3, 5, 10))]
    assert re.findall(r'href="#([^"]+)"', text) == anchors[:4]
    assert "ours was better in 2 of 3" in Reader(text).text


def test_ratios_resolutions_and_notes_are_on_the_page(tables, tmp_path):
    page = Reader(write_report(without_pictures(tables("darcy")), tmp_path).read_text(encoding="utf-8"))
    for text in ("(paper: 4.5× lower)", "32 (training)", "snapshots of a transient", "128 vs 32"):
        assert text in page.text
    costs, resolutions = page.images
    assert "parameters" in costs["alt"]
    assert "resolution" in resolutions["alt"]


def test_export_writes_figures_and_tables(records, tmp_path):
    paths = export(records[:2], tmp_path / "paper")
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "paper").iterdir())
    figures = ("fields-1", "fields-2", "losses", "spectrum")
    names = {f"demo-poisson-{figure}.{kind}" for figure in figures for kind in ("svg", "pdf", "png", "txt")}
    names |= {f"demo-poisson{part}.{kind}" for part in ("", "-metrics") for kind in ("md", "tex")}
    assert {path.name for path in paths} == names
    starts = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}
    for path in paths:
        assert path.read_bytes().startswith(starts.get(path.suffix[1:], b""))


def test_export_writes_overviews_and_resolutions_the_same_each_time(tables, tmp_path):
    records = without_pictures([*tables("ns-rollout"), *tables("darcy")])
    first, second = ({p.name: p.read_bytes() for p in export(records, tmp_path / name)} for name in "ab")
    assert first == second
    assert {
        "ns-rollout-small-overview.tex",
        "darcy-small-resolutions.md",
        "darcy-small-resolutions.pdf",
    } <= first.keys()
    assert rb"\toprule" in first["darcy-small-resolutions.tex"]


def test_command_writes_the_page_and_the_files_for_a_paper(records, save, tmp_path, capsys):
    folder = save(without_pictures(records[:2]))
    assert main(["report", str(folder), "--paper", str(tmp_path / "paper")]) == 0
    written = {path.name for path in (tmp_path / "paper").iterdir()}
    assert written == {f"demo-poisson{part}.{kind}" for part in ("", "-metrics") for kind in ("md", "tex")}
    assert (folder / "report.html").exists()
    assert f"4 files in {tmp_path / 'paper'}" in capsys.readouterr().out


def test_failure_leaves_the_old_page_and_no_litter(records, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_report(without_pictures(records[:1]), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_extra_is_named(records, tmp_path, monkeypatch):
    monkeypatch.setattr(kinn.report.page, "find_spec", lambda name: None if name == "jinja2" else object())
    for function in (write_report, export):
        with pytest.raises(ImportError, match=r"reports need jinja2: pip install kinn-torch\[report\]"):
            function(records, tmp_path)
