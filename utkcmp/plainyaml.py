"""YAML that means what it shows, for files and values that a user was handed."""

from typing import Any

import yaml


class NotPlainError(ValueError):
    """YAML that is not taken: what is wrong with it, and ``line``, from 1, or None."""

    def __init__(self, reason: str, mark: yaml.Mark | None = None):
        super().__init__(reason)
        self.line = mark.line + 1 if mark else None


def parse_yaml(text: str) -> Any:
    """The value of some YAML: text, numbers, true and false, null, lists and mappings of these.

    A date is text. Raises NotPlainError where the YAML is not valid, a name stands twice, or a part
    stands for another one (an alias): a few lines of aliases unfold to gigabytes.

    >>> parse_yaml("run: 2024-05-01")
    {'run': '2024-05-01'}
    """
    try:
        return yaml.load(text, _Loader)
    except NotPlainError:
        raise
    except Exception as error:  # wrong values make PyYAML raise whatever it stumbles over
        raise NotPlainError("is not valid YAML", getattr(error, "problem_mark", None)) from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise NotPlainError("holds an alias, expected the value itself", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    reason = f"states {key.value[:40]!r} twice, expected it once"
                    raise NotPlainError(reason, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)
