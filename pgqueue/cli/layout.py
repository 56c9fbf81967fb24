"""How a table fits the width of a terminal: columns are left out or shortened, and no word and no id is broken."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.cells import cell_len, set_cell_size

EXPLAINING = frozenset(
    {
        "aliases", "data", "error", "filter", "holder", "notes", "patterns", "paused", "process", "queues", "reason",
        "result", "status", "stopped", "then", "takes", "tasks", "what it does", "why", "worker",
    }
)  # fmt: skip
LEAST = (32, 16)  # cells that are left of a text that is shortened; fewer where no column can be left out any more
LONGEST_WORD = 40  # of a text that is shortened: it stays whole, if it is the first one
NOTHING = ("", "0")


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns and their cells as they are printed. `left_out`: names of columns that said something and have no room.
    `is_tight`: with less room between columns. `fits`: whether the width holds them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_tight: bool = False
    left_out: Sequence[str] = ()
    fits: bool = True

    def width(self) -> int:
        """Return how wide the table is, with what stands between its columns."""
        between = 2 * len(self.columns) + 2 if self.is_tight else 3 * len(self.columns) + 1
        return between + sum(self._widths())

    def _widths(self) -> list[int]:
        cells = zip(self.columns, *self.rows, strict=True)
        return [max(max(map(cell_len, text.split("\n"))) for text in column) for column in cells]

    def without(self, names: Collection[str], *, is_quiet: bool = False) -> "Layout":
        """Return it without some columns, which are named as left out unless it is to be quiet about them."""
        at = [number for number, name in enumerate(self.columns) if name not in names]
        gone = [name for name in self.columns if name in names and not is_quiet]
        rows = [[row[number] for number in at] for row in self.rows]
        return replace(
            self, columns=[self.columns[number] for number in at], rows=rows, left_out=[*self.left_out, *gone]
        )

    def silent(self, names: Iterable[str]) -> list[str]:
        """Return those of these columns in which no cell says anything."""
        at = {name: self.columns.index(name) for name in names if name in self.columns}
        return [name for name, number in at.items() if all(row[number] in NOTHING for row in self.rows)]

    def fitting(self, width: int) -> bool:
        """Whether it fits, if need be with the words of each heading below each other."""
        return self._stacked().width() <= width

    def headed(self, width: int) -> "Layout":
        """Return it with headings that fit, and say whether it does."""
        made = self if self.width() <= width else self._stacked()
        return replace(made, fits=made.width() <= width)

    def _stacked(self) -> "Layout":
        return replace(self, columns=[name.replace(" ", "\n") for name in self.columns])

    def shortened(self, width: int, least: int) -> "Layout":
        """Return it with explaining texts shortened as far as the width asks for, the longest first, to `least` cells
        or more."""
        return self._reduced(width, partial(_least, least), shorten)

    def wrapped(self, width: int) -> "Layout":
        """Return it with explaining texts on several lines, broken between words, as far as the width asks for."""
        return self._reduced(width, lambda text: max(map(cell_len, text.split(" "))), wrap)

    def paired(self, pairs: Mapping[str, str]) -> "Layout":
        """Return it with one column below another for each of these pairs, of which the upper one is the key."""
        at = {name: number for number, name in enumerate(self.columns)}
        kept = [name for name in self.columns if name not in pairs.values()]
        columns = [f"{name}\n{pairs[name]}" if name in pairs else name for name in kept]
        rows = [
            [f"{row[at[name]]}\n{row[at[pairs[name]]]}" if name in pairs else row[at[name]] for name in kept]
            for row in self.rows
        ]
        return replace(self, columns=columns, rows=rows)

    def _reduced(self, width: int, least: Callable[[str], int], reduce: Callable[[str, int], str]) -> "Layout":
        """Return it with narrower columns of explaining texts: each as wide as its longest `least` part, or more."""
        stacked = self._stacked()
        excess, widths = stacked.width() - width, stacked._widths()
        floors = {
            at: max(map(least, (row[at] for row in self.rows)))
            for at, name in enumerate(self.columns)
            if name in EXPLAINING
        }
        while excess > 0 and (able := [at for at, floor in floors.items() if widths[at] > floor]):
            widths[max(able, key=widths.__getitem__)] -= 1
            excess -= 1
        rows = [
            [reduce(text, widths[at]) if at in floors else text for at, text in enumerate(row)] for row in self.rows
        ]
        return replace(self, rows=rows)


def lay_out(
    columns: Sequence[str], rows: Sequence[Sequence[str]], brief: Sequence[Sequence[str]], width: int,
    spare: Sequence[str],
) -> Layout:  # fmt: skip
    """Return a table for a width. `brief`: the rows with times as short as they can be. `spare`: the columns that can
    be left out, the first one first; those that say nothing go before all others.

    It has less room between columns, then short times, then shortened texts, then fewer columns. What does not fit even
    then is returned with `fits` false.
    """
    made = Layout(columns, rows)
    if made.fitting(width):
        return made.headed(width)
    made = replace(made, is_tight=True)
    if made.fitting(width):
        return made.headed(width)
    made = replace(made, rows=brief)
    if not made.fitting(width):
        made = made.without(made.silent(spare), is_quiet=True)
    left = [name for name in spare if name in made.columns]
    while not (short := made.shortened(width, LEAST[0])).fitting(width) and left:
        made = made.without([left.pop(0)])
    return (short if short.fitting(width) else made.shortened(width, LEAST[1])).headed(width)


def _least(least: int, text: str) -> int:
    """Return to how many cells a text can be shortened: to so many, or its first word, which stays whole."""
    first = cell_len(text.split(" ", 1)[0].split("\n", 1)[0])
    return min(cell_len(text), max(least, min(first + 1, LONGEST_WORD)))


def shorten(text: str, width: int) -> str:
    """Return the beginning of a text, to the end of a word, and an ellipsis if anything is left out."""
    line, more, _ = text.partition("\n")
    if cell_len(line) + len(more) <= width:
        return line + ("…" if more else "")
    cut = set_cell_size(line, width - 1)
    if line[len(cut) :][:1].strip() and " " in cut.strip():
        cut = cut[: cut.rindex(" ")]
    return f"{cut.rstrip()}…"


def wrap(text: str, width: int) -> str:
    """Return a text on several lines, broken between words."""
    return "\n".join("\n".join(filled(line.split(" "), width, " ")) for line in text.split("\n"))


def filled(parts: Iterable[str], width: int, between: str = "  ") -> list[str]:
    """Return parts on lines of at most so many cells, as many as there is room for; a wider part has its own line."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1]) + len(between) + cell_len(part) <= width:
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines
