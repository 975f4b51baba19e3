"""Conventions that hold for all of the library, read from the installed package: checkout or wheel."""

import ast
import dataclasses
import doctest
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import docendo

ROOMS = ("agents", "distill", "evals", "graphs", "memory")
ROOT = Path(__file__).resolve().parents[2]
IS_CHECKOUT = (ROOT / "Makefile").is_file()
in_checkout = pytest.mark.skipif(not IS_CHECKOUT, reason="needs the repository, not only the tests")


def module_names() -> list[str]:
    """All modules of the package, found without importing them: the rooms may lie in other folders."""
    found = ["docendo"]
    paths = {"docendo": list(docendo.__path__)}
    for room in ROOMS:
        paths[f"docendo.{room}"] = list(importlib.import_module(f"docendo.{room}").__path__)
    waiting = list(paths.items())
    seen = set()
    while waiting:
        package, path = waiting.pop()
        if package in seen:
            continue
        seen.add(package)
        for info in pkgutil.iter_modules(path):
            name = f"{package}.{info.name}"
            found.append(name)
            if info.ispkg:
                waiting.append((name, [str(Path(p) / info.name) for p in path]))
    return sorted({*found, *paths})


MODULES = module_names()


def source(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def faults(tree: ast.Module) -> list[str]:
    """What a library module may not contain, with line numbers."""
    found = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Assert):
            found.append(
                f"{line}: assert validates nothing under python -O; raise an error of docendo.errors"
            )
        off = isinstance(node, ast.keyword) and ast.unparse(node.value) == "False"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and not off:
            found.append(f"{line}: trust_remote_code")
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(raised, ast.Name) and raised.id in ("Exception", "BaseException"):
                found.append(f"{line}: raise {raised.id}")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg for word in node.keywords}
            loads = called.startswith("Auto") and called.endswith(".from_pretrained")
            if loads and not given & {"trust_remote_code", "gguf_file"}:
                found.append(f"{line}: {called}() without trust_remote_code=False may ask at the terminal")
            if called in ("torch.load", "eval", "exec", "os.system", "yaml.load"):
                found.append(f"{line}: {called}()")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{line}: bare except")
    for name in imports(tree):
        if name.split(".")[0] in {"pickle", "cloudpickle", "dill", "marshal", "shelve", *ROOMS}:
            found.append(f"imports {name}")
        if name.startswith("trl.experimental"):
            found.append(f"imports {name}")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_source_keeps_the_rules(name: str) -> None:
    text = source(name).read_text(encoding="utf-8")
    assert not faults(ast.parse(text))
    loose = [line for line in text.splitlines() if re.search(r"#.*\b(TODO|FIXME|XXX)\b(?!.*#\d)", line)]
    assert not loose, "a TODO names an issue number"


@pytest.mark.parametrize(
    "bad",
    [
        "assert x",
        "raise Exception('x')",
        "import pickle",
        "from agents import Engine",
        "import memory._board",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=setting)",
        "AutoTokenizer.from_pretrained(source)",
        "torch.load('x')",
        "try:\n    f()\nexcept:\n    pass",
    ],
)
def test_the_rules_can_fail(bad: str) -> None:
    assert faults(ast.parse(bad))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), "a module says what it is for"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, optionflags=flags)
    assert result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_records_are_frozen_slotted_and_keyword_only(name: str) -> None:
    from docendo.records import Record

    module = importlib.import_module(name)
    for thing in vars(module).values():
        if not (isinstance(thing, type) and thing.__module__ == name and dataclasses.is_dataclass(thing)):
            continue
        settings = thing.__dataclass_params__  # type: ignore[attr-defined]
        if not settings.frozen and not issubclass(thing, Record):
            continue  # mutable working state, never stored
        assert settings.frozen, f"{thing.__name__} is a record and not frozen"
        assert "__slots__" in vars(thing), f"{thing.__name__} has no slots=True"
        assert all(field.kw_only for field in dataclasses.fields(thing)), (
            f"{thing.__name__} is not kw_only=True"
        )


@pytest.mark.parametrize("name", ["docendo", *(f"docendo.{room}" for room in ROOMS)])
def test_public_names_are_sorted_and_there(name: str) -> None:
    module = importlib.import_module(name)
    # In ruff's order (RUF022): constants, classes, the rest.
    order = sorted(module.__all__, key=lambda n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n))
    assert list(module.__all__) == order
    for public in module.__all__:
        assert getattr(module, public) is not None
        assert not public.startswith("_") or public == "__version__"


@pytest.mark.parametrize(
    "name", ["docendo", "docendo.cli", "docendo.memory", "docendo.evals", "docendo.agents"]
)
def test_import_brings_no_heavy_library(name: str) -> None:
    heavy = {"torch", "transformers", "peft", "datasets"}
    script = f"import sys, {name}; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_no_room_was_imported_by_its_bare_name() -> None:
    """A second copy of a room would have its own classes: `isinstance` fails, caches double."""
    for room in ROOMS:
        file = getattr(sys.modules.get(room), "__file__", None)
        # openai-agents, for one, owns the name `agents`; a room of this repository must not.
        assert file is None or Path(file).resolve() != source(f"docendo.{room}").resolve()


@in_checkout
def test_tests_have_no_package_and_the_root_no_conftest() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))  # importlib mode needs none
    assert not (ROOT / "conftest.py").exists()  # it would put the root, and so the bare names, on sys.path


@in_checkout
def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {"docendo": "docendo"}
    for top in ("docendo", *ROOMS):
        for init in (ROOT / top).rglob("__init__.py"):
            folder = init.parent.relative_to(ROOT)
            name = ".".join(folder.parts)
            there[name if top == "docendo" else f"docendo.{name}"] = folder.as_posix()
    assert sorted(settings["packages"]) == sorted(there)
    assert settings["package-dir"] == there


@in_checkout
def test_type_checkers_see_every_module() -> None:
    links = {
        link.name: link.resolve() for link in (ROOT / ".typing" / "docendo").iterdir() if link.name[0] != "_"
    }
    parts = [*(ROOT / "docendo").glob("[!_]*.py"), ROOT / "docendo" / "cli", ROOT / "docendo" / "py.typed"]
    expected = {part.name: part.resolve() for part in [*parts, *(ROOT / room for room in ROOMS)]}
    assert links == expected, "run: make links"
    for init in ("__init__.py", "__main__.py"):
        assert (ROOT / ".typing" / "docendo" / init).resolve() == ROOT / "docendo" / init


@in_checkout
def test_every_requirement_is_pinned() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, pinned = line.partition("==")
            pins[canonicalize_name(name)] = pinned
    for text in wanted:
        requirement = Requirement(text)
        if requirement.name != "docendo":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text


@in_checkout
def test_tracked_files_name_no_private_place() -> None:
    """Code and documentation speak to strangers: no absolute path of somebody's machine."""
    tops = (
        "agents",
        "benchmarks",
        "distill",
        "docendo",
        "docs",
        "evals",
        "examples",
        "graphs",
        "memory",
        "tests",
    )
    files = [
        f
        for top in tops
        for f in (ROOT / top).rglob("*")
        if f.suffix in (".py", ".md", ".j2", ".json", ".toml")
    ]
    pattern = re.compile(r"/(?:home|root|Users|work)/\w")
    assert not [
        str(f) for f in files if f != Path(__file__) and pattern.search(f.read_text(encoding="utf-8"))
    ]
