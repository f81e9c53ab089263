"""What is loaded is data: nothing unpickles, and nothing from outside is given to gin."""

import ast
import pathlib

import comm_lopt

PACKAGE = pathlib.Path(comm_lopt.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# Each of these runs code that its input names.
EXECUTING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def test_there_are_modules_to_look_at():
    assert len(MODULES) > 90


def test_no_module_imports_what_unpickles():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & EXECUTING, path


def test_numpy_reads_without_pickle():
    readers = ("np.load", "np.lib.format.read_array", "np.lib.format.open_memmap")
    seen = 0
    for path in MODULES:
        for call, name in calls(ast.parse(path.read_text(encoding="utf-8"))):
            for keyword in call.keywords:
                if keyword.arg == "allow_pickle":
                    assert ast.unparse(keyword.value) == "False", path
            if name in readers and name != readers[2]:
                seen += 1
                assert "allow_pickle" in {keyword.arg for keyword in call.keywords}, (path, name)
    assert seen


def test_only_the_configuration_is_given_to_gin_and_to_eval():
    parsing = {}
    for path in MODULES:
        for _, name in calls(ast.parse(path.read_text(encoding="utf-8"))):
            assert name not in ("eval", "exec", "compile", "builtins.eval"), path
            if name.startswith("gin.parse") or name in ("gin.bind_parameter", "parse_config"):
                parsing.setdefault(path.relative_to(PACKAGE).as_posix(), set()).add(name)
    assert parsing == {
        "config.py": {"gin.parse_config_files_and_bindings"},
        # Macros of the configuration that is there, with their values.
        "upstream/gin_config.py": {"gin.bind_parameter"},
    }
