"""Prints a report to a terminal 100 columns wide."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.core import LabelVerdict
from daemon.report import words
from daemon.report.contents import Agreement, HourCounts, ShiftReport, VerdictCounts
from daemon.report.words import NO_VALUE, REASON_WORDS, clean, clock, count, percent

_MAX_PARETO_ROWS = 12
_MAX_EVENTS = 40


def render_terminal(report: ShiftReport, console: Console) -> None:
    """Print the report; text from the wire is never read as markup."""
    window = report.window
    console.print(Text(f"Line {report.line} · {window.title}", style="bold"))
    name = "Planned" if window.shift_name else "Window "
    console.print(Text(f"{name}  {words.planned_times(window)}, {window.zone}"))
    console.print(Text(f"Frames   {words.actual_times(report)}"))
    if report.is_running:
        console.print(Text("Not over yet: the figures are not final.", style="yellow"))
    console.print(
        Text(
            ("✓ " if report.is_ledger_balanced else "✗ ") + words.ledger_sentence(report),
            style="green" if report.is_ledger_balanced else "bold white on red",
        )
    )
    if not report.is_empty:
        _print_figures(report, console)
    if report.nights:
        console.print(_nights(report))
    _print_history(report, console)


def _print_figures(report: ShiftReport, console: Console) -> None:
    console.print(_groups(report))
    console.print(Text(words.RATES_NOTE, style="dim"))
    if report.parts is not None:
        console.print(Text(words.parts_sentence(report.parts)))
    console.print(_ledger(report))
    for row in report.ledger:
        if note := words.edges(row):
            console.print(Text(f"{clean(row.camera)}: {note}", style="dim"))
    if report.not_inspected:
        console.print(_not_inspected(report))
    console.print(_hours(report))
    if report.scores:
        console.print(_scores(report))
    if report.latency:
        console.print(_latency(report))
    if report.pareto:
        console.print(_pareto(report))
        console.print(Text(words.PARETO_NOTE, style="dim"))
    if report.agreement is not None:
        console.print(_labels(report.agreement))
        console.print(Text(words.LABELS_NOTE, style="dim"))
        console.print(Text(words.review_sentence(report.agreement)))
        for sentence in words.error_sentences(report.agreement):
            console.print(Text(sentence))


def _table(title: str, *text_columns: str, numbers: tuple[str, ...] = ()) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,  # no borders: a serial console has 80 columns
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in text_columns:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _row(table: Table, *cells: str, style: str | None = None) -> None:
    table.add_row(*(Text(clean(cell)) for cell in cells), style=style)


def _verdict_cells(counts: VerdictCounts) -> tuple[str, ...]:
    numbers = (counts.ok, counts.ng, counts.review, counts.learning, counts.error)
    return tuple(count(number) for number in numbers)


def _groups(report: ShiftReport) -> Table:
    table = _table(
        "Verdicts",
        "camera",
        "category",
        numbers=(
            "inspected",
            "OK",
            "NG",
            "REVIEW",
            "LEARN",
            "ERROR",
            words.yield_name(report),
            "ppm",
        ),
    )
    rows = [(group.camera, group.category, group.counts) for group in report.groups]
    for camera, category, counts in [*rows, ("all", "", report.totals)]:
        _row(
            table,
            camera,
            category,
            count(counts.inspected),
            *_verdict_cells(counts),
            percent(counts.yield_rate),
            NO_VALUE if counts.ppm_defective is None else count(round(counts.ppm_defective)),
            style="bold" if not category else None,
        )
    return table


def _ledger(report: ShiftReport) -> Table:
    table = _table(
        "Ledger: sent = received + gaps, received = inspected + lost",
        "camera",
        numbers=("known sent", "gaps", "received", "inspected", "lost", "unaccounted", ""),
    )
    for row in report.ledger:
        is_right = not row.mismatches
        _row(
            table,
            row.camera,
            count(row.sent),
            count(row.gaps),
            count(row.received),
            count(row.counts.inspected),
            count(row.lost_frames),
            count(row.sent - row.accounted),
            "✓" if is_right else "✗",
            style=None if is_right else "bold red",
        )
    return table


def _not_inspected(report: ShiftReport) -> Table:
    table = _table("Not inspected, and why", "reason", "", numbers=("frames",))
    for loss in report.not_inspected:
        _row(table, loss.reason.value, REASON_WORDS[loss.reason], count(loss.frames))
    return table


def _hours(report: ShiftReport) -> Table:
    table = _table(
        f"Hours ({report.window.zone})",
        "hour",
        numbers=("OK", "NG", "REVIEW", "LEARN", "ERROR", "lost", "gaps", "yield"),
    )
    for hour in report.hours:
        _row(
            table,
            _hour_name(hour, report),
            *_verdict_cells(hour.counts),
            count(hour.lost),
            count(hour.gap),
            percent(hour.counts.yield_rate),
        )
    return table


def _hour_name(hour: HourCounts, report: ShiftReport) -> str:
    day = clock(hour.start_utc, report.window, seconds=False)[:-5]  # without HH:MM
    return f"{day}{hour.label}"


def _scores(report: ShiftReport) -> Table:
    table = _table(
        "Scores against the thresholds in force",
        "category",
        "model",
        "from",
        numbers=("frames", "p50", "p95", "REVIEW from", "NG from"),
    )
    for summary in report.scores:
        _row(
            table,
            summary.category,
            summary.model_version,
            clock(summary.from_utc, report.window),
            count(summary.frames),
            words.score(summary.p50),
            words.score(summary.p95),
            words.score(summary.review_threshold)
            if summary.ng_threshold is not None
            else "learning",
            words.score(summary.ng_threshold),
        )
    return table


def _latency(report: ShiftReport) -> Table:
    table = _table("Frame to verdict", "camera", numbers=("frames", "p50", "p99", "max"))
    for latency in report.latency:
        _row(
            table,
            latency.camera or "all",
            count(latency.frames),
            words.milliseconds(latency.p50_ms),
            words.milliseconds(latency.p99_ms),
            words.milliseconds(latency.max_ms),
        )
    return table


def _pareto(report: ShiftReport) -> Table:
    table = _table(
        "Where NG frames are defective",
        "camera",
        "category",
        "place",
        "size",
        numbers=("frames", "share"),
    )
    total = sum(row.frames for row in report.pareto)
    for row in report.pareto[:_MAX_PARETO_ROWS]:
        share = percent(row.frames / total, 1)
        _row(table, row.camera, row.category, row.place, row.size, count(row.frames), share)
    rest = sum(row.frames for row in report.pareto[_MAX_PARETO_ROWS:])
    if rest:
        _row(table, "others", "", "", "", count(rest), percent(rest / total, 1))
    return table


def _labels(agreement: Agreement) -> Table:
    table = _table("Labels against verdicts", "verdict", numbers=tuple(LabelVerdict))
    for verdict, frames in words.by_verdict(agreement):
        _row(table, verdict.value, *(count(frames[label]) for label in LabelVerdict))
    return table


def _nights(report: ShiftReport) -> Table:
    table = _table("What the night did", "due", "ended", "outcome", "candidate", "")
    for night in report.nights:
        _row(
            table,
            clock(night.due_utc, report.window, seconds=False),
            clock(night.ended_utc, report.window, seconds=False),
            night.state,
            night.candidate or NO_VALUE,
            words.night_text(night),
            style="red" if night.state == "failed" else None,
        )
    return table


def _print_history(report: ShiftReport, console: Console) -> None:
    table = _table("What changed", "time", "what", "")
    for event in sorted(words.events(report), key=lambda event: event.at_utc)[:_MAX_EVENTS]:
        at = clock(event.at_utc, report.window)
        _row(table, at, event.name, event.text, style="red" if event.is_bad else None)
    if table.row_count:
        console.print(table)
