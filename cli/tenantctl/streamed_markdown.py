"""Shows an answer in Markdown on a terminal while it is generated.

What is complete is printed for good, block by block, and scrolls away as usual. Only the last block is drawn again as
it grows, and of that no more than the screen holds.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme

from tenantctl.fences import fence_after
from tenantd.printable import printable

REDRAWN_PER_S: Final = 8
_STYLES: Final = {
    "markdown.code": "cyan",
    "markdown.code_block": "cyan",
    "markdown.h1": "bold underline",
    "markdown.h2": "bold",
    "markdown.h3": "bold",
    "markdown.h4": "italic",
    "markdown.item.number": "bold",
    "markdown.list": "none",
    "markdown.table.border": "dim",
    "markdown.table.header": "bold",
}
"""Without colours of the background, so that light and dark terminals show them alike."""


class MarkdownScreen:
    """Takes an answer piece by piece. Call `end` in any case."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, theme=Theme(_STYLES))
        self._text = ""  # of the block that grows
        self._has_printed = False
        self._live = Live(
            _Growing(self),
            console=self._console,
            refresh_per_second=REDRAWN_PER_S,
            transient=True,
            vertical_overflow="crop",
        )
        self._is_thinking = False

    def think(self) -> None:
        """Say that the model thinks before it answers."""
        self._is_thinking = True
        self._live.start()

    def write(self, piece: str) -> None:
        """Show more of the answer."""
        self._is_thinking = False
        self._text += printable(piece)
        if "\n" in self._text and (end := complete(self._text)):
            self._print(self._text[:end])
            self._text = self._text[end:]
        self._live.start()

    def end(self) -> None:
        """Print what is left."""
        self._is_thinking = False
        self._live.stop()
        if self._text.strip():
            self._print(self._text)
        self._text = ""

    def _print(self, text: str) -> None:
        if self._has_printed:
            self._console.print()
        self._console.print(_Plain(text, hyperlinks=False), crop=False)
        self._has_printed = True

    def growing(self) -> Markdown | Text:
        """The end of the block that grows."""
        if self._is_thinking:
            return Text("thinking…", "dim")
        lines = self._text.splitlines(keepends=True)
        kept = lines[-self._console.height :]
        fence = "" if len(kept) == len(lines) else _open_fence(lines[: -len(kept)])
        return _Plain(("\n" if self._has_printed else "") + (fence and f"{fence}\n") + "".join(kept), hyperlinks=False)


class _Growing:
    """Draws the last lines that the screen holds."""

    def __init__(self, screen: MarkdownScreen) -> None:
        self._screen = screen

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._screen.growing(), options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from _trimmed(line)
            yield Segment.line()


class _PlainCode(CodeBlock):
    """Code as it is, to be copied: without padding, background or line numbers."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        style = console.get_style("markdown.code_block")
        yield Text(str(self.text).rstrip("\n"), style, no_wrap=True, overflow="ignore")


class _LeftHeading(Heading):
    """A heading at the left, without a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text: Any = self.text
        text.justify = "left"
        yield text


class _Segments:
    """What has been rendered by halves."""

    def __init__(self, parts: RenderResult) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._parts


class _Plain(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "fence": _PlainCode,
        "code_block": _PlainCode,
        "heading_open": _LeftHeading,
    }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Without the empty lines that lists and tables have around them."""
        rendered = console.render(_Segments(super().__rich_console__(console, options)), options)
        lines = [_trimmed(line) for line in Segment.split_lines(rendered)]
        while lines and not lines[-1]:
            lines.pop()
        for line in itertools.dropwhile(lambda line: not line, lines):
            yield from line
            yield Segment.line()


def _trimmed(line: list[Segment]) -> list[Segment]:
    """A line without the spaces at its end, which would fill the screen's width and be copied with the text."""
    line = list(line)
    while line and not line[-1].text.rstrip():
        line.pop()
    if line:
        line[-1] = Segment(line[-1].text.rstrip(), line[-1].style, line[-1].control)
    return line


def complete(text: str) -> int:
    """How many characters of Markdown are blocks that cannot change any more: up to the last line that follows an empty
    one, is not indented, and is in no fence."""
    end, position, fence, after_blank = 0, 0, "", False
    for line in text.splitlines(keepends=True):
        is_blank = not line.strip()
        if not fence and after_blank and not is_blank and not line[0].isspace():
            end = position
        fence = fence_after(line, fence)
        after_blank = is_blank and not fence
        position += len(line)
    return end


def _open_fence(lines: list[str]) -> str:
    fence = ""
    for line in lines:
        fence = fence_after(line, fence)
    return fence
