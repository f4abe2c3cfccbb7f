"""A report as JSON with stable keys; `schema` is raised when a name or meaning changes."""

import json
from dataclasses import fields, is_dataclass
from datetime import date, datetime

from daemon.report.contents import SCHEMA, ShiftReport, VerdictCounts

_ONLY_FOR_PLOTS = frozenset({"score_points", "slices"})
_WITHOUT_PICTURES = frozenset({"photo_jpeg", "overlay_jpeg"})


def render_json(report: ShiftReport) -> str:
    """One object: the report's fields, its totals and the ledger's outcome; no pictures.

    Times are ISO 8601 in UTC; shares are in [0, 1]; absent values are null.
    """
    document = {
        "schema": SCHEMA,
        "totals": _plain(report.totals),
        "received": report.received,
        "gaps": report.gaps,
        "not_inspected": _plain(report.not_inspected),
        "is_ledger_balanced": report.is_ledger_balanced,
        "mismatches": list(report.mismatches),
        "is_running": report.is_running,
        **{
            field.name: _plain(getattr(report, field.name))
            for field in fields(report)
            if field.name not in _ONLY_FOR_PLOTS
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    """Dataclasses to objects, tuples to arrays; counts gain the figures derived from them."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        found = {
            field.name: _plain(getattr(value, field.name))
            for field in fields(value)
            if field.name not in _WITHOUT_PICTURES
        }
        if isinstance(value, VerdictCounts):
            found |= {
                "inspected": value.inspected,
                "judged": value.judged,
                "yield": value.yield_rate,
                "ppm_defective": value.ppm_defective,
            }
        return found
    return value
