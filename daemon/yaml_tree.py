"""YAML text as plain values, each with its place in the text. Knows no key and no model.

A scalar stays the text that the user wrote, and the model it is meant for decides what it is.
YAML 1.1 would read `start: 06:00` as the number 360 and `category: NO` as false.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import yaml

from daemon.config.section import Place

MAX_DEPTH = 20
_NULLS = ("", "~", "null", "Null", "NULL")


class _YamlMark(Protocol):
    """PyYAML's position, of its Python or its C scanner; counted from 0."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A position in the text, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class YamlTree:
    """One document.

    Attributes:
        data: str, None, list and dict with str keys only.
        values: Where each value starts.
        keys: Where each key starts, by the place of its value.
        problems: What the text may not contain, by place; the value there is None.
    """

    data: object
    values: dict[Place, Mark]
    keys: dict[Place, Mark]
    problems: dict[Place, tuple[Mark, str]]


class YamlTextError(ValueError):
    """Text that is not YAML, or nested too deeply to be a configuration."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark


def read_yaml(text: str) -> YamlTree:
    """Read the one document in `text`.

    Raises:
        YamlTextError: for everything that cannot be read to its end; nothing else escapes.
    """
    builder = _Builder()
    try:
        builder.read_document(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        about = f" ({error.context})" if error.context else ""
        raise YamlTextError(_mark(mark), f"not valid YAML: {error.problem}{about}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark_at = Mark(before.count("\n") + 1, error.position - before.rfind("\n"))
        message = f"character U+{ord(text[error.position]):04X} is not allowed: remove it"
        raise YamlTextError(mark_at, message) from None
    except (ValueError, OverflowError) as error:
        # PyYAML on impossible numbers in escapes ("\UFFFFFFFF") and in its %YAML line
        if isinstance(error, YamlTextError):
            raise
        raise YamlTextError(builder.last, f"not valid YAML after this: {error}") from None
    return YamlTree(builder.data, builder.values, builder.keys, builder.problems)


@dataclass(slots=True)
class _Builder:
    """Builds values from PyYAML's events, so that no alias is ever expanded."""

    data: object = None
    values: dict[Place, Mark] = field(default_factory=dict)
    keys: dict[Place, Mark] = field(default_factory=dict)
    problems: dict[Place, tuple[Mark, str]] = field(default_factory=dict)
    last: Mark = field(default_factory=lambda: Mark(1, 1))

    def read_document(self, events: Iterator[yaml.Event]) -> None:
        documents = 0
        for event in events:
            match event:
                case yaml.StreamStartEvent() | yaml.StreamEndEvent() | yaml.DocumentEndEvent():
                    pass
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        message = "a second document begins here: one file is one configuration"
                        raise YamlTextError(_mark(event.start_mark), message)
                case _:
                    self.data = self._value(event, events, ())

    def _value(self, event: yaml.Event, events: Iterator[yaml.Event], place: Place) -> object:
        mark = _mark(event.start_mark)
        self.last = mark
        self.values[place] = mark
        if len(place) > MAX_DEPTH:
            raise YamlTextError(mark, f"nested deeper than {MAX_DEPTH} levels")
        self._refuse_extras(event, mark, place)
        match event:
            case yaml.ScalarEvent():
                is_null = event.style is None and event.value in _NULLS
                return None if is_null else str(event.value)
            case yaml.SequenceStartEvent():
                items: list[object] = []
                for item in events:
                    if isinstance(item, yaml.SequenceEndEvent):
                        break
                    items.append(self._value(item, events, (*place, len(items))))
                return items
            case yaml.MappingStartEvent():
                return self._mapping(events, place)
            case _:  # an alias, refused above
                return None

    def _mapping(self, events: Iterator[yaml.Event], place: Place) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            mark = _mark(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                raise YamlTextError(mark, "a key must be plain text")
            key = str(event.value)
            here = (*place, key)
            self._refuse_extras(event, mark, here)
            if key in mapping:
                message = f"key {key!r} stands here and in line {self.keys[here].line}: remove one"
                self.problems.setdefault(here, (mark, message))
                self._value(next(events), events, (*place, f"{key} (repeated)"))
                continue
            self.keys[here] = mark
            mapping[key] = self._value(next(events), events, here)
        return mapping

    def _refuse_extras(self, event: yaml.Event, mark: Mark, place: Place) -> None:
        message = None
        match event:
            case yaml.AliasEvent():
                message = f"alias *{event.anchor} is not supported: write the value out"
            case yaml.ScalarEvent() | yaml.CollectionStartEvent():
                if event.anchor is not None:
                    message = f"anchor &{event.anchor} is not supported: remove it"
                elif event.tag is not None:
                    message = f"tag {event.tag} is not supported: remove it"
            case _:
                pass
        if message is not None:
            self.problems.setdefault(place, (mark, message))


def _mark(mark: _YamlMark | None) -> Mark:
    return Mark(1, 1) if mark is None else Mark(mark.line + 1, mark.column + 1)
