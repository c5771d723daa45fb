"""Expressions of GitHub Actions (`${{ ... }}` and `if:`), as far as these workflows use them, by their published rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

TOKEN = re.compile(
    r"\s*(?:('(?:[^']|'')*')|(\d+(?:\.\d+)?)|([A-Za-z_][\w-]*(?:\.(?:[A-Za-z_][\w-]*|\*))*)|(&&|\|\||==|!=|[()!,]))"
)
HOLE = re.compile(r"\$\{\{((?:(?!\}\}).)*)\}\}", re.S)


class Expression:
    """A parser of one expression that computes while it reads. Unknown names are empty, as in GitHub; unknown functions are errors."""

    def __init__(
        self, text: str, names: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]
    ) -> None:
        self.tokens: list[tuple[str, str]] = []
        place = 0
        text = text.strip()
        while place < len(text):
            found = TOKEN.match(text, place)
            if found is None:
                raise ValueError(f"cannot read {text[place:]!r} in {text!r}")
            kind = ("text", "number", "name", "sign")[(found.lastindex or 1) - 1]
            self.tokens.append((kind, found.group(found.lastindex or 0)))
            place = found.end()
        self.names, self.functions = names, functions

    def value(self) -> Any:
        found = self._or()
        if self.tokens:
            raise ValueError(f"left over: {self.tokens}")
        return found

    def _take(self, *signs: str) -> str:
        if self.tokens and self.tokens[0][0] == "sign" and self.tokens[0][1] in signs:
            return self.tokens.pop(0)[1]
        return ""

    def _or(self) -> Any:
        left = self._and()
        while self._take("||"):
            right = self._and()
            left = left or right
        return left

    def _and(self) -> Any:
        left = self._equal()
        while self._take("&&"):
            right = self._equal()
            left = left and right
        return left

    def _equal(self) -> Any:
        left = self._not()
        while sign := self._take("==", "!="):
            same = self._same(left, self._not())
            left = same if sign == "==" else not same
        return left

    @staticmethod
    def _same(left: Any, right: Any) -> bool:
        one, other = ("" if each is None else each for each in (left, right))
        return str(one).lower() == str(other).lower()  # GitHub compares texts without case

    def _not(self) -> Any:
        return not self._not() if self._take("!") else self._one()

    def _one(self) -> Any:
        if self._take("("):
            found = self._or()
            assert self._take(")")
            return found
        kind, word = self.tokens.pop(0)
        if kind == "text":
            return word[1:-1].replace("''", "'")
        if kind == "number":
            return float(word)
        if kind == "sign":
            raise ValueError(f"unexpected {word}")
        if self._take("("):
            given = []
            while not self._take(")"):
                given.append(self._or())
                self._take(",")
            return self.functions[word](*given)
        if word in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[word]
        return look_up(self.names, word)


def look_up(names: Mapping[str, Any], word: str) -> Any:
    """Return the value of a dotted name, None where there is none; after `*`, a list of that of each member."""
    first, _, after = word.partition(".*.")
    found: Any = names
    for part in first.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return [look_up(one, after) for one in (found or {}).values()] if after else found


def text_of(value: Any) -> str:
    """Return a value as GitHub writes it into a text."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def filled(text: Any, names: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> str:
    """Return a text with its expressions computed."""
    return HOLE.sub(lambda hole: text_of(Expression(hole.group(1), names, functions).value()), text_of(text))


def condition(text: Any, names: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> bool:
    """Return whether an `if:` holds; without a word about the status it needs success, as in GitHub."""
    words = text_of(text)
    whole = HOLE.fullmatch(words.strip())
    inner = whole.group(1) if whole else words
    if not re.search(r"\b(always|failure|cancelled|success)\(", inner):
        inner = f"success() && ({inner or 'true'})"
    return bool(Expression(inner, names, functions).value())
