"""What comes back from the reference LM: unwrapped, and checked before a call is spent on it."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from tp_dspy.lms.answers import normalized

__all__ = ["MARK", "Guard", "cut_back", "is_closed", "unwrap"]

MARK = "<INS>"
_END = "</INS>"
_SPAN = re.compile(r"<INS>(.*?)</INS>", re.DOTALL | re.IGNORECASE)
_MARKS = re.compile(r"</?INS>", re.IGNORECASE)
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_LABEL = re.compile(
    r"\A[#*_>\s]*(?:(?:new|improved|final|the)\s+){0,2}(?:instruction|prompt|advice)s?\s*[*_]{0,3}\s*:\s*(?:\*\*|__|\*(?=\s))?\s*",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok)\b[^\n]{0,40}?[!,.:]\s*)?here(?:'s|’s| is| are)\b[^\n]{0,60}?"  # noqa: RUF001
    r"\b(?:instruction|prompt|version|answer|advice|sentence|explanation)s?\b[^\n]{0,40}?:\s+",
    re.IGNORECASE,
)
# On a line of its own, or as the last words: "... or positive. Score: 100".
_COPIED_SCORE = re.compile(r"\n\s*Score\s*:\s*\d|(?<=[.!?])[ \t]+Score\s*:\s*\d+\s*\Z")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "«": "»"}  # noqa: RUF001
_FIELD_MARKER = re.compile(r"\[\[\s*##|##\s*\]\]|\{\{|<\|")

# The reference prompt's own forms: an item and a reply that failed, an entry of the history.
_QUOTED_ITEM = re.compile(r"^[-*\s]*Item\s*:|^\s*Reply\s*:.*;\s*expected\s*:", re.IGNORECASE | re.MULTILINE)
# A question with its options, and nothing more.
_ASKED = re.compile(r"\?\s+[#>*_]*(?:options|choices)\s*:[^\n.]*\.?(?:\n[^\n.]{1,40})*\s*\Z", re.IGNORECASE)
_QUOTED_HISTORY = re.compile(r"^[-*#\s]*Instruction(?:[ \t]*\d+)?[ \t]*:.*\S", re.IGNORECASE | re.MULTILINE)
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")
_SCORE_TALK = re.compile(
    r"\W*(?:(?:your|the|my|its|this|that|new|old|final|total|current|instruction|best|highest|overall)\W+)*"
    r"scores?\W*(?:(?:of|for)\W+(?:the|your|my|this|that)\W+\w+\W+)?(?:(?:is|was|of|would be|will be)\b\W*)?"
    r"\d+(?:\W+(?:out|of|points?|percent|\d+)\b)*\W*|[\W\d]*",
    re.IGNORECASE,
)
# Where a sentence ends. A mark after one letter or digit ends it only behind a small word ("with A.", "1 to 5.");
# elsewhere it belongs to a list ("1. Read", "B. Heart") or an abbreviation ("e.g.").
_BEHIND_SMALL_WORD = "|".join(rf"(?<=\b{word} \w)" for word in ("or", "and", "to", "with", "as", "than", "is", "by"))
_COMPLETE = re.compile(
    rf"(?:(?:(?<!\b\w)(?<!\bvs)|{_BEHIND_SMALL_WORD})[.!?][\"'”’)\]*`]*(?=\s|\Z)|[。！？][”’」]?)"  # noqa: RUF001
)
# Eight words in a row that stand in a training example are no coincidence.
_NGRAM = 8
# A phrase of up to so many words, said this often in a row, is an LM that got stuck.
_LOOP_WORDS, _LOOP_TIMES = 8, 4
# Prose compresses to 0.4 and above of its size, lists of labels to 0.35, loops to 0.1.
_LEAST_VARIETY, _LOOP_CHARS = 0.25, 200


def unwrap(reply: str) -> str:
    """Take the instruction out of a reply.

    It stands between ``<INS>`` and ``</INS>``, or else it is the whole reply; a fence, quotes around it and a leading
    "Instruction:" are taken off, and so is a score that was copied along.
    """
    # The request may be echoed, and then holds "<INS> and </INS>".
    spans: list[str] = [span.strip() for span in _SPAN.findall(reply) if len(span.split()) > 1]
    if spans:
        text = spans[0]
    else:
        opening = re.search(MARK, reply, re.IGNORECASE)
        text = reply[opening.end() :] if opening else reply
        text = re.split(_END, text, maxsplit=1, flags=re.IGNORECASE)[0].strip()
    while (peeled := _peel(text)) != text:
        text = peeled
    return text


def _peel(text: str) -> str:
    """Take off one layer of what LMs put around an instruction."""
    if fence := _FENCE.match(text):
        return fence.group(1).strip()
    text = _LABEL.sub("", _PREAMBLE.sub("", text))
    text = _COPIED_SCORE.split(text, maxsplit=1)[0].strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def is_closed(reply: str) -> bool:
    """Tell whether a reply says where its instruction ends."""
    return _END.casefold() in reply.casefold()


def cut_back(text: str) -> str:
    """Cut a text that breaks off back to its last complete sentence; to nothing when it has none."""
    ends = [match.end() for match in _COMPLETE.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def _ngrams(text: str) -> set[str]:
    words = normalized(text).split()
    return {" ".join(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1)}


def _phrases(text: str) -> set[str]:
    """What identifies a text: its n-grams, or the whole of a shorter one of at least three words."""
    plain = normalized(text)
    words = plain.split()
    return _ngrams(text) if len(words) >= _NGRAM else {plain} if len(words) >= 3 else set()


def _telling(texts: Collection[str]) -> Iterator[str]:
    """Give the phrases of training examples that belong to few of them.

    What many share (a list of labels, a fixed question) is the frame of the task, and may well be named.
    """
    counts = Counter(phrase for text in texts for phrase in _phrases(text))
    return (phrase for phrase, count in counts.items() if count <= max(2, 0.1 * len(texts)))


def _loops(words: list[str]) -> bool:
    """Tell whether a phrase is said over and over."""
    for size in range(1, _LOOP_WORDS + 1):
        same = 0
        for i in range(size, len(words)):
            same = same + 1 if words[i] == words[i - size] else 0
            if same >= size * (_LOOP_TIMES - 1):
                return True
    return False


class Guard:
    """Decides whether a text can serve as an instruction.

    Args:
        examples: Texts of training examples; an instruction that copies from one only fits that one.
        prompt: The fixed text of the reference prompt, line by line; weak LMs hand parts of it back.
        labels: Field labels such as "Question"; a text with such a line is an item, not an instruction.
        answers: Labels of answer fields; so is one in which options or an explanation stand beside such a line.
        allowed: The allowed answers; such a label with one of them is an answer.
        limit: Longest instruction, in characters.
    """

    def __init__(
        self,
        examples: Iterable[str],
        *,
        prompt: str = "",
        labels: Collection[str] = (),
        answers: Collection[str] = (),
        allowed: Iterable[str] = (),
        limit: int = 1500,
    ) -> None:
        copied = set(_telling(list(examples)))
        # Short texts hold no long n-gram; they are looked for whole.
        self._copied = {phrase for phrase in copied if phrase.count(" ") == _NGRAM - 1}
        self._short = copied - self._copied
        asked = set().union(*map(_phrases, prompt.splitlines()))
        self._prompt = {phrase for phrase in asked if phrase.count(" ") == _NGRAM - 1}
        self._headings = asked - self._prompt
        names = "|".join(map(re.escape, sorted(labels)))
        # Not behind a dash or a quote: there an instruction explains what the label means.
        self._item = re.compile(rf"^[\s#>*_]*(?:{names})[*_]*\s*:", re.I | re.M) if labels else None
        self._solved = _solved(answers) if answers else None
        self._answers = {normalized(f"{label}: {answer}") for label in answers for answer in allowed}
        self._limit = limit

    def reject(self, text: str, known: Collection[str]) -> str | None:
        """Tell why a text cannot serve; None when it can.

        Args:
            text: An unwrapped proposal.
            known: Normalised instructions (`tp_dspy.lms.answers.normalized`) that have been tried already.
        """
        plain = normalized(text)
        words = plain.split()
        if not plain:
            return "it is empty"
        if len(words) == 1 and plain.isascii():
            return "it is one word, not an instruction" if plain.isalpha() else "it is a score, not an instruction"
        if _loops(words) or (len(text) >= _LOOP_CHARS and _variety(text) < _LEAST_VARIETY):
            return "it says the same over and over"
        if len(text) > self._limit:
            return self._too_long(text)
        if plain in known:
            return "it repeats an instruction that was tried already"
        if _MARKS.search(text) or _FIELD_MARKER.search(text):
            return "it still carries a marker"
        if all(_SCORE_TALK.fullmatch(sentence) for sentence in _SENTENCE_ENDS.split(text.strip())):
            return "it is a score, not an instruction"
        if plain in self._answers:
            return "it is an answer, not an instruction"
        if any(pattern and pattern.search(text) for pattern in (_QUOTED_ITEM, _ASKED, self._item, self._solved)):
            return "it is an item, not an instruction"
        if _QUOTED_HISTORY.search(text):
            return "it quotes the history"
        return self._copy(plain, text)

    def reject_whole(self, text: str, known: Collection[str], beside: int = 0) -> str | None:
        """Tell why an instruction that was made of a text that can serve cannot; None when it can.

        The rest of it is the user's words, or has been looked at before.

        Args:
            text: The instruction.
            known: As of `reject`.
            beside: So many characters may be added to the limit: what is built upon may be as long.
        """
        if normalized(text) in known:
            return "it repeats an instruction that was tried already"
        return None if len(text) <= self._limit + beside else self._too_long(text, beside)

    def _too_long(self, text: str, beside: int = 0) -> str:
        return f"it has {len(text)} characters; at most {self._limit + beside} are allowed"

    def _copy(self, plain: str, text: str) -> str | None:
        grams = _ngrams(text)
        if grams & self._copied or any(f" {short} " in f" {plain} " for short in self._short):
            return "it copies a training example"
        if grams & self._prompt or any(f" {heading} " in f" {plain} " for heading in self._headings):
            return "it repeats the request"
        return None


def _solved(answers: Collection[str]) -> re.Pattern[str]:
    """Find an item made up and answered: "Options: ..." above "Answer: ...", or that above "Explanation: ..." in prose.

    Placeholders in brackets are a form to be filled in, not an answer.
    """
    line = rf"[\s#>*_]*(?:{'|'.join(map(re.escape, sorted(answers)))})[*_]*[ \t]*:[*_ \t]*[^\s<\[{{(][^\n]*"
    options = rf"(?:^|(?<=[.?!])[ \t])[\s#>*_]*(?:options|choices)\s*:[^\n]+\n{line}"
    explained = rf"^{line}\n[\s#>*_]*(?:explanation|reasoning|rationale)[*_]*[ \t]*:[*_\s]*(?:[^\s<\[{{]+\s+){{7}}"
    return re.compile(rf"{options}|{explained}", re.I | re.M)


def _variety(text: str) -> float:
    data = text.encode(errors="replace")
    return len(zlib.compress(data, 9)) / len(data)
