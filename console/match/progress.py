"""A line on the terminal that says what a long command is doing and how far it is; nothing where nobody looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from console.match.census import Tell


@contextmanager
def progress(console: Console, about: int | None = None) -> Iterator[Tell]:
    """Gives a function to tell it with: what, and how many more. `console`: stderr, since stdout is for the answer. `about`: how many there
    are of all that is told together, more or less; then it also says how fast it goes and how long it will be."""
    counted: tuple[ProgressColumn, ...] = (TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
    if about is not None:
        of_how_many = TextColumn("{task.completed:,.0f} of about {task.total:,.0f}")
        counted = (of_how_many, TextColumn("{task.fields[speed]:,.0f}/s"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    columns = (SpinnerColumn(), TextColumn("{task.description}"), *counted)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, doing = bar.add_task("connecting", total=about, speed=0.0), ""

        def tell(what: str, more: int) -> None:
            nonlocal doing
            if about is not None:
                bar.update(task, description=what, advance=more, speed=bar.tasks[0].speed or 0.0)
                return
            if what != doing:
                doing = what
                bar.reset(task, description=what)
            bar.advance(task, more)

        yield tell
