"""Reads nested tables of TOML field by field, so that whatever is wrong is named by its place."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

T = TypeVar("T")


class BadProfile(Exception):
    """A profile says something that cannot be; the message names the place and what is allowed there."""


class Table:
    """One table; each field is taken once, and `done` refuses what is left.

    Args:
        data: its fields.
        place: how messages call it, such as `stages[1]`; empty for the profile itself.
    """

    def __init__(self, data: object, place: str = "") -> None:
        if not isinstance(data, dict):
            raise BadProfile(f"{place} is {data!r}; it must be a table")
        self._data: Mapping[str, Any] = data
        self._place = place
        self._known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def text(self, name: str, default: str | None = None, among: Collection[str] = ()) -> str:
        """A text that is not empty, one of `among` if there are any."""
        value = self._take(name, default)
        if not isinstance(value, str) or not value or (among and value not in among):
            self._refuse(name, value, f"one of {', '.join(sorted(among))}" if among else "a text")
        return str(value)

    def number(
        self, name: str, default: float | None = None, *, least: float = 0.0, most: float = math.inf, above: bool = True
    ) -> float:
        """A finite number above `least`, or from it on, up to `most`."""
        return self._number(name, self._take(name, default), least, most, above=above)

    def whole(self, name: str, default: int | None = None, *, least: int = 0) -> int:
        """A whole number from `least` on."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self._refuse(name, value, f"a whole number, {least} or more")
        return int(value)

    def slope(self, name: str) -> tuple[float, float]:
        """A number from 0 on, or two of them: what it is at the begin and at the end."""
        value = self._take(name, None)
        both = value if isinstance(value, list) else [value, value]
        if len(both) != 2:  # noqa: PLR2004 (begin and end)
            self._refuse(name, value, "a number, or two: at the begin and at the end")
        begin, end = (self._number(name, each, 0.0, math.inf, above=False) for each in both)
        return begin, end

    def pair(self, name: str) -> tuple[int, int]:
        """Two whole numbers from 1 on."""
        value = self._take(name, None)
        if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):  # noqa: PLR2004 (a pair)
            self._refuse(name, value, "two whole numbers, 1 or more, such as [1920, 1080]")
        return value[0], value[1]

    def weights(self, name: str, among: Collection[str], default: Mapping[str, float]) -> dict[str, float]:
        """A table of numbers from 0 on, by names of `among`; those that are 0 are left out."""
        table = self.table(name, default)
        weights = {each: table.number(each, 0.0, above=False) for each in among}
        table.done()
        return {each: weight for each, weight in weights.items() if weight}

    def table(self, name: str, default: Mapping[str, Any]) -> Table:
        """A table within this one."""
        return Table(self._take(name, default), self._path(name))

    def tables(self, name: str) -> list[Table]:
        """A list of tables; empty if there is none."""
        value = self._take(name, [])
        if not isinstance(value, list):
            self._refuse(name, value, f"a list of tables, [[{self._path(name)}]]")
        return [Table(each, f"{self._path(name)}[{n}]") for n, each in enumerate(value)]

    def refuse(self, text: str) -> None:
        """Stop because of the table as a whole.

        Raises:
            BadProfile: always.
        """
        raise BadProfile(f"{self._place}: {text}" if self._place else text)

    def done(self) -> None:
        """Stop if there is a field that nobody asked for.

        Raises:
            BadProfile: there is one; the message names the closest that is known.
        """
        for name in self._data:
            if name not in self._known:
                closest = difflib.get_close_matches(name, self._known, n=1)
                hint = f"did you mean {closest[0]}?" if closest else f"there are {', '.join(sorted(self._known))}"
                raise BadProfile(f"{self._path(name)} is unknown; {hint}")

    def _take(self, name: str, default: T | None) -> Any:
        self._known.add(name)
        value = self._data.get(name, default)
        if value is None:
            raise BadProfile(f"{self._path(name)} is missing")
        return value

    def _number(self, name: str, value: Any, least: float, most: float, *, above: bool) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value < least or value > most or (above and value == least):
            lower = f"above {least:g}" if above else f"{least:g} or more"
            self._refuse(name, value, f"a number {lower}" + (f", {most:g} at most" if math.isfinite(most) else ""))
        return float(value)

    def _path(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name

    def _refuse(self, name: str, value: object, allowed: str) -> None:
        raise BadProfile(f"{self._path(name)} is {value!r}; it must be {allowed}")
