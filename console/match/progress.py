"""A line on the terminal that says what a long command is doing and how far it is; nothing where nobody looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from console.match.census import Tell


@contextmanager
def progress(console: Console) -> Iterator[Tell]:
    """Gives a function to tell it with: what, and how many more. `console`: stderr, since stdout is for the answer."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, doing = bar.add_task("connecting"), ""

        def tell(what: str, more: int) -> None:
            nonlocal doing
            if what != doing:
                doing = what
                bar.reset(task, description=what)
            bar.advance(task, more)

        yield tell
