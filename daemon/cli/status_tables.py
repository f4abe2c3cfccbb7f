"""The daemon's status as tables for a terminal. Reads nothing: it is given the snapshot."""

from collections.abc import Iterator

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from daemon.core import Verdict
from daemon.health import UNKNOWN
from daemon.status import ConfigStatus, ModelStatus, NightStatus, SourceState, State, StatusSnapshot


def status_tables(status: StatusSnapshot) -> Group:
    """State and speed, sources, frames by camera, verdicts by category."""
    return Group(_facts(status), _sources(status), _cameras(status), _categories(status))


def _facts(status: StatusSnapshot) -> Table:
    late = [name for name, thread in status.threads.items() if not thread.is_alive]
    colour = "green" if status.state is State.READY and not late else "yellow"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("state", f"[{colour}]{status.state}[/]")
    table.add_row("line", escape(status.line))
    table.add_row("uptime", _duration(status.uptime_s))
    table.add_row("model", escape(status.model_version or "loading"))
    for row in _models(status.model):
        table.add_row(*row)
    table.add_row("database", escape(status.database))
    if status.config is not None:
        table.add_row("configuration", _configuration(status.config))
    table.add_row("queue", f"{status.queue_frames} of {status.queue_limit} frames")
    if status.batch_mean is not None:
        table.add_row("batches", f"{status.batches}, {status.batch_mean:.1f} frames each")
    if status.latency_p50_s is not None and status.latency_p99_s is not None:
        table.add_row(
            "frame to verdict",
            f"p50 {status.latency_p50_s * 1e3:.0f} ms, p99 {status.latency_p99_s * 1e3:.0f} ms "
            f"over {status.latency_frames} frames",
        )
    if status.stages:
        table.add_row("stages p50/p99 ms", _stages(status))
    table.add_row("night", escape(_night(status.night)))
    for row in _troubles(status, late):
        table.add_row(*row)
    for name, count in sorted(status.counters.items()):
        table.add_row(escape(name), str(count))
    return table


def _troubles(status: StatusSnapshot, late: list[str]) -> Iterator[tuple[str, str]]:
    if late:
        yield "stuck threads", f"[red]{escape(', '.join(late))}[/]"
    for trouble in status.troubles.values():
        yield "trouble", f"[red]{escape(trouble)}[/]"
    if status.refused:
        yield "refused clients", f"[yellow]{sum(status.refused.values())}[/]"
    if status.events:
        words = ", ".join(f"{count} {severity}" for severity, count in status.events.items())
        yield "events", escape(words)


def _configuration(config: ConfigStatus) -> str:
    text = f"{config.sha256[:12]}, in force since {config.applied_utc:%Y-%m-%d %H:%M:%S} UTC"
    if config.problems:
        text += f"\n[red]last reload refused: {escape(config.problems[0])}[/]"
    for change in config.needs_restart:
        text += f"\n[yellow]waits for a restart: {escape(change)}[/]"
    return text


def _models(model: ModelStatus | None) -> Iterator[tuple[str, str]]:
    if model is None:
        return
    if model.wanted is not None:
        yield "next model", f"[yellow]{escape(model.wanted)}, being loaded[/]"
    if model.watched_until_utc is not None:
        yield "watched until", f"{model.watched_until_utc:%Y-%m-%d %H:%M} UTC, for a roll-back"
    if model.candidate is not None:
        frames = f"{model.shadow_frames} of {model.shadow_wanted} live frames scored"
        yield "candidate", f"{escape(model.candidate)}, {frames}"
    if model.waits_for is not None:
        yield "it waits for", f"[yellow]{escape(model.waits_for)}[/]"


def _stages(status: StatusSnapshot) -> str:
    times = [
        f"{name} {stage.p50_s * 1e3:.0f}/{stage.p99_s * 1e3:.0f}"
        for name, stage in status.stages.items()
    ]
    return ", ".join(times)


def _night(night: NightStatus | None) -> str:
    if night is None:
        return "learns nothing (no `training:` section)"
    if night.is_running:
        progress = f" {night.done} of {night.total}" if night.total else ""
        waits = ", waits while inspection is slow" if night.is_paused else ""
        return f"learning: {night.step or 'begins'}{progress}{waits}"
    text = f"next at {night.next_start_utc:%Y-%m-%d %H:%M} UTC"
    if night.state is not None and night.due_utc is not None:
        text = f"{night.due_utc:%Y-%m-%d %H:%M} UTC {night.state}: {night.detail}\n{text}"
    return text


def _sources(status: StatusSnapshot) -> Table:
    table = Table(title="sources", title_justify="left")
    for column in ("endpoint", "state", "last message (UTC)", "publishers"):
        table.add_column(column)
    for endpoint, source in status.sources.items():
        colour = "green" if source.state is SourceState.FRESH else "yellow"
        table.add_row(
            escape(endpoint),
            f"[{colour}]{source.state}[/]",
            "" if source.last_message_utc is None else f"{source.last_message_utc:%m-%d %H:%M:%S}",
            "" if source.publishers is None else str(source.publishers),
        )
    return table


def _cameras(status: StatusSnapshot) -> Table:
    table = Table(title="frames by camera", title_justify="left")
    table.add_column("camera")
    for column in ("received", "inspected", "lost", "in flight", "gaps"):
        table.add_column(column, justify="right")
    table.add_column("lost by reason")
    for name, camera in status.cameras.items():
        if name == UNKNOWN and not camera.received and not camera.lost:
            continue
        reasons = [f"{reason} {count}" for reason, count in sorted(camera.lost.items())]
        table.add_row(
            escape(name),
            str(camera.received),
            str(camera.inspected),
            str(camera.lost_after_receipt),
            str(camera.in_flight),
            str(camera.gaps),
            ", ".join(reasons),
        )
    return table


def _categories(status: StatusSnapshot) -> Table:
    table = Table(title="verdicts by category", title_justify="left")
    table.add_column("category")
    for verdict in Verdict:
        table.add_column(str(verdict), justify="right")
    for name, counts in status.verdicts.items():
        if name != UNKNOWN or counts:
            table.add_row(escape(name), *(str(counts.get(verdict, 0)) for verdict in Verdict))
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (
        f"{days} d {hours:02}:{minutes:02}:{rest:02}"
        if days
        else f"{hours:02}:{minutes:02}:{rest:02}"
    )
