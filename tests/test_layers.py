"""The architecture, held by tests: imports point down, libraries stay home, importing does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sfumato"
LEVELS = {
    "errors": -1,  # the nouns refuse what makes no sense, too
    "types": 0,
    "records": 0,
    "nn": 1,
    "diffusion": 1,
    "text": 1,
    "weights": 2,
    "pipeline": 3,
    "curate": 3,
    "train": 4,
    "app": 5,
    "server": 6,
    "ui": 6,
    "cli": 7,
}
HOMES = {
    "gradio": {"ui"},
    "fastapi": {"server"},
    "starlette": {"server"},
    "safetensors": {"weights"},
    "typer": {"cli"},
    "dbos": {"app"},
    "sqlalchemy": {"app"},
}
MODULES = sorted(SOURCE.rglob("*.py"))


def part(path: Path) -> str:
    """Name the part of the layout a file belongs to."""
    top = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "cli" if top.startswith("cli") or top == "__main__" else top


def imports(path: Path) -> Iterator[str]:
    """Name every module a file imports at run time, wherever the import stands."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names if module == "sfumato")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = part(path)
    for name in imports(path):
        root, _, rest = name.partition(".")
        if root == "sfumato" and rest:
            other = rest.split(".")[0]
            if other in ("__version__", "assets"):
                continue
            other = "cli" if other.startswith("cli") else other
            assert own == other or own == "__init__" or LEVELS[other] < LEVELS[own], (
                f"{path.relative_to(SOURCE)} (level {LEVELS[own]}) imports {name} (level {LEVELS[other]})"
            )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    own = part(path)
    for name in imports(path):
        root = name.partition(".")[0]
        assert root not in HOMES or own in HOMES[root], f"{path} imports {root}"
        assert root != "PIL" or LEVELS[own] >= 3, f"{path} imports PIL below level 3"
        assert root != "torch" or own != "text", f"{path} imports torch in text/"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_functions_and_signatures_stay_readable(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= 500 or "keymap" in path.name
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Global), f"{path}:{node.lineno} global"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 80, f"{path}:{node.lineno} {node.name} has {lines} lines"
            arguments = node.args.args + node.args.kwonlyargs + node.args.posonlyargs
            assert len(arguments) <= 10 or part(path) == "cli", f"{path}:{node.lineno} {node.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_module_level_values_are_not_mutated(path: Path) -> None:
    """Tables may be dicts; what a module binds at its top is never changed by its functions."""
    tree = ast.parse(path.read_text("utf-8"))
    top = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    changing = {"append", "add", "update", "pop", "clear", "extend", "setdefault", "insert", "remove"}
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        local = {a.arg for a in function.args.args + function.args.kwonlyargs}
        local |= {
            n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id in top - local:
                    assert node.func.attr not in changing, f"{path}:{node.lineno} changes {owner.id}"


def test_help_is_quick_to_import() -> None:
    """`sfumato --help` must not pay for torch, Pillow or numpy."""
    code = (
        "import sys\nfrom sfumato.cli import main\nsys.argv = ['sfumato', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'safetensors', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
