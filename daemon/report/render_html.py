"""A report as one self-contained HTML page: no script, nothing loaded from anywhere.

Every text that is not written here passes through `html.escape`: part numbers and lots come from
the wire. Plots are data URIs, so that their ids cannot meet each other.
"""

import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from zoneinfo import ZoneInfo

from daemon.core import LabelVerdict
from daemon.report import words
from daemon.report.contents import GalleryItem, ShiftReport, VerdictCounts
from daemon.report.page_style import STYLE
from daemon.report.plots import latency_plot, score_plot, verdict_plot
from daemon.report.words import NO_VALUE, REASON_WORDS, clean, clock, count, percent

MAX_PARETO_ROWS = 12
MAX_SCORE_PLOTS = 12
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_html(report: ShiftReport, path: Path) -> None:
    """Write the page; a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(render_html(report))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def render_html(report: ShiftReport) -> str:
    """The whole page."""
    title = f"Line {report.line} – {report.window.title}"  # noqa: RUF001
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{''.join(_sections(report))}</main>\n</body>\n</html>\n"
    )


def _sections(report: ShiftReport) -> Iterator[str]:
    yield _header(report)
    yield _banners(report)
    if not report.is_empty:
        yield _tiles(report)
        yield _hours(report)
        yield _ledger(report)
        yield _not_inspected(report)
        yield _gallery(report)
        yield _groups(report)
        yield _pareto(report)
        yield _scores(report)
        yield _latency(report)
        yield _labels(report)
    yield _nights(report)
    yield _history(report)
    yield _footer(report)


def _header(report: ShiftReport) -> str:
    facts = (
        (
            "Planned" if report.window.shift_name else "Window",
            words.planned_times(report.window),
        ),
        ("First to last frame", words.actual_times(report)),
        ("Time zone", report.window.zone),
    )
    items = "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts)
    return (
        f'<header><div class="line">Line {_text(report.line)} · shift report</div>'
        f"<h1>{_text(report.window.title)}</h1><dl>{items}</dl></header>\n"
    )


def _banners(report: ShiftReport) -> str:
    mark, style = ("✓", "good") if report.is_ledger_balanced else ("✗", "bad")
    sentence = _text(words.ledger_sentence(report))
    found = f'<p class="banner {style}">{mark} {sentence}</p>\n'
    if report.is_running:
        when = clock(report.created_utc, report.window)
        found += f'<p class="banner wait">Not over yet: these are the figures of {when}.</p>\n'
    crashes = sum(run.has_crashed for run in report.daemon_runs)
    if crashes:
        found += (
            '<p class="banner wait">The daemon ended without a clean stop '
            f"{'once' if crashes == 1 else f'{crashes} times'}; see “What changed”.</p>\n"
        )
    return found


def _tiles(report: ShiftReport) -> str:
    totals = report.totals
    lost = report.received - totals.inspected
    tiles = [
        ("brand", "Inspected", count(totals.inspected), f"of {count(report.received)} received"),
        ("ok", "OK", count(totals.ok), f"{percent(totals.yield_rate)} {words.yield_name(report)}"),
        ("ng", "NG", count(totals.ng), words.ppm(totals.ppm_defective)),
        ("review", "Review", count(totals.review), words.open_review(report)),
        ("error", "Not inspected", count(lost + report.gaps), f"{count(report.gaps)} in gaps"),
    ]
    if totals.learning:
        tiles.insert(4, ("", "Learning", count(totals.learning), "not judged"))
    if report.parts and words.has_part_for_every_frame(report):
        more = f"FPY of {count(report.parts.parts)} parts"
        tiles.insert(2, ("ok", "First pass", percent(report.parts.first_pass_yield), more))
    if report.latency:
        p99 = f"p99 {words.milliseconds(report.latency[0].p99_ms)}"
        p50 = words.milliseconds(report.latency[0].p50_ms)
        tiles.append(("brand", "Frame to verdict", p50, f"median; {p99}"))
    return '<div class="tiles">' + "".join(_tile(*tile) for tile in tiles) + "</div>\n"


def _tile(style: str, name: str, value: str, more: str) -> str:
    return (
        f'<div class="tile {style}"><div class="name">{_text(name)}</div>'
        f'<div class="value">{_text(value)}</div><div class="more">{_text(more)}</div></div>'
    )


def _hours(report: ShiftReport) -> str:
    picture = _plot(verdict_plot(report), "Frames over time by verdict")
    heading = "Hour by hour" if report.slices == report.hours else "Over time"
    return f"<h2>{heading}</h2>\n{picture}"


def _ledger(report: ShiftReport) -> str:
    rows = []
    for row in report.ledger:
        mark = "✗" if row.mismatches else "✓"
        rows.append(
            (
                "bad" if row.mismatches else "",
                _cells(
                    row.camera,
                    row.sent,
                    row.gaps,
                    row.received,
                    row.counts.inspected,
                    row.lost_frames,
                    row.sent - row.accounted,
                )
                + f'<td><span class="mark">{mark}</span></td>',
            )
        )
    notes = "".join(
        f'<p class="note">{_text(row.camera)}: {_text(note)}.</p>\n'
        for row in report.ledger
        if (note := words.edges(row))
    )
    table = _table(
        ("Camera",),
        ("Known sent", "Gaps", "Received", "Inspected", "Lost", "Unaccounted"),
        rows,
        last="",
    )
    return (
        f"<h2>Where every frame went</h2>\n{table}"
        '<p class="note">Sent = received + gaps; received = inspected + lost. “Known sent” is '
        "counted independently, from the running numbers of each camera; “unaccounted” are "
        f"numbers without any record.</p>\n{notes}"
    )


def _not_inspected(report: ShiftReport) -> str:
    if not report.not_inspected:
        return ""
    most = report.not_inspected[0].frames
    rows = [
        (
            "",
            _cells(loss.reason.value, REASON_WORDS[loss.reason], loss.frames)
            + f'<td style="width:34%">{_bar(loss.frames / most)}</td>',
        )
        for loss in report.not_inspected
    ]
    table = _table(("Reason", "Meaning"), ("Frames",), rows, last="")
    return f"<h2>Not inspected, and why</h2>\n{table}"


def _groups(report: ShiftReport) -> str:
    rows = [("", _group_cells(g.camera, g.category, g.counts)) for g in report.groups]
    if len(rows) > 1:
        rows.append(("sum", _group_cells("All", "", report.totals)))
    table = _table(
        ("Camera", "Category"),
        (
            "Inspected",
            "OK",
            "NG",
            "REVIEW",
            "LEARNING",
            "ERROR",
            words.yield_name(report),
            "ppm defective",
        ),
        rows,
    )
    parts = (
        f'<p class="note">{_text(words.parts_sentence(report.parts))}</p>\n' if report.parts else ""
    )
    return (
        f"<h2>By camera and category</h2>\n{table}{parts}"
        f'<p class="note">{_text(words.RATES_NOTE)}</p>\n'
    )


def _group_cells(camera: str, category: str, counts: VerdictCounts) -> str:
    ppm = counts.ppm_defective
    return _cells(
        camera,
        category,
        counts.inspected,
        counts.ok,
        counts.ng,
        counts.review,
        counts.learning,
        counts.error,
    ) + (
        f'<td class="n">{percent(counts.yield_rate)}</td>'
        f'<td class="n">{NO_VALUE if ppm is None else count(round(ppm))}</td>'
    )


def _pareto(report: ShiftReport) -> str:
    if not report.pareto:
        return ""
    total = sum(row.frames for row in report.pareto)
    most = report.pareto[0].frames
    rows = []
    seen = 0
    for row in report.pareto[:MAX_PARETO_ROWS]:
        seen += row.frames
        rows.append(
            (
                "",
                _cells(row.camera, row.category, row.place, row.size, row.frames)
                + f'<td class="n">{percent(seen / total, 1)}</td>'
                + f'<td style="width:22%">{_bar(row.frames / most)}</td>',
            )
        )
    if seen < total:
        cells = _cells("Others", "", "", "", total - seen)
        rows.append(("sum", f'{cells}<td class="n">{percent(1.0, 1)}</td><td></td>'))
    table = _table(
        ("Camera", "Category", "Place", "Size"), ("NG frames", "Cumulated"), rows, last=""
    )
    return (
        f"<h2>Where NG frames are defective</h2>\n{table}"
        f'<p class="note">{_text(words.PARETO_NOTE)}</p>\n'
    )


def _scores(report: ShiftReport) -> str:
    if not report.scores:
        return ""
    categories = list(dict.fromkeys(summary.category for summary in report.scores))
    plots = "".join(
        f"<h3>{_text(category)}</h3>\n"
        + _plot(score_plot(report, category), f"Scores of {category} over time with thresholds")
        for category in categories[:MAX_SCORE_PLOTS]
    )
    rows = [
        (
            "",
            _cells(
                summary.category,
                summary.model_version,
                clock(summary.from_utc, report.window),
                summary.frames,
            )
            + "".join(
                f'<td class="n">{words.score(value)}</td>'
                for value in (
                    summary.p50,
                    summary.p95,
                    summary.review_threshold,
                    summary.ng_threshold,
                )
            ),
        )
        for summary in report.scores
    ]
    table = _table(
        ("Category", "Model version", "From"),
        ("Frames", "p50", "p95", "REVIEW from", "NG from"),
        rows,
    )
    return (
        f"<h2>Scores against the thresholds in force</h2>\n{plots}{table}"
        '<p class="note">Raw scores in [0, 1], higher is more anomalous; a row without '
        "thresholds is a category still learning. Scores of two model versions or categories do "
        "not compare. The plots show an even sample of the frames.</p>\n"
    )


def _latency(report: ShiftReport) -> str:
    if not report.latency:
        return ""
    rows = [
        (
            "sum" if latency.camera is None else "",
            _cells(latency.camera or "All", latency.frames)
            + "".join(
                f'<td class="n">{words.milliseconds(value)}</td>'
                for value in (latency.p50_ms, latency.p99_ms, latency.max_ms)
            ),
        )
        for latency in (*report.latency[1:], report.latency[0])
    ]
    table = _table(("Camera",), ("Frames", "p50", "p99", "Longest"), rows)
    picture = _plot(latency_plot(report.latency[0]), "Histogram of frame-to-verdict times")
    return (
        '<h2>Frame to verdict</h2>\n<div class="two">'
        f"<div>{picture}</div><div>{table}"
        '<p class="note">From receipt of the frame to its verdict.</p></div></div>\n'
    )


def _gallery(report: ShiftReport) -> str:
    if not report.gallery:
        return ""
    figures = "".join(_figure(item, report) for item in report.gallery)
    return (
        "<h2>Worst frames</h2>\n"
        '<p class="note">Highest scores of each category, NG then REVIEW: the photo, and the '
        f'detector’s heat map over it.</p>\n<div class="gallery">{figures}</div>\n'  # noqa: RUF001
    )


def _figure(item: GalleryItem, report: ShiftReport) -> str:
    if item.photo_jpeg is None or item.overlay_jpeg is None:
        pictures = '<div class="none">no picture stored</div>'
    else:
        pictures = (
            f'<div class="pair"><img src="{_data_uri("image/jpeg", item.photo_jpeg)}" alt="photo">'
            f'<img src="{_data_uri("image/jpeg", item.overlay_jpeg)}" alt="heat map"></div>'
        )
    marks = [f"part {item.part_id}"] if item.part_id else []
    marks += [f"lot {item.lot}"] if item.lot else []
    known = f"<br>{_text(', '.join(marks))}" if marks else ""
    local = item.received_utc.astimezone(ZoneInfo(report.window.zone))
    return (
        f'<figure>{pictures}<figcaption><span class="badge {item.verdict.lower()}">'
        f"{item.verdict}</span><b>{words.score(item.pred_score)}</b> "
        f"(NG from {words.score(item.ng_threshold)})<br>"
        f"{_text(item.camera)} · {_text(item.category)} · {local:%Y-%m-%d %H:%M:%S}"
        f"<br>inspection {item.inspection_id}{known}</figcaption></figure>"
    )


def _labels(report: ShiftReport) -> str:
    agreement = report.agreement
    if agreement is None:
        return ""
    rows = [
        ("", _cells(verdict.value, *(frames[label] for label in LabelVerdict)))
        for verdict, frames in words.by_verdict(agreement)
    ]
    table = _table(("Verdict",), tuple(f"Label {label}" for label in LabelVerdict), rows)
    said = (words.review_sentence(agreement), *words.error_sentences(agreement))
    sentences = "".join(f"<li>{_text(sentence)}</li>\n" for sentence in said)
    return (
        f"<h2>Labels against verdicts</h2>\n{table}<ul>\n{sentences}</ul>\n"
        f'<p class="note">{_text(words.LABELS_NOTE)}</p>\n'
    )


def _nights(report: ShiftReport) -> str:
    if not report.nights:
        return ""
    rows = [
        (
            "bad" if night.state == "failed" else "",
            _cells(
                clock(night.due_utc, report.window, seconds=False),
                clock(night.ended_utc, report.window, seconds=False),
                night.state,
                night.candidate or NO_VALUE,
                words.night_text(night),
            ),
        )
        for night in report.nights
    ]
    table = _table(("Due", "Ended", "Outcome", "Candidate", ""), (), rows)
    return f"<h2>What the night did</h2>\n{table}"


def _history(report: ShiftReport) -> str:
    events = sorted(words.events(report), key=lambda event: event.at_utc)
    if not events:
        return ""
    rows = [
        (
            "bad" if event.is_bad else "",
            _cells(clock(event.at_utc, report.window), event.name, event.text),
        )
        for event in events
    ]
    return f"<h2>What changed</h2>\n{_table(('Time', 'What', ''), (), rows)}"


def _footer(report: ShiftReport) -> str:
    made = report.created_utc.astimezone(ZoneInfo(report.window.zone))
    return f"<footer>Made {made:%Y-%m-%d %H:%M:%S %Z} by zsad.</footer>\n"


def _table(
    texts: Sequence[str],
    numbers: Sequence[str],
    rows: Iterable[tuple[str, str]],
    *,
    last: str | None = None,
) -> str:
    """A table from headings and ready (row class, cells) pairs; `last` is one more heading."""
    head = "".join(f"<th>{_text(name)}</th>" for name in texts)
    head += "".join(f'<th class="n">{_text(name)}</th>' for name in numbers)
    head += "" if last is None else f"<th>{_text(last)}</th>"
    body = "".join(f'<tr class="{style}">{cells}</tr>\n' for style, cells in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def _cells(*values: str | int) -> str:
    return "".join(
        f"<td>{_text(value)}</td>"
        if isinstance(value, str)
        else f'<td class="n">{count(value)}</td>'
        for value in values
    )


def _bar(share: float) -> str:
    return f'<span class="bar" style="width:{100 * share:.1f}%"></span>'


def _plot(svg: str, description: str) -> str:
    source = _data_uri("image/svg+xml", svg.encode())
    return f'<img class="plot" src="{source}" alt="{_text(description)}">\n'


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"


def _text(text: str) -> str:
    return escape(clean(text), quote=True)
