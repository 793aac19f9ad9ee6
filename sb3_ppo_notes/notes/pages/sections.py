"""A source file in sections: functions, methods and what stands between them, docstring and code apart, all of it."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parents[2]


class Section(NamedTuple):
    """A part of a file.

    :param module: dotted name.
    :param name: qualified name of the function, method or class; empty for statements outside of them.
    :param docstring: dedented; empty if there is none.
    :param lines: numbers of the lines of code, from 1, docstrings left out.
    """

    module: str
    name: str
    docstring: str
    lines: tuple[int, ...]


class Source(NamedTuple):
    """A module's text, and what its names mean."""

    module: ModuleType
    text: str
    tree: ast.Module


@cache
def source_of(module: str) -> Source:
    """Text, syntax tree and module object.

    :param module: dotted name.
    :return: read once.
    """
    imported = importlib.import_module(module)
    text = inspect.getsource(imported)
    return Source(imported, text, ast.parse(text))


def sections_of(module: str) -> list[Section]:
    """A module from top to bottom; every line that is neither docstring nor empty is in exactly one section.

    :param module: dotted name.
    :return: sections in the file's order; the first one carries the module's docstring.
    """
    source = source_of(module)
    lines = source.text.splitlines()
    docstring_lines = {number for node in ast.walk(source.tree) for number in _docstring_lines(node)}
    sections, start = [Section(module, "", ast.get_docstring(source.tree) or "", ())], 1
    for name, node, end in _parts(source.tree.body, ""):
        numbers = [number for number in range(start, end + 1) if number not in docstring_lines]
        last = sections[-1]
        if name == "" and last.name == "":
            sections[-1] = last._replace(lines=(*last.lines, *numbers))
        else:
            docstring = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
            sections.append(Section(module, name, docstring or "", tuple(numbers)))
        start = end + 1
    return [section._replace(lines=_without_blank_edges(section.lines, lines)) for section in sections]


def _parts(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.stmt, int]]:
    """(qualified name, node, last line) of each part; a comment belongs to what follows it."""
    for node in body:
        end = int(node.end_lineno or node.lineno)
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node, end
        elif isinstance(node, ast.ClassDef):
            methods = [index for index, part in enumerate(node.body) if isinstance(part, ast.FunctionDef)]
            if not methods:
                yield prefix + node.name, node, end
                continue
            first = node.body[methods[0]]
            head = node.body[methods[0] - 1] if methods[0] else None
            top = int(head.end_lineno or 0) if head is not None else _first_line(first) - 1
            yield prefix + node.name, node, top
            yield from _parts(node.body[methods[0] :], f"{prefix}{node.name}.")
        else:
            yield "", node, end


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _docstring_lines(node: ast.AST) -> range:
    if (
        isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    ):
        return range(node.body[0].lineno, int(node.body[0].end_lineno or 0) + 1)
    return range(0)


def _without_blank_edges(numbers: tuple[int, ...], lines: list[str]) -> tuple[int, ...]:
    full = [index for index, number in enumerate(numbers) if lines[number - 1].strip()]
    return numbers[full[0] : full[-1] + 1] if full else ()


class Reference(NamedTuple):
    """A name in the code that is an object of ours.

    :param line: from 1.
    :param column: of its first character, from 0.
    :param length: in characters.
    :param target: (module, qualified name) of the object.
    :param caller: qualified name of the function or class around it; empty at module level.
    """

    line: int
    column: int
    length: int
    target: tuple[str, str]
    caller: str


@cache
def references_in(module: str) -> list[Reference]:
    """Names that resolve to functions, classes and methods of the package: by Python's own rules, nothing is guessed.

    :param module: dotted name.
    :return: in no particular order.
    """
    source = source_of(module)
    lines = source.text.splitlines()
    references = []
    for node, caller in _with_callers(source.tree, ""):
        target = _identity(_resolve(node, source.module, caller))
        if target is None or not isinstance(node, ast.Name | ast.Attribute) or ast.unparse(node) == "self":
            continue
        length = len(node.attr if isinstance(node, ast.Attribute) else node.id)
        line = int(node.end_lineno or node.lineno)
        # ast counts bytes
        end = len(lines[line - 1].encode()[: int(node.end_col_offset or 0)].decode())
        references.append(Reference(line, end - length, length, target, caller))
    return references


def _with_callers(node: ast.AST, caller: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        inside = caller
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inside = f"{caller}.{child.name}" if caller else child.name
        yield child, inside
        yield from _with_callers(child, inside)


def _resolve(node: ast.AST, module: ModuleType, caller: str) -> Any:
    """The object a name or attribute stands for; ``None`` where that is decided when the code runs."""
    if isinstance(node, ast.Name):
        if node.id == "self":
            return vars(module).get(caller.split(".")[0]) if "." in caller else None
        return vars(module).get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, module, caller)
        if inspect.ismodule(owner) or inspect.isclass(owner):
            return inspect.getattr_static(owner, node.attr, None)
    return None


def _identity(target: Any) -> tuple[str, str] | None:
    if isinstance(target, property):
        target = target.fget
    if isinstance(target, staticmethod | classmethod):
        target = target.__func__
    if not (inspect.isfunction(target) or inspect.isclass(target)):
        return None
    module = getattr(target, "__module__", "") or ""
    return (module, target.__qualname__) if module.startswith("sb3_ppo_notes") else None


@cache
def callers() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Places in the package that use an object, by the object.

    :return: (module, qualified name) -> the same of functions and classes that name it, in alphabetical order.
    """
    used: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if path.name.startswith("__"):
            continue
        for reference in references_in(module):
            if (module, reference.caller) != reference.target and reference.caller:
                used.setdefault(reference.target, set()).add((module, reference.caller))
    return {target: sorted(places) for target, places in used.items()}
