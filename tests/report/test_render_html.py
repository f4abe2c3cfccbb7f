import re
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from daemon.report.render_html import render_html, write_html
from daemon.report.shift import build_shift_report, build_window_report

DAY = date(2026, 1, 31)
LATER = datetime(2026, 2, 1, tzinfo=UTC)


class Page(HTMLParser):
    """Collects tags, the addresses they load, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_of_a_busy_shift_loads_nothing_and_shows_its_figures(
    busy_line: Any, tmp_path: Path
) -> None:
    report = build_shift_report(busy_line.engine, busy_line.config, DAY, "early", now=LATER)
    path = tmp_path / "report.html"

    write_html(report, path)

    page = Page(path.read_text(encoding="utf-8"))
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "Every frame is accounted for" in page.text
    assert page.tags.count("figure") == 24
    assert [file.name for file in tmp_path.glob("*.html")] == ["report.html"]
    assert not list(tmp_path.glob(".report*"))
    assert path.stat().st_size < 2_000_000


def test_text_from_the_wire_cannot_become_markup(sqlite_line: Any) -> None:
    attack = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>\x1b[31m"
    model = sqlite_line.model(attack)
    sqlite_line.frame("NG", model=model, score=0.9, part_id=attack, lot=attack)
    sqlite_line.loss("unknown_camera", camera=attack)

    report = build_shift_report(sqlite_line.engine, sqlite_line.config, DAY, "early", now=LATER)
    text = render_html(report)

    page = Page(text)
    assert "script" not in page.tags
    assert all(address.startswith("data:") for address in page.addresses)
    assert "<script" not in text
    assert "\x1b" not in text
    assert "part <script>alert('x')</script>" in page.text


def test_empty_shift_says_so(sqlite_line: Any) -> None:
    report = build_shift_report(sqlite_line.engine, sqlite_line.config, DAY, "early", now=LATER)

    page = Page(render_html(report))

    assert "No frames were received" in page.text
    assert "img" not in page.tags


def test_mismatch_is_loud(sqlite_line: Any) -> None:
    model = sqlite_line.model("v1")
    sqlite_line.frame("OK", model=model, score=0.1, seq=0)
    sqlite_line.frame("OK", model=model, score=0.1, seq=5)

    report = build_shift_report(sqlite_line.engine, sqlite_line.config, DAY, "early", now=LATER)
    text = render_html(report)

    assert re.search(r'class="banner bad">✗ The ledger does not add up: cam1: of 6', text)
    assert '<tr class="bad">' in text


def test_running_shift_is_marked_as_not_final(sqlite_line: Any) -> None:
    report = build_shift_report(
        sqlite_line.engine, sqlite_line.config, DAY, "early", now=sqlite_line.at(30)
    )

    assert "Not over yet" in render_html(report)


def test_window_of_a_minute_has_a_page_too(busy_line: Any, tmp_path: Path) -> None:
    report = build_window_report(
        busy_line.engine,
        busy_line.config,
        busy_line.at(119.5),
        busy_line.at(121),
        "Demo",
        now=LATER,
    )

    write_html(report, tmp_path / "report.html")

    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "2026-01-31 07:59 CET to 08:01 CET (1.5 min)" in page.text
    assert "Every frame is accounted for" in page.text
