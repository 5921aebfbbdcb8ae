"""The Python client, from its signatures and docstrings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import griffe

from docs.generate.markdown import code, table

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE: Final = "eagleeye.client"
_NAMED: Final = {  # sections that name things with a type and a meaning -> the heads of their tables
    griffe.DocstringSectionKind.parameters: ("argument", "type", "meaning"),
    griffe.DocstringSectionKind.attributes: ("attribute", "type", "meaning"),
}


def markdown() -> str:
    """A section for each public name, the clients first, then what they give, then what they raise."""
    package = cast("griffe.Module", griffe.load(_PACKAGE, docstring_parser=griffe.Parser.google))
    classes = [cast("griffe.Class", package[name].final_target) for name in map(str, package.exports or ())]
    return "\n\n".join(part for each in sorted(classes, key=_place) for part in _class(each))


def _place(each: griffe.Class) -> tuple[bool, bool, bool, str]:
    """Where a class stands: the clients, results, errors, and in front of its like what the others resemble."""
    is_error = each.module.name == "errors"
    return is_error, not each.name.endswith("Client"), each.name not in {"Client", "EagleEyeError"}, each.name


def _class(each: griffe.Class) -> Iterator[str]:
    yield f"## {each.name}"
    if each.bases and each.module.name == "errors":
        yield f"A kind of {', '.join(code(str(base)) for base in each.bases)}."
    if "__init__" in each.members:
        yield _signature(each.name, cast("griffe.Function", each.members["__init__"]), returns=False)
    yield from _docstring(each)
    for name, member in each.members.items():
        if member.is_function and not name.startswith("_"):
            function = cast("griffe.Function", member)
            yield f"### {each.name}.{name}"
            yield _signature(name, function, returns=True)
            yield from _docstring(function)


def _signature(name: str, function: griffe.Function, *, returns: bool) -> str:
    """One argument a line, without `self`."""
    written = []
    is_by_name = False
    for parameter in list(function.parameters)[1:]:
        if parameter.kind is griffe.ParameterKind.keyword_only and not is_by_name:
            is_by_name = True
            written.append("*")
        written.append(_parameter(parameter))
    arguments = "".join(f"\n    {each}," for each in written) + "\n" if written else ""
    answer = f" -> {function.returns}" if returns else ""
    prefix = "async def " if "async" in function.labels else "def " if returns else "class "
    return f"```python\n{prefix}{name}({arguments}){answer}\n```"


def _parameter(parameter: griffe.Parameter) -> str:
    if parameter.kind is griffe.ParameterKind.var_keyword:
        return f"**{parameter.name}: {parameter.annotation}"
    return f"{parameter.name}: {parameter.annotation}" + ("" if parameter.required else f" = {parameter.default}")


def _docstring(documented: griffe.Object) -> Iterator[str]:
    for section in documented.docstring.parsed if documented.docstring else ():
        if section.kind is griffe.DocstringSectionKind.text:
            yield str(section.value)
        elif section.kind in _NAMED:
            rows = [(code(each.name), code(str(each.annotation)), each.description) for each in section.value]
            yield table(_NAMED[section.kind], rows)
        elif section.kind is griffe.DocstringSectionKind.raises:
            yield table(("raises", "when"), [(code(str(each.annotation)), each.description) for each in section.value])
        else:
            raise ValueError(f"{documented.path}: nothing here writes sections of the kind {section.kind.value}")
