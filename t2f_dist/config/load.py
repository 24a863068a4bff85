"""Strict YAML into typed models: unknown keys, duplicate keys and wrong types are one clear line.

Two traps of plain YAML are closed here: a key given twice (the last silently wins), and `1e-4`
(YAML 1.1 reads a string, since its floats need a dot). And a stranger's file costs little to refuse: its length, its
depth and what its aliases stand for are bounded. No message or record holds a secret: see `redaction`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from t2f_dist.config.redaction import redacted, said


class Section(pydantic.BaseModel):
    """Base of every configuration section: immutable, every key known, defaults validated like input."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=pydantic.BaseModel)


FILE_BYTES_MAX = 256 * 1024  # of a YAML file; ours have a few thousand
DIGITS_MAX = 1000  # of a number; those with colons take a time that grows with the square
PROBLEMS_SHOWN, SHOWN_MAX = 20, 300  # problems of a configuration, and characters of a value in one
VALUES_MAX = 50_000  # in a file, with each alias counted as what it stands for


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and alias bombs, and reads `1e-4` as a number."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _num_values(node, {}) > VALUES_MAX:
            raise yaml.YAMLError(f"more than {VALUES_MAX:,} values, once its aliases are written out")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in a tree whose aliases are written out, which Python would share and every copy of it would not."""
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")) and len(node.value) > DIGITS_MAX:
        raise yaml.YAMLError(f"a number of {len(node.value):,} characters")
    if id(node) not in known:
        known[id(node)] = VALUES_MAX + 1  # where it stands in itself
        inner = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_num_values(part, known) for part in inner)
    return known[id(node)]


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(said(f"{source}{line}: {error.problem or error.context}")) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(said(f"{source}: not readable as YAML: {error}")) from None
    except RecursionError:
        raise ValueError(said(f"{source}: not readable as YAML: nested too deeply")) from None
    except (TypeError, AttributeError, KeyError, IndexError) as error:  # PyYAML's own slips on odd tags
        raise ValueError(said(f"{source}: not readable as YAML: {type(error).__name__} {error}")) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises FileNotFoundError where there is no such file, ValueError (one line, with file and line number) where it
    is no YAML, holds a key twice, or is not a mapping.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ValueError(f"{path}: longer than {FILE_BYTES_MAX:,} bytes: no configuration is")
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason})") from None
    except OSError as error:
        raise FileNotFoundError(f"{path}: cannot be read: {error.strerror}") from None
    mapping = _parse(text, str(path))
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise ValueError(f"{path}: expected `key: value` lines at the top, found a {type(mapping).__name__}")
    return mapping


def override(mapping: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """`mapping` with each `a.b=value` applied; the value is read as YAML, a list index is a number (`growth.0.x=1`).

    Raises ValueError for an assignment without `=`, or one that reaches into a plain value.
    """
    result = _copy(dict(mapping))
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(
                f"--set {said(assignment)}: expected key=value, such as --set seed=1 or --set data.flip=true"
            )
        value = _parse(text, f"--set {assignment}")
        place: Any = result
        for depth, key in enumerate(keys[:-1]):
            place = _descend(place, key, ".".join(keys[: depth + 1]), assignment)
        if isinstance(place, list):
            place[_list_index(place, keys[-1], dotted, assignment)] = value
        elif isinstance(place, dict):
            place[keys[-1]] = value
        else:
            raise ValueError(f"--set {said(assignment)}: {'.'.join(keys[:-1])} is a plain value and has no keys")
    return result


def _descend(place: Any, key: str, dotted: str, assignment: str) -> Any:
    if isinstance(place, list):
        return place[_list_index(place, key, dotted, assignment)]
    if not isinstance(place, dict):
        raise ValueError(f"--set {said(assignment)}: {dotted.rpartition('.')[0]} is a plain value and has no keys")
    if place.get(key) is None:
        place[key] = {}
    return place[key]


def _list_index(place: list[Any], key: str, dotted: str, assignment: str) -> int:
    if not key.isdigit() or int(key) >= len(place):
        raise ValueError(
            f"--set {said(assignment)}: {dotted}: the list has the entries 0 to {len(place) - 1}, not {key}"
        )
    return int(key)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def resolve(
    model: type[Model], mapping: Mapping[str, Any], overrides: Iterable[str] = (), source: str | Path = "configuration"
) -> Model:
    """`mapping` with `overrides` (see `override`) as a validated `model`.

    Raises ValueError: one line that names the source, each offending key with its value, and a near name where the
    key is unknown.
    """
    try:
        return model.model_validate(override(mapping, overrides))
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
        problems = [_explain(model, item) for item in found[:PROBLEMS_SHOWN]]
        problems += [f"and {len(found) - PROBLEMS_SHOWN} more"] if len(found) > PROBLEMS_SHOWN else []
        raise ValueError(said(f"{source}: {'; '.join(problems)}")) from None
    except RecursionError:
        raise ValueError(said(f"{source}: nested too deeply")) from None


def _explain(model: type[pydantic.BaseModel], problem: Any) -> str:
    place, section = _locate(model, problem["loc"])
    dotted = ".".join(place)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = list(section.model_fields) if section else []
        near = difflib.get_close_matches(place[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"unknown key {dotted} ({hint})"
    if problem["type"] == "missing":
        return f"{dotted} is required"
    if problem["type"] == "union_tag_not_found":
        return f"{dotted}.kind is required: it says which section this is"
    if problem["type"] == "union_tag_invalid":
        tags = problem["ctx"]["expected_tags"].replace("'", "")
        return f"{dotted}.kind is {_cut(problem['ctx']['tag'])}: choose one of {tags}"
    if problem["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    return f"{dotted} is {_cut(problem['input'])}: {message[0].lower()}{message[1:]}"


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 3]}..."


def _locate(model: Any, location: tuple[Any, ...]) -> tuple[list[str], Any]:
    """The keys that lead to a value as a file writes them, and the section in which the last of them stands.

    Where a section has several kinds, pydantic's location names the kind as well, which is no key.
    """
    place: list[str] = []
    section: Any = model
    choices: list[Any] = []  # the sections that the value at `place` may be
    for number, part in enumerate(location):
        kinds = {_kind(choice): choice for choice in choices} if len(choices) > 1 else {}
        if part in kinds:
            section, choices = kinds[part], [kinds[part]]
            continue
        if len(choices) == 1:
            section = choices[0]
        place.append(str(part))
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part) if section else None
        choices = _sections_in(field.annotation) if field else []
        if number < len(location) - 1 and not choices:
            section = None
    return place, section


def _kind(section: type[pydantic.BaseModel]) -> Any:
    field = section.model_fields.get("kind")
    return field.default if field else None


def _sections_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [section for argument in getattr(annotation, "__args__", ()) for section in _sections_in(argument)]


def recorded(model: pydantic.BaseModel) -> dict[str, Any]:
    """The model as what is kept of it, in checkpoints, snapshots and logs: without the secrets of URLs."""
    return redacted(model.model_dump(mode="json"))


def dump(model: pydantic.BaseModel) -> str:
    """`recorded`, as YAML that `read_yaml` and `resolve` turn into the same model again."""
    return yaml.safe_dump(recorded(model), sort_keys=False, allow_unicode=True, width=120)
