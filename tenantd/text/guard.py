"""Keeps the text of messages from becoming special tokens.

Template text may contain special tokens; message text may not. They are searched for here rather than by
llama.cpp's `parse_special`, which would search the whole prompt, including message text, and takes 90 ms for 10 kB of
HTML with a vocabulary of 6,000 control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Set
from typing import Final

from tenantd.errors import ContextLengthExceeded
from tenantd.text.image_parts import ImagePlaces, Placed
from tenantd.text.special import SpecialToken, Spellings, TokenKind
from tenantd.text.template import ChatTemplate
from tenantd.text.vocabulary import Vocabulary

_TURN_MARK: Final = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
_BRACKETED: Final = re.compile(r"<.+>|\[.+\]", re.DOTALL)
_HTML: Final = re.compile(
    "</?(a|abbr|address|article|aside|b|big|blockquote|body|br|button|caption|center|cite|code|col|colgroup|dd|del|div|"
    "dl|dt|em|fieldset|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|"
    "legend|li|link|main|mark|meta|nav|ol|option|p|pre|q|s|samp|script|section|select|small|span|strong|style|sub|sup|"
    "table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul|var|video)/?>"
)
"""Elements of HTML as vocabularies spell them. They are in many texts, and structure no conversation."""
_WORDS: Final = re.compile(r"[\w .,:/-]+")
"""Text that brackets no name, so that it cannot make a turn mark, whatever it is joined to."""
_WHITESPACE: Final = " \t\n\v\f\r"
"""Whitespace according to C's isspace(), which llama.cpp uses."""


class Guard:
    """The special tokens of one vocabulary, as its chat template uses them.

    Forbidden in messages: CONTROL and UNKNOWN tokens, and USER_DEFINED tokens other than those of ordinary text (runs
    of spaces and newlines, letters, words, HTML's elements), and other than any that the template's text contains. Of
    the forbidden ones, those that the template looks for in contents (for example to remove a <think> block) are
    allowed in an assistant's own turn.
    """

    def __init__(self, vocabulary: Vocabulary, template: ChatTemplate | None) -> None:
        self.vocabulary = vocabulary
        tokens = [token for token in vocabulary.special_tokens if token.text]
        parsed = [token for token in tokens if token.kind is not TokenKind.USER_DEFINED]
        marks = [t for t in tokens if t.kind is TokenKind.USER_DEFINED and _is_mark(t.text, template)]
        inspected = {t for t in marks if _is_inspected(t.text, template)}
        self.parsed = {token.text: token for token in parsed}
        self.parsed_spellings = Spellings(self.parsed)
        self.special_ids = frozenset(token.id for token in tokens)
        self.control_ids = frozenset(token.id for token in parsed if token.kind is TokenKind.CONTROL)
        self.mark_ids = frozenset(token.id for token in marks)
        self.inspected_ids = frozenset(token.id for token in inspected)
        self._forbidden = Spellings(t.text for t in (*parsed, *marks)) if marks else self.parsed_spellings
        self.marks = Spellings(token.text for token in marks)
        self.inspected = Spellings(token.text for token in inspected)
        self._forbidden_to_assistant = self._forbidden
        if inspected:
            self._forbidden_to_assistant = Spellings(t.text for t in (*parsed, *marks) if t not in inspected)
        words = () if template is None else template.literals | template.settings
        self.shown_words = frozenset(text for text in words if _WORDS.fullmatch(text) and not self._spells(text))
        """Texts of the template that a client may repeat in settings, because it may compare them."""
        first = vocabulary.tokenize("a", add_bos=False)
        self.adds_space = bool(first) and vocabulary.piece(first[0]).startswith(b" ")

    def forbidden_to(self, role: str) -> Spellings:
        """The tokens that the content of a message of this role must not contain."""
        return self._forbidden_to_assistant if role == "assistant" else self._forbidden

    def _spells(self, text: str) -> bool:
        return any(spelling for _, spelling in self._forbidden.split(text))


def _is_mark(text: str, template: ChatTemplate | None) -> bool:
    """Whether a USER_DEFINED token may structure conversations, unlike runs of spaces, words and HTML tags."""
    if _BRACKETED.fullmatch(text.strip()) and not _HTML.fullmatch(text.strip()):
        return True
    looks_like_markup = any(map(str.isalpha, text)) and not text.strip().isalnum()
    return looks_like_markup and template is not None and any(text in literal for literal in template.literals)


def _is_inspected(text: str, template: ChatTemplate | None) -> bool:
    if _TURN_MARK.fullmatch(text) or template is None:
        return False
    return any(text in literal for literal in template.inspected)


class GuardedTokens:
    """The token ids of one prompt, built from template text and message text.

    `trail` lists the special tokens of the template text, in order: the structure of the conversation. `places` tells
    how many tokens there are up to the end of each. `hidden_tokens` counts the tokens up to the end of a system prompt.
    `placed` are the images in it.
    """

    def __init__(
        self,
        guard: Guard,
        context_tokens: int | None = None,
        start: Sequence[int] | None = None,
        images: ImagePlaces | None = None,
    ) -> None:
        """`start` are tokens of a system prompt that stand first, instead of a BOS if the model wants one. `images`
        are those that have marks in the texts.

        Adding text raises ContextLengthExceeded as soon as the prompt cannot fit the context.
        """
        self._guard = guard
        self._context_tokens = context_tokens
        self._bos = guard.vocabulary.tokenize("", add_bos=True)
        self.ids = list(self._bos if start is None else start)
        self.trail: list[int] = []
        self.places: list[int] = []
        self.hidden_tokens = 0 if start is None else len(start)
        self._images = images
        self.placed: list[Placed] = []

    def add_template(self, text: str) -> None:
        """Add text that may contain special tokens."""
        self._with_images(text, self._add_template)

    def _with_images(self, text: str, add: Callable[[str], None]) -> None:
        if self._images is None:
            add(text)
            return
        for before, image in self._images.split(text):
            add(before)
            if image is None:
                continue
            lead, own, end = self._images.tokens(image)
            self.ids += lead
            self.placed.append(Placed(len(self.ids), len(own), image))
            self.ids += own
            self.ids += end
            self._check_length()

    def _add_template(self, text: str) -> None:
        strips_right = False
        for gap, spelling in self._guard.parsed_spellings.split(text):
            token = self._guard.parsed.get(spelling)
            if strips_right:
                gap = gap.lstrip(_WHITESPACE)
            if token and token.strips_left:
                gap = gap.rstrip(_WHITESPACE)
            self._add(gap, self._guard.control_ids)
            if token:
                self._add_special(token)
            strips_right = token is not None and token.strips_right

    def add_message(self, text: str) -> None:
        """Add text that never becomes a forbidden token, whatever it contains."""
        self._with_images(text, self._add_message)

    def _add_message(self, text: str) -> None:
        forbidden = self._guard.control_ids | self._guard.mark_ids
        for gap, spelling in self._guard.marks.split(text):
            self._add(gap, forbidden)
            self._add(spelling, forbidden)

    def add_mark(self, token: int) -> None:
        """Add a token by its id, as where text is to be filled in."""
        self.ids.append(token)

    def end_system_prompt(self) -> None:
        """What was added so far is, or stands before, a system prompt. No token reaches over its end."""
        self.hidden_tokens = len(self.ids)

    def _add_special(self, token: SpecialToken) -> None:
        if not self.ids == self._bos == [token.id]:  # the template may itself begin with the BOS
            self.ids.append(token.id)
        self.trail.append(token.id)
        self.places.append(len(self.ids))

    def _add(self, text: str, forbidden: Set[int]) -> None:
        if not text:
            return
        ids = self._tokenize(text)
        if forbidden.isdisjoint(ids):
            for place, token in enumerate(ids, start=len(self.ids) + 1):
                if token in self._guard.mark_ids:
                    self.trail.append(token)
                    self.places.append(place)
            self.ids += ids
            self._check_length()
        elif len(text) > 1:
            # USER_DEFINED tokens always match, and merges can yield any token; neither half can spell it.
            self._add(text[: len(text) // 2], forbidden)
            self._add(text[len(text) // 2 :], forbidden)
        # else it is a single character that only a forbidden token spells: drop it

    def _check_length(self) -> None:
        """The limit is twice the context, because the final split of a conversation may have fewer tokens."""
        if self._context_tokens is not None and len(self.ids) > 2 * self._context_tokens:
            raise ContextLengthExceeded.of(len(self.ids), self._context_tokens, at_least=True)

    def _tokenize(self, text: str) -> list[int]:
        """Some vocabularies add a space before every text, even in the middle of a sentence; tokenise without it."""
        tokenize = self._guard.vocabulary.tokenize
        goes_on = bool(self.ids) and self.ids[-1] not in self._guard.special_ids
        if goes_on and self._guard.adds_space:
            for start in "\n|":  # a character that merges with no start of `text`; removed again with the space
                ids = tokenize(start + text, add_bos=False)
                if (length := self._length_of(b" " + start.encode(), ids)) is not None:
                    return ids[length:]
        return tokenize(text, add_bos=False)

    def _length_of(self, start: bytes, ids: list[int]) -> int | None:
        """How many leading tokens spell exactly `start`; None if no number does."""
        found = b""
        for length, token in enumerate(ids, start=1):
            found += self._guard.vocabulary.piece(token)
            if len(found) >= len(start):
                return length if found == start else None
        return None
