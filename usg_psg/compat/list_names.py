"""Print the table of bundled names: `python -m usg_psg.compat.list_names`; `--write` puts it into README.md."""

from __future__ import annotations

import ast
from pathlib import Path

from ..utils.generated_table import print_or_write

FOLDER = Path(__file__).resolve().parent
README = FOLDER / "README.md"
MARKS = "names"


def bundled_names() -> dict[str, list[str]]:
    """Public names (`__all__`) of each module of the bundled subset, read without importing it."""
    names = {}
    for path in sorted((FOLDER / "detectron2").rglob("*.py")):
        module = ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__init__")
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            target = getattr(statement, "target", None) or next(iter(getattr(statement, "targets", [])), None)
            if isinstance(target, ast.Name) and target.id == "__all__":
                public = ast.literal_eval(statement.value)
                if public:
                    names[module] = sorted(public, key=str.lower)
    return names


def table() -> str:
    """The names as a Markdown table, one row per module."""
    rows = [f"| `{module}` | {', '.join(f'`{name}`' for name in names)} |" for module, names in bundled_names().items()]
    return "\n".join(["| module | names |", "| --- | --- |", *rows])


def main(argv: list[str] | None = None) -> None:
    """Print the table, or write it between the marks in README.md."""
    print_or_write(table, README, MARKS, str(__doc__), argv)


if __name__ == "__main__":
    main()
