"""Translates GBNF, llama.cpp's grammars (grammars/README.md there), to the Lark dialect that llguidance compiles.

Everything that refers to no recursive rule becomes one lexeme, so that it is matched like a regular expression:
exactly. Between lexemes, llguidance's lexer is greedy: if a recursive rule follows a repetition, the
repetition takes all it can. Linear in the grammar's length. Only literals and character classes of the client
reach the output, and only as escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MAX_NESTING: Final = 100
"""Maximum nesting of parentheses, because the parser recurses for each."""
MAX_LEXEME_DEPTH: Final = 32
"""Maximum nesting of rules in one lexeme, because llguidance recurses for each. Its parser handles what is deeper."""
MAX_REPETITIONS: Final = 2000  # llama.cpp's limit (llama-grammar.cpp, MAX_REPETITION_THRESHOLD)
MAX_REPETITIONS_OF_ONE: Final = 4  # as in "a"{2}{3}
OPTIONS: Final = '%llguidance {"no_forcing": true}'
"""Turns off writing text ahead that the grammar forces: for `r ::= "the "+ r r` it would never end."""
ROOT: Final = "root"

_SPACE: Final = re.compile(r"(?:[ \t]|#[^\r\n]*)*+")
_SPACE_AND_LINES: Final = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*+")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]++")
_COUNT: Final = re.compile(r"\{[ \t]*(\d{1,9})?[ \t]*(,)?[ \t]*(\d{1,9})?[ \t]*\}")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^"}
_HEX_DIGITS: Final = {"x": 2, "u": 4, "U": 8}


class GbnfError(Exception):
    """What is wrong and in which line. Quotes nothing of the grammar except names of rules, which are harmless."""


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A literal or a character class, in Lark's notation."""

    lark: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Another rule."""

    name: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """`most` None means unlimited."""

    node: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Sequence:
    """A sequence; if empty, it matches the empty text."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice between alternatives."""

    nodes: tuple[Node, ...]


Node = Lexeme | Ref | Repeat | Sequence | Choice


def gbnf_to_lark(text: str) -> str:
    """Translate a grammar; `root` becomes `start`. Raises GbnfError."""
    rules = _Parser(text).rules()
    for name, rule in rules.items():
        for other in _refs(rule):
            if other not in rules:
                raise GbnfError(f"the rule {name[:40]} refers to {other[:40]}, which is not defined")
    if ROOT not in rules:
        raise GbnfError('it has no rule "root"')
    return _Writer(rules).lark()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._text):
            name = self._name()
            self._skip(_SPACE)
            if not self._text.startswith("::=", self._at):
                raise self._error('expected "::=" after the name of a rule')
            self._at += 3
            self._skip(_SPACE_AND_LINES)
            if name in rules:
                raise self._error("a rule is defined twice")
            rules[name] = self._choice(nesting=0)
            self._skip(_SPACE)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._error("expected the end of the rule")
            self._skip(_SPACE_AND_LINES)
        return rules

    def _choice(self, nesting: int) -> Node:
        options = [self._sequence(nesting)]
        while self._peek() == "|":
            self._at += 1
            self._skip(_SPACE_AND_LINES)
            options.append(self._sequence(nesting))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self, nesting: int) -> Node:
        between = _SPACE_AND_LINES if nesting else _SPACE
        nodes: list[Node] = []
        while (node := self._atom(nesting)) is not None:
            self._skip(between)
            nodes.append(self._repeated(node, between))
        return nodes[0] if len(nodes) == 1 else Sequence(tuple(nodes))

    def _repeated(self, node: Node, between: re.Pattern[str]) -> Node:
        for _ in range(MAX_REPETITIONS_OF_ONE):
            if (count := self._repetition()) is None:
                return node
            node = Repeat(node, *count)
            self._skip(between)
        raise self._error(f"more than {MAX_REPETITIONS_OF_ONE - 1} repetitions follow one another")

    def _atom(self, nesting: int) -> Node | None:
        """The next element; None at the end of a sequence."""
        match self._peek():
            case '"':
                return self._literal()
            case "[":
                return self._character_class()
            case ".":
                self._at += 1
                return Lexeme("/(?s:.)/")
            case "(":
                return self._group(nesting)
            case "<" | "!":
                raise self._error("tokens cannot be named in a grammar; write their text")
            case "" | "|" | ")" | "\r" | "\n":
                return None
        return Ref(self._name())

    def _group(self, nesting: int) -> Node:
        if nesting == MAX_NESTING:
            raise self._error(f"parentheses are nested deeper than {MAX_NESTING}")
        self._at += 1
        self._skip(_SPACE_AND_LINES)
        node = self._choice(nesting + 1)
        if self._peek() != ")":
            raise self._error('expected ")"')
        self._at += 1
        return node

    def _repetition(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        character = self._peek()
        if character in simple:
            self._at += 1
            return simple[character]
        if character != "{":
            return None
        found = _COUNT.match(self._text, self._at)
        if found is None or not (found[1] or found[3]):
            raise self._error("expected a repetition like {2}, {2,} or {2,5}")
        least = int(found[1] or 0)
        most = int(found[3]) if found[3] else (None if found[2] else least)
        if max(least, most or 0) > MAX_REPETITIONS:
            raise self._error(f"a repetition is more than {MAX_REPETITIONS}")
        if most is not None and most < least:
            raise self._error("a repetition's maximum is less than its minimum")
        self._at = found.end()
        return least, most

    def _literal(self) -> Lexeme:
        self._at += 1
        characters: list[str] = []
        while self._peek() != '"':
            characters.append(self._character())
        self._at += 1
        return Lexeme('"' + "".join(map(_in_quotes, characters)) + '"')

    def _character_class(self) -> Lexeme:
        self._at += 1
        parts = ["[^" if self._peek() == "^" else "["]
        self._at += self._peek() == "^"
        while self._peek() != "]":
            first = last = self._character()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._character()
            if last < first:
                raise self._error("a range of characters ends before it begins")
            parts.append(_in_class(first) if last == first else f"{_in_class(first)}-{_in_class(last)}")
        self._at += 1
        if len(parts) == 1:
            raise self._error("a character class is empty")
        return Lexeme(f"/{''.join(parts)}]/")

    def _character(self) -> str:
        character = self._peek()
        if character in ("", "\r", "\n"):
            raise self._error("a literal or character class is not closed")
        self._at += 1
        return self._escaped() if character == "\\" else character

    def _escaped(self) -> str:
        kind = self._peek()
        self._at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self._text[self._at : self._at + _HEX_DIGITS.get(kind, 0)]
        if not digits or len(digits) < _HEX_DIGITS[kind] or not set(digits) <= set("0123456789abcdefABCDEF"):
            raise self._error('an escape is not one of \\n \\r \\t \\\\ \\" \\[ \\] \\xNN \\uNNNN \\UNNNNNNNN')
        self._at += len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise self._error("an escape is not a Unicode character")
        return chr(code)

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._error("expected a rule's name, a literal, a character class or a group")
        self._at = found.end()
        return found[0]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, space: re.Pattern[str]) -> None:
        found = space.match(self._text, self._at)
        assert found is not None, "it matches the empty text as well"
        self._at = found.end()

    def _error(self, what: str) -> GbnfError:
        return GbnfError(f"line {self._text.count(chr(10), 0, self._at) + 1}: {what}")


@dataclass
class _Writer:
    """Names rules by number: `s3` for the third rule if it is part of a lexeme, else `r3`."""

    rules: dict[str, Node]
    lines: list[str] = field(default_factory=list)

    def lark(self) -> str:
        depths = _lexeme_depths(self.rules)
        self._names = {name: f"S{number}" if name in depths else f"r{number}" for number, name in enumerate(self.rules)}
        self._lexemes = 0
        for name, rule in self.rules.items():
            body = self._in_lexeme(rule) if name in depths else self._in_rule(rule)
            self.lines.append(f"{self._names[name]}: {body}")
        return "\n".join([OPTIONS, f"start: {self._names[ROOT]}", *self.lines, ""])

    def _is_lexeme(self, node: Node) -> bool:
        return all(self._names[name].startswith("S") for name in _refs(node))

    def _in_lexeme(self, node: Node) -> str:
        return self._join(node, [self._in_lexeme(child) for child in _children(node)])

    def _in_rule(self, node: Node) -> str:
        if self._is_lexeme(node):
            return self._new_lexeme(node)
        if isinstance(node, Sequence):
            return "(" + " ".join(self._in_rule(part) for part in self._runs(node)) + ")"
        return self._join(node, [self._in_rule(child) for child in _children(node)])

    def _runs(self, node: Sequence) -> list[Node]:
        """Merge adjacent lexemes, so that the first is not greedier than the rest allows."""
        parts: list[Node] = []
        run: list[Node] = []
        for child in node.nodes:
            if self._is_lexeme(child):
                run.append(child)
                continue
            parts += [Sequence(tuple(run)), child] if run else [child]
            run = []
        return [*parts, Sequence(tuple(run))] if run else parts

    def _new_lexeme(self, node: Node) -> str:
        if isinstance(node, Ref):
            return self._names[node.name]
        if isinstance(node, Sequence) and not node.nodes:
            return '""'
        self._lexemes += 1
        name = f"L{self._lexemes}"
        self.lines.append(f"{name}: {self._in_lexeme(node)}")
        return name

    def _join(self, node: Node, parts: list[str]) -> str:
        match node:
            case Lexeme(lark):
                return lark
            case Ref(name):
                return self._names[name]
            case Sequence():
                return "(" + " ".join(parts) + ")" if parts else '""'
            case Choice():
                return "(" + " | ".join(parts) + ")"
            case Repeat(_, least, most):
                return f"({parts[0]}){{{least},{'' if most is None else most}}}"


def _lexeme_depths(rules: dict[str, Node]) -> dict[str, int]:
    """The rules that are not recursive, with their nesting of rules; without those that are too deep."""
    users: dict[str, list[str]] = {name: [] for name in rules}
    open_: dict[str, int] = {}
    for name, rule in rules.items():
        others = set(_refs(rule))
        open_[name] = len(others)
        for other in others:
            users[other].append(name)
    depths: dict[str, int] = {name: 0 for name, count in open_.items() if count == 0}
    ready = list(depths)
    while ready:
        name = ready.pop()
        for user in users[name]:
            open_[user] -= 1
            if open_[user] == 0:
                depth = 1 + max(depths[other] for other in set(_refs(rules[user])))
                if depth <= MAX_LEXEME_DEPTH:
                    depths[user] = depth
                    ready.append(user)
    return depths


def _children(node: Node) -> Iterable[Node]:
    match node:
        case Sequence(nodes) | Choice(nodes):
            return nodes
        case Repeat(child):
            return (child,)
    return ()


def _refs(node: Node) -> Iterable[str]:
    """All rules that an element refers to."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Ref):
            yield node.name
        waiting.extend(_children(node))


def _in_quotes(character: str) -> str:
    if character.isascii() and (character.isalnum() or character == " "):
        return character
    return f"\\u{ord(character):04x}" if ord(character) <= 0xFFFF else character


def _in_class(character: str) -> str:
    return character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):x}}}"
