"""The door: `python -m bench NAME [options]`, `python -m bench --list`."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

USAGE = "usage: python -m bench NAME [options]\n       python -m bench NAME --help\n       python -m bench --list"


def benches() -> dict[str, str]:
    """What can be measured, with the first line of its docstring; nothing is imported for it."""
    found = {}
    for path in sorted(Path(__file__).parent.iterdir()):
        file = path / "__init__.py" if path.is_dir() else path
        if path.name.startswith("_") or not file.is_file():
            continue
        module = ast.parse(file.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            found[path.stem.replace("_", "-")] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


def main(arguments: list[str]) -> None:
    known = benches()
    name, *options = arguments or ["--list"]
    if name in ("--list", "--help", "-h"):
        print(USAGE, *(f"{name:18}{line}" for name, line in known.items()), sep="\n")
    elif name not in known:
        sys.exit(f"no bench is called {name}: it is one of {', '.join(known)}")
    else:
        sys.argv = [f"python -m bench {name}", *options]
        import_module(f"bench.{name.replace('-', '_')}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
