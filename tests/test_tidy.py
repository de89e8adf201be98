"""Style that a machine can check: layers, sizes, docstrings, links. A rule that fails says what to do."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("tenantd/**/*.py"), *ROOT.glob("cli/**/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))
SCRIPTS = sorted([*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("building/*.py")])

# A room imports only from rooms before it. A folder is one room; a file beside the folders is one, too.
ROOMS = [
    "tenantd.printable",
    "tenantd.process_limits",
    "tenantd.host_memory",
    "tenantd.paths",
    "tenantd.clock",
    "tenantd.request_ids",
    "tenantd.errors",
    "tenantd.mistakes",
    "tenantd.limits",
    "tenantd.samplers",
    "tenantd.domain",
    "tenantd.periods",
    "tenantd.actions",
    "tenantd.events",
    "tenantd.budget_events",
    "tenantd.wire",
    "tenantd.costs",
    "tenantd.setting_kinds",
    "tenantd.engine_settings",
    "tenantd.listen_settings",
    "tenantd.server_settings",
    "tenantd.response_settings",
    "tenantd.config",
    "tenantd.reloadable",
    "tenantd.minute",
    "tenantd.logs",
    "tenantd.signals",
    "tenantd.llamacpp",
    "tenantd.engine",
    "tenantd.text",
    "tenantd.ledger",
    "tenantd.tenancy",
    "tenantd.live",
    "tenantd.fleet",
    "tenantd.serving",
    "tenantd.watching",
    "tenantd.api",
    "tenantd.systemd",
    "tenantd.banner",
    "tenantd.lifecycle",
    "tenantd.main",
    "tenantctl",
]
ENGINE_NEEDS = ROOMS[: ROOMS.index("tenantd.engine") + 1]
"""The ground that both processes stand on, `wire` with all that they say to each other, and llama.cpp's own rooms."""
OFTEN_NAMED = {"__init__", "__main__", "main", "routes", "types"}
LLAMA_ROOMS = ("tenantd.llamacpp", "tenantd.engine.llama", "tenantd.text")
SQL_ROOMS = ("tenantd.ledger", "tenantd.tenancy")
SQL = re.compile(
    r"\b(SELECT|INSERT INTO|DELETE FROM|PRAGMA|BEGIN IMMEDIATE|(CREATE|ALTER|DROP) (TABLE|INDEX|VIEW|TRIGGER))\b"
    r"|\bUPDATE \w+ SET\b"
)
PURE = (
    "tenantd.limits",
    "tenantd.samplers",
    "tenantd.domain",
    "tenantd.engine.charges",
    "tenantd.engine.fairness",
    "tenantd.engine.energy",
    "tenantd.costs",
    "tenantd.minute",
    "tenantd.engine.booking",
    "tenantd.engine.following",
    "tenantd.engine.passes",
    "tenantd.engine.precedence",
    "tenantd.engine.scheduler",
    "tenantd.engine.sharing",
    "tenantd.engine.slack",
    "tenantd.engine.speeds",
    "tenantd.engine.kv.prefixes",
    "tenantd.engine.kv.shares",
    "tenantd.engine.kv.slots",
    "tenantd.engine.kv.states",
    "tenantd.engine.forecast",
    "tenantd.engine.lengths",
    "tenantd.engine.rehearsal",
    "tenantd.engine.returns",
    "tenantd.engine.roster",
    "tenantd.serving.accuracy",
)
IMPURE = {"asyncio", "os", "socket", "sqlite3", "subprocess", "threading", "time", "random", "pathlib"}
MOST_LINES = 420
MOST_FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "cli" if path.is_relative_to(ROOT / "cli") else ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in it, but for what only the type checker reads."""
    found: set[str] = set()
    unread = [node for node in ast.walk(tree(path)) if isinstance(node, ast.If) and _is_type_checking(node.test)]
    hidden = {id(inner) for node in unread for inner in ast.walk(node)}
    for node in ast.walk(tree(path)):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def room(module: str) -> int | None:
    for i, name in enumerate(ROOMS):
        if module == name or module.startswith(name + "."):
            return i
    return None


def by_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    own = room(module_name(path))
    if own is None:  # tenantd/__init__.py, tenantd/__main__.py
        assert path.parent == ROOT / "tenantd" and path.stem.startswith("__"), "it is in no room"
        return
    above = {name for name in imports(path) if (other := room(name)) is not None and other > own}
    assert not above, f"{by_path(path)} imports from a later room"


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_the_engine_is_imported_by_nobody_and_knows_only_the_ground(path: Path) -> None:
    is_engine = module_name(path).startswith("tenantd.engine")
    rooms = {ROOMS[i] for name in imports(path) if (i := room(name)) is not None}
    if is_engine:
        assert rooms <= set(ENGINE_NEEDS)
    else:
        assert "tenantd.engine" not in rooms


@pytest.mark.parametrize("path", [p for p in SOURCES if module_name(p).startswith("tenantd.api")], ids=by_path)
def test_the_api_leaves_the_ledger_to_use_cases(path: Path) -> None:
    assert not re.search(r"ledger\.(?:read|write)\(", path.read_text("utf-8"))


def test_no_module_imports_itself_by_a_detour() -> None:
    modules = {module_name(path): imports(path) for path in SOURCES}
    edges = {name: [other for other in found if other in modules and other != name] for name, found in modules.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' → '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in edges[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_a_name_means_one_module() -> None:
    names = [path.stem for path in SOURCES if path.stem not in OFTEN_NAMED]
    assert not {name for name in names if names.count(name) > 1}


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_only_some_rooms_know_llama_cpp(path: Path) -> None:
    if not module_name(path).startswith(LLAMA_ROOMS):
        assert not {name for name in imports(path) if name.split(".")[0] == "llama_cpp"}


def knows_sql(path: Path) -> bool:
    """It names SQLite's module, if only in an annotation, or has a statement in a string."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import) and any(alias.name == "sqlite3" for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "sqlite3":
            return True
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value):
            return True
    return False


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_only_ledger_and_tenancy_know_sql(path: Path) -> None:
    assert not knows_sql(path) or module_name(path).startswith(SQL_ROOMS), "name what it does in one of these rooms"


def test_the_rule_about_sql_sees_it() -> None:
    names = {path.name for path in SOURCES if knows_sql(path)}
    assert {"reports.py", "keys.py", "migrations.py"} <= names


@pytest.mark.parametrize("path", [p for p in SOURCES if module_name(p) in PURE], ids=by_path)
def test_pure_rooms_have_no_clock_and_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & IMPURE


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_modules_and_public_classes_say_what_they_are(path: Path) -> None:
    module = tree(path)
    if not module.body:
        return
    assert ast.get_docstring(module), f"{by_path(path)} has no docstring"
    bare = [
        node.name
        for node in module.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not bare, f"classes without a docstring: {bare}"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *SCRIPTS], ids=by_path)
def test_files_hold_one_idea_and_functions_fit_a_screen(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES, "split it"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", TESTS, ids=by_path)
def test_tests_do_not_sleep_or_skip(path: Path) -> None:
    text = path.read_text("utf-8")
    banned = ["time." + "sleep(", "pytest." + "skip(", "mark." + "skip", "mark." + "xfail"]
    assert not [word for word in banned if word in text]


def documents() -> list[Path]:
    return [path for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]) if path.name != "CHANGELOG.md"]


def headings(path: Path) -> set[str]:
    """Of a document, as links name them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", documents(), ids=by_path)
def test_links_in_documents_lead_somewhere(path: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", path.read_text("utf-8")):
        if "://" not in target:
            place = path.parent / target if target else path
            assert place.exists(), f"{by_path(path)} links to {target}"
            assert not heading or heading in headings(place), f"{by_path(path)} links to {target}#{heading}"


@pytest.mark.parametrize("path", documents(), ids=by_path)
def test_source_files_named_in_documents_exist(path: Path) -> None:
    for name in re.findall(r"`((?:tenantd|cli|tests|examples|benchmarks|docs)/[\w./-]+)`", path.read_text("utf-8")):
        assert (ROOT / name).exists(), f"{by_path(path)} names {name}"


def test_every_room_is_in_the_table_of_rooms_in_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = text.partition("## Rooms")[2].partition("\n\n|")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if "`" in line.split("|")[1]]
    named = [name.removesuffix(".py").strip("/") for cell in cells for name in re.findall(r"`([\w./]+)`", cell)]
    assert named == [room.replace(".", "/").replace("tenantctl", "cli/tenantctl") for room in ROOMS]


def test_no_unfinished_work_is_marked_in_the_sources() -> None:
    words = "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3])
    grep = subprocess.run(
        ["grep", "-rnwE", words, "tenantd", "cli", "tests", "examples", "benchmarks", "--include=*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert grep.stdout == ""


@pytest.mark.parametrize("page", ["README.md", "docs/first-hour.md"])
def test_the_environment_is_not_made_in_a_clone_in_the_home_folder(page: str) -> None:
    made = re.findall(r"python3 -m venv (\S+)", (ROOT / page).read_text("utf-8"))
    assert made and "~/tenantd" not in made, "git clone in the home folder makes ~/tenantd"
