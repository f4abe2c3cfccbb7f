"""Reads the configuration file; every error names file, line, column and key, all at once."""

import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from daemon.config.line import Config
from daemon.config.night_recipes import NightMethod, NightRecipe, default_recipe
from daemon.config.section import CrossCheckError, Place, Section
from daemon.errors import CategoryModelError, ConfigError
from daemon.yaml_tree import Mark, YamlTextError, YamlTree, read_yaml

MAX_FILE_BYTES = 1 << 20
MAX_SHOWN_CHARS = 80
HIDDEN = "(hidden)"  # which YAML reads as text, unlike ***
SectionT = TypeVar("SectionT", bound=Section)
_KEY = "[key]"  # pydantic's last step to a key that is itself wrong

_WORDS = {
    "missing": "this key is required: add it",
    "model_type": "{shown} must be a mapping of keys",
    "dict_type": "{shown} must be a mapping of keys",
    "tuple_type": "{shown} must be a list",
    "too_short": "must have at least one entry",
    "int_parsing": "{shown} must be a whole number",
    "int_from_float": "{shown} must be a whole number",
    "float_parsing": "{shown} must be a number",
    "finite_number": "{shown} must be a finite number",
}
"""pydantic's error types in the user's words."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration file.

    Attributes:
        key: For example `sources[0].endpoint`; empty for the file as a whole.
    """

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"

    def as_json(self) -> dict[str, str | int]:
        """The fields, for `--json`."""
        return asdict(self)


class ConfigFileError(ConfigError):
    """A configuration file with at least one problem; the text lists all, one a line."""

    def __init__(self, problems: list[Problem]) -> None:
        lines = [str(problem) for problem in problems]
        if len(lines) > 1:
            files = dict.fromkeys(problem.file for problem in problems)
            lines.insert(0, f"{len(problems)} errors in {', '.join(files)}")
        super().__init__("\n".join(lines))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration and the file it came from.

    Attributes:
        sha256: Of the text as it is in the file.
        text: The file with secrets hidden; every line stays in its place.
    """

    path: Path
    config: Config
    sha256: str
    text: str


def load_config(path: Path) -> Config:
    """Read and check a configuration file: `read_config` without the file.

    Raises:
        ConfigFileError: the file cannot be read or used.
    """
    return read_config(path).config


def read_config(path: Path) -> ConfigFile:
    """Read and check a configuration file.

    All folders, `model.checkpoint` and `run_dir` among them, and the file of a SQLite URL become
    absolute: a relative one is relative to the folder of `path`. `${NAME}` in
    `storage.url` stays as it is, so that the configuration in memory holds no password;
    `daemon.storage` fills it in.

    Raises:
        ConfigFileError: the file, or a recipe that it names, cannot be read or used.
    """
    config, text, tree = _validated(path, Config)
    absolute = _with_absolute_paths(config, path.absolute().parent)
    if problems := _wrong_recipes(path, absolute, tree):
        raise ConfigFileError(problems)
    return ConfigFile(
        path=path.absolute(),
        config=absolute,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        text=_without_secrets(text, tree, config),
    )


def read_recipe(path: Path, method: NightMethod) -> NightRecipe:
    """Read and check how a night trains a method.

    Raises:
        ConfigFileError: the file cannot be read or used.
    """
    return _validated(path, type(default_recipe(method)))[0]


def shown(config: Config) -> dict[str, object]:
    """A configuration as plain values fit to be shown, as of JSON."""
    values: dict[str, object] = config.model_dump(mode="json")
    storage = values["storage"]
    assert isinstance(storage, dict)  # noqa: S101 - a section
    storage["url"] = hide_password(config.storage.url)
    return values


def line_of(text: str, place: Place) -> int | None:
    """The line of a key in a configuration's text; None where it has its default."""
    try:
        mark = read_yaml(text).keys.get(place)
    except YamlTextError:
        return None
    return None if mark is None else mark.line


def wrong_checkpoint(file: ConfigFile, error: CategoryModelError) -> ConfigFileError:
    """What a file says of a category's own model, which turned out to be of no use."""
    place = ("categories", error.category, "checkpoint")
    mark = Mark(line_of(file.text, place) or 1, 1)
    return ConfigFileError([_problem(file.path, mark, place, error.detail)])


def hide_password(url: str) -> str:
    """A database URL fit to be shown."""
    url = re.sub(r"^([^:]*://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", url)


def dotted(place: Place) -> str:
    """A place as users write it: `sources[0].endpoint`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _validated(path: Path, kind: type[SectionT]) -> tuple[SectionT, str, YamlTree]:
    """A file as what it should be, its text, and its places."""
    try:
        text = _read_text(path)
        tree = read_yaml(text)
    except YamlTextError as error:
        raise ConfigFileError([_problem(path, error.mark, (), str(error))]) from None
    top = Mark(1, 1)
    if tree.data is None:
        raise ConfigFileError([_problem(path, top, (), "the file is empty")])
    if not isinstance(tree.data, dict):
        keys = ", ".join(f"{name}: ..." for name in list(kind.model_fields)[:2])
        message = f"the file must be a mapping of keys ({keys}, ...)"
        raise ConfigFileError([_problem(path, tree.values.get((), top), (), message)])
    found = dict(tree.problems)
    section = None
    try:
        section = kind.model_validate(tree.data)
    except ValidationError as error:
        for place, message in _messages(error, kind):
            found.setdefault(place, (_mark_of(tree, place), message))
    if found or section is None:
        problems = [_problem(path, mark, place, text) for place, (mark, text) in found.items()]
        # `from None`: pydantic's own text would show values, a password among them
        raise ConfigFileError(sorted(problems, key=lambda p: (p.line, p.column, p.key))) from None
    return section, text, tree


def _wrong_recipes(path: Path, config: Config, tree: YamlTree) -> list[Problem]:
    """What is wrong in the recipes that a configuration names; a night reads them again."""
    problems = []
    for method, file in () if config.training is None else config.training.recipes.items():
        if not file.is_file():
            place = ("training", "recipes", method)
            text = f"there is no file {file}: copy ours from config/nights/, or remove the key"
            problems.append(_problem(path, _mark_of(tree, place), place, text))
            continue
        try:
            read_recipe(file, method)
        except ConfigFileError as error:
            problems += error.problems
    return problems


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ConfigFileError([_problem(path, Mark(1, 1), (), message)]) from None
    if len(raw) > MAX_FILE_BYTES:
        raise YamlTextError(Mark(1, 1), f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        mark = Mark(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8: save the file as UTF-8"
        raise YamlTextError(mark, message) from None


def _without_secrets(text: str, tree: YamlTree, config: Config) -> str:
    """The same lines with passwords and tokens hidden; nothing at all if one cannot be found."""
    lines = text.splitlines(keepends=True)
    url = config.storage.url
    secrets = [(("storage", "url"), url, hide_password(url)), *_secrets(config, ())]
    for place, secret, instead in secrets:
        if secret == instead:
            continue
        number = tree.values[place].line - 1
        if secret not in lines[number]:
            return "# not kept: a secret in it goes over several lines or is written with escapes"
        lines[number] = lines[number].replace(secret, instead)
    return "".join(lines)


def _secrets(value: object, place: Place) -> Iterator[tuple[Place, str, str]]:
    """Every secret that is written out: where, itself, and what may be shown."""
    match value:
        case SecretStr():
            secret = value.get_secret_value()
            yield place, secret, secret if secret.startswith("${") else HIDDEN
        case Section():
            for name in type(value).model_fields:
                yield from _secrets(getattr(value, name), (*place, name))
        case dict():
            for name, inner in value.items():
                yield from _secrets(inner, (*place, name))
        case tuple():
            for index, inner in enumerate(value):
                yield from _secrets(inner, (*place, index))
        case _:
            pass


def _problem(path: Path, mark: Mark, place: Place, message: str) -> Problem:
    return Problem(str(path), mark.line, mark.column, dotted(place), message)


def _messages(error: ValidationError, kind: type[Section]) -> list[tuple[Place, str]]:
    """Every error of pydantic in the user's words."""
    details = error.errors()
    failed = {detail["loc"][:n] for detail in details for n in range(len(detail["loc"]))}
    messages: list[tuple[Place, str]] = []
    for detail in details:
        place = detail["loc"]
        if detail["type"] == "too_short" and place in failed:
            continue  # only because its items failed, and they are listed
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, CrossCheckError):
            messages += [((*place, *inner), text) for inner, text in cause.problems]
        else:
            place = place[:-1] if place[-1:] == (_KEY,) else place
            messages.append((place, _message(detail, place, kind)))
    return messages


def _message(detail: ErrorDetails, place: Place, section: type[Section]) -> str:
    shown = _shown(detail["input"])
    kind = detail["type"]
    if kind == "too_short" and detail["ctx"]["min_length"] > 1:
        context = detail["ctx"]
        return f"has {context['actual_length']} entries, at least {context['min_length']} needed"
    if kind in _WORDS:
        return _WORDS[kind].format(shown=shown)
    if detail["input"] is None:
        return "has no value: write one"
    match kind:
        case "extra_forbidden":
            return _unknown_key(place, section)
        case "literal_error":
            return f"{shown} must be {detail['ctx']['expected']}"
        case "value_error":
            return f"{shown} {detail['ctx']['error']}"
        case _:
            return f"{shown} {detail['msg'].replace('Input should', 'must')}"


def _shown(value: object) -> str:
    if value is None:
        return "an empty value"
    text = repr(hide_password(value) if isinstance(value, str) else value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def _unknown_key(place: Place, top: type[Section]) -> str:
    known = list(_section_at(place[:-1], top).model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    if close:
        return f"unknown key; did you mean {close[0]!r}?"
    return f"unknown key; known here: {', '.join(known)}"


def _section_at(place: Place, top: type[Section]) -> type[Section]:
    """The model that the mapping at a place must satisfy."""
    section = top
    annotation: Any = top  # a type expression: there is no narrower static type for it
    for step in place:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            annotation = annotation.model_fields[str(step)].annotation
        else:  # dict[Name, X] or tuple[X, ...]
            annotation = next(a for a in get_args(annotation) if isinstance(a, type))
        if isinstance(annotation, UnionType):  # X | None
            annotation = get_args(annotation)[0]
        if isinstance(annotation, type) and issubclass(annotation, Section):
            section = annotation
    return section


def _mark_of(tree: YamlTree, place: Place) -> Mark:
    """Where the user has to look: the key, or the nearest one around a key that is absent."""
    for length in range(len(place), 0, -1):
        near = place[:length]
        if near in tree.keys:
            return tree.keys[near]
        if near in tree.values:
            return tree.values[near]
    return Mark(1, 1)


def _with_absolute_paths(config: Config, folder: Path) -> Config:
    model, storage = config.model, config.storage
    if model.checkpoint is not None:
        model = model.model_copy(update={"checkpoint": folder / model.checkpoint})
    if model.references_dir is not None:
        model = model.model_copy(update={"references_dir": folder / model.references_dir})
    file = storage.url.removeprefix("sqlite:///")
    if file != storage.url and file and not file.startswith(("/", ":memory:", "file:", "${")):
        storage = storage.model_copy(update={"url": f"sqlite:///{folder / file}"})
    if storage.spool.dir is not None:
        spool = storage.spool.model_copy(update={"dir": folder / storage.spool.dir})
        storage = storage.model_copy(update={"spool": spool})
    security = config.security
    if security is not None:
        secret = security.server_secret
        file = secret if secret.startswith("${") else str(folder / secret)
        security = security.model_copy(
            update={"allowed_keys": folder / security.allowed_keys, "server_secret": file}
        )
    categories = {
        name: category
        if category.checkpoint is None
        else category.model_copy(update={"checkpoint": folder / category.checkpoint})
        for name, category in config.categories.items()
    }
    frames, training = config.frames, config.training
    if frames is not None:
        frames = frames.model_copy(update={"dir": folder / frames.dir})
    if training is not None:
        paths = {
            "models_dir": folder / training.models_dir,
            "auxiliary": tuple(folder / root for root in training.auxiliary),
            "unseen": tuple(folder / root for root in training.unseen),
            "recipes": {method: folder / file for method, file in training.recipes.items()},
        }
        training = training.model_copy(update=paths)
    update = {
        "categories": categories,
        "model": model,
        "storage": storage,
        "security": security,
        "frames": frames,
        "training": training,
        "run_dir": folder / config.run_dir,
    }
    return config.model_copy(update=update)
