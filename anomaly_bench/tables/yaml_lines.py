"""YAML whose mappings know their line, so that a message can point at the place; a duplicate key is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from anomaly_bench.errors import UserError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's where PyYAML was built with it


class Mapping(dict[str, Any]):
    """A dict with the line it starts on and the file it is from."""

    path: Path
    line: int

    def wrong(self, message: str) -> UserError:
        """`file:line: message`."""
        return UserError(f"{self.path}:{self.line}: {message}")

    def list_of(self, key: str) -> list[Any]:
        """The list under a key; an empty one without it."""
        value = self.get(key, [])
        if not isinstance(value, list):
            raise self.wrong(f"{key} is a list of entries, each behind a hyphen; correct it.")
        return value


def load_mapping(path: Path) -> Mapping:
    """The file's one mapping.

    Raises:
        UserError: the file cannot be read, is no YAML, or holds a duplicate key; names file and line.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=LOADER)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text; save it as that.") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not valid YAML ({error.problem}); correct it.") from error
    value = _construct(node, path) if node is not None else None
    if not isinstance(value, Mapping):
        raise UserError(f"{path}:1: a table is a mapping with rows and columns; see the other tables.")
    return value


def _construct(node: yaml.Node, path: Path) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_construct(child, path) for child in node.value]
    if not isinstance(node, yaml.MappingNode):
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    mapping = Mapping()
    mapping.path, mapping.line = path, node.start_mark.line + 1
    for key_node, value_node in node.value:
        if key_node.value in mapping:
            raise UserError(f"{path}:{key_node.start_mark.line + 1}: duplicate key '{key_node.value}'; keep one.")
        mapping[key_node.value] = _construct(value_node, path)
    return mapping
