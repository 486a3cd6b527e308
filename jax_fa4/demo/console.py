"""Where the demo writes: colours and bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_WIDTH = 120
PLAIN_REPORTS = 10

Advance = Callable[[str], None]


def make_console() -> Console:
    """A console on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def heading(console: Console, title: str) -> None:
    """A section's title."""
    console.print()
    console.print(Text(title, style="bold"))


def verdict(passed: bool) -> Text:
    """`ok` or `FAILED`."""
    return Text("ok", style="green") if passed else Text("FAILED", style="bold red")


@contextmanager
def progress(console: Console, label: str, total: int) -> Iterator[Advance]:
    """A bar of `total` steps; each call of what it yields is one step, with a word on it."""
    if not console.is_terminal:
        yield _plain(console, label, total)
        return
    columns = (
        TextColumn(f"  {label:9s}"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[word]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, word="")
        yield lambda word: bar.update(task, advance=1, word=word)


def _plain(console: Console, label: str, total: int) -> Advance:
    """A line for every tenth of the way."""
    done = 0

    def advance(word: str) -> None:
        nonlocal done
        done += 1
        if done * PLAIN_REPORTS // total > (done - 1) * PLAIN_REPORTS // total:
            console.print(f"  {label:9s} {done}/{total}  {word}", markup=False)

    return advance
