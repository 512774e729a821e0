"""Code as part of a key: which files of Concord a module stands on, and a hash of what each of them does.

The *import closure* of a module is every module of Concord that it imports, directly or not, at its top or inside a
function, with the packages around them; imports for type checkers alone do not count. It is computed from the code
(grimp, which import-linter stands on), so that there is no list to keep.

A file's hash is that of its syntax tree without docstrings (data/syntax.py).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from concord.data.content import Memory, memory_folder
from concord.data.errors import ConcordError
from concord.data.syntax import RULE, syntax_hash

PACKAGE = "concord"
ROOT = Path(__file__).resolve().parents[1]  # holds data/, metrics/, ...: the checkout, or the installed package
# -------------------------------------------------------------------------------------------------------------- hashes


def hash_of_file(path: Path) -> str:
    """`syntax_hash` of a Python file; ConcordError naming the file and the line where it cannot be read as Python."""
    try:
        return syntax_hash(path.read_bytes())
    except SyntaxError as error:
        raise ConcordError(f"{path}, line {error.lineno}: {error.msg}; expected Python source") from None


@lru_cache(maxsize=1)
def _memory() -> Memory:
    name = hashlib.sha256(f"{ROOT} {RULE}".encode()).hexdigest()[:16]
    return Memory(memory_folder() / f"code-{name}.json", hash_of_file)


# ------------------------------------------------------------------------------------------------------------- closures


@lru_cache(maxsize=1024)
def file_of(module: str) -> Path:
    """The file of a module of Concord: a package's is its __init__.py."""
    inner = module.split(".")[1:]
    folder = ROOT if inner and (ROOT / inner[0]).is_dir() and inner[0] != PACKAGE else ROOT / PACKAGE
    if not folder.is_dir():  # installed: there is no folder of the package's name inside it
        folder = ROOT
    base = folder.joinpath(*inner)
    package = base / "__init__.py"
    return package if package.is_file() else base.with_suffix(".py")


def module_of(path: Path) -> str | None:
    """The module of Concord that a file is; None for any other file."""
    path = path.resolve()
    if path.suffix != ".py" or not path.is_relative_to(ROOT):
        return None
    inner = path.relative_to(ROOT).with_suffix("").parts
    if inner[0] == PACKAGE:
        inner = inner[1:]
    if inner and inner[-1] == "__init__":
        inner = inner[:-1]
    name = ".".join((PACKAGE, *inner))
    return name if name in imports() else None


@lru_cache(maxsize=1)
def imports() -> Mapping[str, frozenset[str]]:
    """Module of Concord -> the modules of Concord that it imports."""
    import grimp

    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    return {module: frozenset(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def closure(modules: Iterable[str]) -> frozenset[str]:
    """These modules of Concord, all that they import, directly or not, and the packages that hold them.

    Raises ConcordError for a name that is no module of Concord.
    """
    return _closure(frozenset(modules))


@lru_cache(maxsize=512)
def _closure(modules: frozenset[str]) -> frozenset[str]:
    graph = imports()
    whole: set[str] = set()
    around: set[str] = set()  # packages that hold a module: importing it runs their top level, and no function of them
    waiting = [(module, True) for module in modules]
    while waiting:
        module, is_asked_for = waiting.pop()
        if module in whole or (module in around and not is_asked_for):
            continue
        if module not in graph:
            raise ConcordError(f"module '{module}': expected a module of Concord")
        (whole if is_asked_for else around).add(module)
        waiting += [(other, True) for other in (graph[module] if is_asked_for else top_imports(module))]
        if "." in module:
            waiting.append((module.rpartition(".")[0], False))
    return frozenset(whole | around)


@lru_cache(maxsize=256)
def top_imports(module: str) -> frozenset[str]:
    """Of the modules of Concord that a module imports, those that its top level imports, outside of functions."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(file_of(module).read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {name for name, _ in _names(node)}
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return frozenset(graph_name for name in found for graph_name in _longest(name)) & imports()[module]


def code_of(modules: Iterable[str]) -> dict[str, str]:
    """Module -> the hash of its code, of these modules of Concord alone (no closure), sorted by name."""
    memory = _memory()
    found = {module: memory.hash(file_of(module)) for module in sorted(modules)}
    memory.save()
    return found


def code_hash(modules: Iterable[str]) -> str:
    """One SHA-256 over the code of the import closure of these modules."""
    digest = hashlib.sha256()
    for name, value in code_of(closure(modules)).items():
        digest.update(f"{name} {value}\n".encode())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------- code that is not Concord's


def foreign_closure(starts: Iterable[Path], folders: Iterable[Path] = ()) -> tuple[dict[Path, str], frozenset[str]]:
    """The files of a plugin, and the modules of Concord that they name.

    starts: its files. folders: where its modules are looked for besides `sys.path`. A file belongs to it when it is
    imported by one of its files, at the top or inside a function, and lies neither in the standard library nor among
    installed packages, or among these in the very package of a start. Returns path -> hash of its code.
    """
    starts = [path.resolve() for path in starts]
    places = [str(folder) for folder in folders] + [entry or "." for entry in sys.path]
    own = tuple(top for path in starts if (top := _installed_package(path)) is not None)
    found: dict[Path, str] = {}
    known: set[str] = set()
    waiting = list(starts)
    memory = _memory()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        try:
            found[path] = memory.hash(path)
        except OSError as error:
            raise ConcordError(f"{path}: cannot be read ({error.strerror})") from None
        for name, level in _imported_names(path):
            if not level and name.split(".")[0] == PACKAGE:
                known |= _longest(name)
                continue
            waiting += [other for other in _find(name, level, path, places) if _is_foreign(other, own)]
    memory.save()
    return dict(sorted(found.items())), frozenset(known)


def _longest(name: str) -> set[str]:
    """The module of Concord that a dotted name means: the longest part of it that is one."""
    graph = imports()
    while name and name not in graph:
        name = name.rpartition(".")[0]
    return {name} if name else set()


def _imported_names(path: Path) -> list[tuple[str, int]]:
    """(dotted name, level) of all that a file imports; `from a import b` stands for a and a.b."""
    nodes = ast.walk(ast.parse(path.read_bytes()))
    return [name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for name in _names(node)]


def _names(node: ast.Import | ast.ImportFrom) -> list[tuple[str, int]]:
    if isinstance(node, ast.Import):
        return [(alias.name, 0) for alias in node.names]
    base = node.module or ""
    inner = [(f"{base}.{alias.name}" if base else alias.name, node.level) for alias in node.names]
    return [(base, node.level), *inner]


def _find(name: str, level: int, path: Path, places: list[str]) -> list[Path]:
    """The files that Python would run for a dotted name: those of its packages and its own. Nothing is imported."""
    folders = [Path(place) for place in places]
    if level:
        folders = [path.parents[level - 1]]
    found: list[Path] = []
    for part in [part for part in name.split(".") if part]:
        for folder in folders:
            package, single = folder / part / "__init__.py", folder / f"{part}.py"
            if package.is_file() or single.is_file():
                found.append((package if package.is_file() else single).resolve())
                folders = [folder / part]
                break
            if (folder / part).is_dir():  # a package without an __init__.py
                folders = [folder / part]
                break
        else:
            break
    return found


def _is_foreign(path: Path, own: tuple[Path, ...]) -> bool:
    if path.is_relative_to(ROOT) and module_of(path) is not None:
        return False
    if any(path.is_relative_to(folder) for folder in own):
        return True
    return not is_installed(path)


def is_installed(path: Path) -> bool:
    """Whether a file is part of Python or of an installed package."""
    return any(path.is_relative_to(folder) for folder in _installed_folders())


@lru_cache(maxsize=1)
def _installed_folders() -> tuple[Path, ...]:
    import sysconfig

    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {Path(sysconfig.get_path(name)).resolve() for name in names}
    found |= {Path(entry).resolve() for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    return tuple(sorted(found))


def _installed_package(path: Path) -> Path | None:
    """The top folder of the installed package that a file is in; None for a file that is no part of one."""
    for folder in _installed_folders():
        if path.is_relative_to(folder) and len(path.relative_to(folder).parts) > 1:
            return folder / path.relative_to(folder).parts[0]
    return None


def loader_modules(loaders: Iterable[str], folder: Path | None = None) -> tuple[frozenset[str], tuple[Path, ...]]:
    """What stands behind loaders 'module:function': modules of Concord, and files of others.

    'file.py:function' is a file beside a profile, in `folder`. ConcordError for a module that is not there.
    """
    modules: set[str] = set()
    files: list[Path] = []
    for loader in loaders:
        name, _, _ = loader.partition(":")
        if name.endswith(".py"):
            path = (folder or Path()) / name
            if not path.is_file():
                raise ConcordError(f"loader '{loader}': {path} is not there; expected a Python file beside the profile")
            files.append(path)
        elif name.split(".")[0] == PACKAGE:
            if name not in imports():
                raise ConcordError(f"loader '{loader}': Concord has no module '{name}'")
            modules.add(name)
        else:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                raise ConcordError(f"loader '{loader}': no module '{name}'; install it, or correct the profile")
            files.append(Path(spec.origin))
    return frozenset(modules), tuple(files)
