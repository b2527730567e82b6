"""Fill the tables of docs/recipe.md from the settings classes: `python -m arkasr.recipe.recipe_page docs/recipe.md`.

Comes in: a page with a marker for every settings class. Goes out: the same page with a table of keys at every marker.
The prose and the examples of the page are written by hand.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from arkasr import plain_yaml
from arkasr.recipe.settings import Recipe
from arkasr.recipe.settings.unchecked import UncheckedRecipe
from arkasr.settings import Settings

MARKED = re.compile(r"<!-- keys of (\w+) -->\n.*?<!-- end of keys -->", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

Schema = Mapping[str, Any]


def fill_tables(page: str) -> str:
    """The page with the table of every settings class at its marker.

    Raises:
        ValueError: a class has no marker, a marker has no class, or a key has no docstring.
    """
    classes, marked = settings_classes(), {match[1]: match for match in MARKED.finditer(page)}
    if marked.keys() != classes.keys():
        raise ValueError(f"markers differ from the settings classes: {sorted(marked.keys() ^ classes.keys())}")
    links = {name: _link_to_heading_above(page, match.start()) for name, match in marked.items()}
    tables = {name: table(settings, links) for name, settings in classes.items()}
    return MARKED.sub(lambda match: f"<!-- keys of {match[1]} -->\n{tables[match[1]]}\n<!-- end of keys -->", page)


def settings_classes() -> dict[str, type]:
    """Every class that a part of a recipe is parsed into, by name; base classes with keys included."""
    found: dict[str, type] = {}

    def visit(annotation: Any) -> None:
        for part in get_args(annotation):
            visit(part)
        is_settings = isinstance(annotation, type) and (issubclass(annotation, Settings) or is_dataclass(annotation))
        if not is_settings or annotation is Settings or annotation.__name__ in found:
            return
        found[annotation.__name__] = annotation
        for inner in (*annotation.__bases__, *(get_type_hints(annotation)[key] for key in _properties(annotation))):
            visit(inner)

    visit(UncheckedRecipe)
    return found


def table(settings: type, links: Mapping[str, str]) -> str:
    """The keys of a class without those of its base class, one per row.

    Args:
        settings: a class of `settings_classes`.
        links: to the table of each class, by its name.

    Raises:
        ValueError: a key has no docstring.
    """
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    inherited = _properties(settings.__bases__[0]) if issubclass(settings.__bases__[0], Settings) else {}
    for key, schema in _properties(settings).items():
        if key in inherited:
            continue
        if not schema.get("description"):
            raise ValueError(f"{settings.__name__}.{key}: has no docstring; write one below the field")
        cells = (f"`{key}`", _value(schema, links), _default(schema), " ".join(schema["description"].split()))
        row = " | ".join(cell.replace("|", r"\|") for cell in cells)
        rows.append(f"| {row} |")
    return "\n".join(rows)


def _properties(settings: type) -> dict[str, Schema]:
    """The JSON schema of every key. A dataclass gets its docstrings only as a part of `Recipe`."""
    if settings is Settings:
        return {}
    schema = _parts_of_recipe().get(settings.__name__)
    if schema is None:
        assert issubclass(settings, Settings)
        schema = settings.model_json_schema()
    return schema.get("properties", {})


@cache
def _parts_of_recipe() -> dict[str, Schema]:
    return Recipe.model_json_schema()["$defs"]


def _value(schema: Schema, links: Mapping[str, str]) -> str:
    """What may be written for a key, in words."""
    return ", ".join(_values(schema, links))


def _values(schema: Schema, links: Mapping[str, str]) -> Iterator[str]:
    kind = schema.get("type")
    if "$ref" in schema:
        yield links[schema["$ref"].rpartition("/")[2]]
    elif alternatives := schema.get("anyOf", schema.get("oneOf")):
        for alternative in alternatives:
            yield from _values(alternative, links)
    elif "const" in schema or "enum" in schema:
        yield from (f"`{_yaml(choice)}`" for choice in schema.get("enum", [schema.get("const")]))
    elif kind == "null":
        yield "`null`"
    elif kind == "array" and "prefixItems" in schema:
        yield f"list of {len(schema['prefixItems'])}: {_value(schema['prefixItems'][0], links)}"
    elif kind == "array":
        yield f"list: {_value(schema['items'], links)}"
    elif kind == "object":
        values = schema.get("additionalProperties")
        yield f"`NAME:` {_value(values, links)}" if isinstance(values, dict) else "mapping"
    else:
        yield " ".join(filter(None, (TYPES[str(kind)], _bounds(schema))))


def _bounds(schema: Schema) -> str:
    return ", ".join(f"{sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema)


def _default(schema: Schema) -> str:
    """The default as YAML. `{}` stands for the defaults of a part's own keys."""
    if "default" not in schema:
        return "required"
    return "`{}`" if "$ref" in schema else f"`{_yaml(schema['default'])}`"


def _yaml(value: Any) -> str:
    return plain_yaml.dump(value, in_one_line=True).removesuffix("...\n").strip()


def _link_to_heading_above(page: str, position: int) -> str:
    """A link as GitHub numbers headings: lower case, hyphens for blanks, no other punctuation."""
    title = [match[1] for match in HEADING.finditer(page, 0, position)][-1].replace("`", "")
    anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    return f"[{title}](#{anchor})"


def main() -> None:
    """Rewrite the page that the command line names."""
    page = Path(sys.argv[1])
    page.write_text(fill_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
