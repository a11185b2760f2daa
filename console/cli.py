"""`concord`: the commands. Each loads the configuration, asks one module of this package, prints its answer, and ends with

    0   it is as it should be
    1   it is not
    2   it could not be asked

What a command needs is imported when it runs: `concord status` must not pay for Faust.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click
import orjson
from rich.console import Console

from console import logs
from console.parts import SUPERVISED, Busy, Stopped, being, end_with_supervisor, raise_stopped, stop_on_signals
from console.ports import HTTP, Address
from schemas.errors import ConcordError, ConfigError, Problem

if TYPE_CHECKING:
    from console.decide import Selection
    from console.match.file import Unacceptable
    from console.replay import Plan
    from console.stack import StackState
    from schemas.config import Config

logger = logging.getLogger(__name__)

OK, NOT_OK, NOT_ASKED = 0, 1, 2
# Events are many small containers without cycles, and tables are large: Python's own (700, 10, 10) would look through them all the time.
GC_THRESHOLD = (50_000, 20, 50)

Command = Callable[..., int | None]


def say_json(told: Any) -> None:
    sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def screen() -> Console:
    """For people. A pipe gets lines as wide as they are."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)


def _refused(error: ConcordError, as_json: bool, file: Path) -> None:
    problems = error.problems if isinstance(error, ConfigError) else ()
    if as_json:
        told: dict[str, Any] = {"error": "the configuration has problems" if problems else logs.first_line(error)}
        if problems:
            told["problems"] = _told(problems)
        say_json(told)
    elif problems:
        _say_problems(f"{file} cannot be used", problems)
    else:
        err = Console(stderr=True, highlight=False, soft_wrap=True)
        err.print("concord: ", style="bold red", end="")
        err.print(logs.first_line(error), markup=False)


def _told(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"where": one.where, "what": one.what, "mend": one.mend} for one in problems]


def _say_problems(title: str, problems: Sequence[Problem]) -> None:
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    err.print(f"{title}:", style="bold red", end="", markup=False)
    err.print(f" {len(problems)} problem{'s' * (len(problems) != 1)}", markup=False)
    for one in problems:
        err.print(f"  {one.where}", style="bold", end="", markup=False)
        err.print(f": {one.what}" + (f"\n      → {one.mend}" if one.mend else ""), markup=False)


def command(group: click.Group, name: str, *, report: bool = False, part: bool = False) -> Callable[[Command], click.Command]:
    """Makes a function a command with `-c`, `--debug`, with `report` also `--json`; its return value is the exit status.

    The function gets `file`, `debug` and, with `report`, `as_json`. Expected errors are printed, never as a traceback.
    """

    def decorate(function: Command) -> click.Command:
        @click.pass_context
        @functools.wraps(function)
        def run(context: click.Context, /, config_file: Path | None, debug: bool, as_json: bool = False, **given: Any) -> NoReturn:
            file = config_file or context.find_root().params.get("config_file") or Path("concord.yaml")
            if not part:
                logs.set_up(debug=debug, quiet=report)
            try:
                if report:
                    given["as_json"] = as_json
                sys.exit(function(file=file, debug=debug, **given) or OK)
            except ConcordError as error:
                _refused(error, as_json, file)
                sys.exit(NOT_OK if isinstance(error, Busy) else NOT_ASKED)
            except KeyboardInterrupt:
                sys.exit(128 + signal.SIGINT)

        options = [
            click.option(
                "-c",
                "--config",
                "config_file",
                type=click.Path(path_type=Path, dir_okay=False),
                envvar="CONCORD_CONFIG",
                help="The configuration.  [default: concord.yaml]",
            ),
            click.option("--debug", is_flag=True, help="Log what happens in detail."),
        ]
        if report:
            options.insert(1, click.option("--json", "as_json", is_flag=True, help="The same facts, for scripts."))
        made: Any = run
        for option in reversed(options):
            made = option(made)
        return group.command(name, short_help=(function.__doc__ or "").splitlines()[0].rstrip("."))(made)

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-c", "--config", "config_file", type=click.Path(path_type=Path, dir_okay=False), help="The configuration, for any command.")
@click.version_option(package_name="concord")
def cli(config_file: Path | None) -> None:
    """Keeps two PostgreSQL databases with different schemas in agreement, both ways.

    \b
    concord init      a first configuration, proposed from the two databases
    concord check     is the configuration sound, are both databases fit?
    concord match     what is on both sides already, and who decides where it differs?
    concord up        run it, here, until Ctrl-C
    concord status    how far behind, what is stuck, what is alive
    concord verify    do both sides agree? each difference by name

    Exit status: 0 = as it should be, 1 = it is not, 2 = it could not be asked.
    """


SOURCE = click.option(
    "--source",
    type=click.Choice(["concord", "debezium"]),
    help="Who reads the logs.  [default: what the configuration says, else concord]",
)


# --- before anything runs ---------------------------------------------------------------------------------------------------------


@command(cli, "init", report=True)
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM[=DSN] SYSTEM[=DSN]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Where to, - is stdout.  [default: what -c names]",
)
@click.option("--schema", "schemas", multiple=True, metavar="SYSTEM=SCHEMA", help="Only tables of this schema; may be given again.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(
    file: Path, debug: bool, as_json: bool, systems: tuple[str, ...], output: Path | None, schemas: tuple[str, ...], force: bool
) -> int:
    """Propose a first concord.yaml from the two databases.

    Reads both catalogs and some rows of each table, and writes which tables and columns go together, with what says so: names that mean the
    same, types, foreign keys, values and rows that are on both sides. What it is not sure of is there as a comment. Nothing is changed in
    the databases. The file holds no address: a system's DSN comes from the environment, CRM_DSN for crm; give it here or there.

    \b
      concord init crm=postgresql://reader@crm-db/crm erp=postgresql://reader@erp-db/erp
      CRM_DSN=… ERP_DSN=… concord init crm erp -o first.yaml --schema erp=public
      concord init crm erp --json -o - | jq '.entities[] | {name, score}'

    Exit status 1 when no tables go together: no file is written then.
    """
    from console import init as asking

    try:
        dsns = asking.addresses(systems, os.environ)
        only = asking.wanted_schemas(schemas, dsns)
    except ConfigError as error:
        raise click.UsageError("; ".join(map(str, error.problems))) from None
    target = output or file
    to_stdout = str(target) == "-"
    if not to_stdout and target.exists() and not force:
        raise click.UsageError(f"{target} is there already: name another with -o, or --force")
    proposal, text = asking.init(dsns, only, lambda line: logger.info("%s", line))
    found = any(entity.active for entity in proposal.entities)
    if found and not to_stdout:
        asking.write_file(target, text, force=force)
    if as_json:
        say_json({**proposal.to_json(), "file": str(target) if found and not to_stdout else None})
    elif found and to_stdout:
        click.echo(text, nl=False)
    else:
        asking.show(proposal, target, screen())
    return OK if found else NOT_OK


@command(cli, "check", report=True)
@click.option("--rows/--no-rows", default=True, show_default=True, help="Also ask the tables how many values would not fit.")
@SOURCE
@click.option("--grant", is_flag=True, help="Instead: the SQL that makes each system's role, with the rights it needs and no other.")
@click.option("--run", is_flag=True, help="With --grant: do it, as the administrators that --admin names.")
@click.option("--admin", "admins", multiple=True, metavar="SYSTEM=DSN", help="Who may; or in the environment: CRM_ADMIN_DSN for crm.")
@click.option("--system", "systems", multiple=True, help="With --grant: only this system; may be given again.")
def check(
    file: Path,
    debug: bool,
    as_json: bool,
    rows: bool,
    source: str | None,
    grant: bool,
    run: bool,
    admins: tuple[str, ...],
    systems: tuple[str, ...],
) -> int:
    """Is the configuration sound and are the databases fit? Every problem with its mend.

    A problem stops or breaks the sync, or the application's own writes: exit status 1. A note is worth knowing: a value that the other side
    could not hold, a trigger that changes what we write. Nothing is changed; no question about rows takes longer than five seconds, then a
    sample is asked. Run it before `concord up`, and again after a change to the configuration or to a table.

    \b
      concord check -c concord.yaml
      concord check --no-rows
      concord check --source debezium
      concord check --json | jq -r '.problems[].where'

    With --grant it prints, for a database administrator, what the role that a system's dsn names is to be allowed: rights per table and
    column, publication, schema. What is there already is left out, what is not needed any more is revoked; run it again after a change of
    the configuration.

    \b
      concord check --grant                                   # to read
      concord check --grant --system crm | psql "$CRM_ADMIN_DSN"
      CRM_ADMIN_DSN=… ERP_ADMIN_DSN=… concord check --grant --run
    """
    from console import check as checking

    if grant:
        return _grant(file, as_json, run, admins, systems)
    if run or admins or systems:
        raise click.UsageError("--run, --admin and --system go with --grant")
    found = checking.check(file, rows=rows, source=source)
    say_json(found.to_json()) if as_json else checking.show(found, screen())
    return OK if found.fit else NOT_ASKED if found.unanswered else NOT_OK


def _grant(file: Path, as_json: bool, run: bool, admins: tuple[str, ...], systems: tuple[str, ...]) -> int:
    from console import grants, wiring

    config = wiring.open_config(file)
    for system in systems:
        _a_system(config, system, file, "--system")
    given = {system: dsn for system in config.systems if (dsn := os.environ.get(f"{system.upper()}_ADMIN_DSN"))}
    for one in admins:
        system, _, dsn = one.partition("=")
        given[_a_system(config, system, file, "--admin")] = dsn
    if run and (without := [system for system in systems or config.systems if system not in given]):
        raise click.UsageError(f"--run as whom? --admin {without[0]}=DSN, or {without[0].upper()}_ADMIN_DSN in the environment")
    found = grants.grant(config, given, systems=systems or None, run=run)
    if as_json:
        say_json({"databases": [{"systems": one.wanted.systems, **one.to_json(), "script": grants.script(one)} for one in found]})
    else:
        click.echo("\n".join(map(grants.script, found)), nl=False)
    return OK


@cli.command("schema", short_help="JSON Schema of the configuration, for editors")
def schema() -> None:
    """JSON Schema of the configuration, for editors.

    \b
      concord schema > concord.schema.json
      # and as the first line of concord.yaml:
      # yaml-language-server: $schema=concord.schema.json
    """
    from schemas.config import json_schema

    say_json(json_schema())


@command(cli, "match", report=True)
@click.option("--entity", "entities", multiple=True, help="Only this entity; may be given again.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write a file to decide in (CSV); keeps what is decided in it."
)
@click.option(
    "--accept", type=click.Path(path_type=Path, dir_okay=False), help="Link the pairs that are accepted in this file; nothing else writes."
)
@click.option("--limit", type=click.IntRange(0), default=10, show_default=True, help="Show so many examples of each sort; all are counted.")
@click.option(
    "--min-score",
    type=click.IntRange(1, 100),
    default=50,
    show_default=True,
    help="Only candidates at least so sure, in per cent; 100 looks for none.",
)
def match(
    file: Path, debug: bool, as_json: bool, entities: tuple[str, ...], output: Path | None, accept: Path | None, limit: int, min_score: int
) -> int:
    """Before going live: which rows of both sides are the same thing already?

    Pairs rows with the same match value, lists rows of one system that share one, proposes rows that are alike with how sure that is and
    why, and shows what going live would overwrite, and who decides. Nothing is written until you accept it.

    \b
      concord match                        # what is there, in figures and examples
      concord match -o matches.csv         # … and as a file: say accept or reject in its first column
      concord match --accept matches.csv   # link what was accepted; then: concord up

    Run it again with the same file and it keeps your decisions. Exit status 0 when nothing is left to decide, 1 when something is.
    """
    from console import wiring
    from console.match import accept as accepting
    from console.match import file as files
    from console.match import pairing
    from console.match import report as reporting
    from console.match.progress import progress

    if accept is not None and (output is not None or entities):
        raise click.UsageError("--accept takes the whole file: give neither --output nor --entity with it")
    config = wiring.open_config(file)
    pipeline = wiring.open_pipeline(config)
    unknown = [name for name in entities if name not in pipeline.entities]
    if unknown:
        raise click.BadParameter(f"no entity {unknown[0]!r}: {file} has {', '.join(pipeline.entities)}", param_hint="--entity")
    asked = [name for name in pipeline.entities if not entities or name in entities]
    try:
        with progress(Console(stderr=True, highlight=False)) as tell:
            if accept is not None:
                accepted = accepting.accept(pipeline, accept, tell)
            elif output is None:
                report = pairing.match(pipeline, asked, limit=limit, least=min_score, tell=tell)
            else:
                decisions = files.decisions(output, pipeline)
                with files.writing(output, pipeline, asked) as write:
                    report = pairing.match(pipeline, asked, limit=limit, least=min_score, decisions=decisions, write=write, tell=tell)
                report.file = str(output)
    except files.Unacceptable as error:
        _unacceptable(error, as_json)
        return NOT_ASKED
    if accept is not None:
        say_json({"entities": {name: one.to_json() for name, one in accepted.items()}}) if as_json else accepting.show(accepted, screen())
        return NOT_OK if any(one.open for one in accepted.values()) else OK
    say_json(report.to_json()) if as_json else reporting.show(report, screen())
    return OK if report.decided else NOT_OK


def _unacceptable(error: Unacceptable, as_json: bool) -> None:
    if as_json:
        say_json({"error": f"{error.file} cannot be taken as it is", "problems": _told(error.problems)})
        return
    _say_problems(f"{error.file} cannot be taken as it is, nothing was written", error.problems)


# --- running ----------------------------------------------------------------------------------------------------------------------


@command(cli, "up")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Streams workers.")
@click.option("--sink-workers", type=click.IntRange(1, 16), default=1, show_default=True, help="Sink workers per system.")
@SOURCE
@HTTP
def up(file: Path, debug: bool, workers: int, sink_workers: int, source: str | None, http: Address | None) -> int:
    """Run the whole pipeline here, in the foreground.

    A source and a sink per system and the streams, each a process; one that dies is started again. Ctrl-C lets each finish its batch and
    stops; a second Ctrl-C stops at once. Whatever ends it, it goes on where it was the next time.

    With --source debezium a Kafka Connect with real Debezium reads the logs in our sources' place (Java 17+; Maven fetches it once).

    --http answers for all parts in one place: /healthz (the supervisor lives), /readyz (every part does its work, and which one does not),
    /metrics (what concord status shows, and each part's own metrics with the label process).

    \b
      concord up -c concord.yaml
      concord up -c concord.yaml --workers 2
      concord up -c concord.yaml --source debezium
      concord up -c concord.yaml --http 9100
    """
    from console import debezium as debezium_console
    from console import remembered, wiring
    from console.supervise import Supervisor

    stop_on_signals(raise_stopped)
    try:
        config = wiring.open_config(file, source)
        if config.source == "debezium":
            debezium_console.captured(config)
            debezium_console.fetch(config, lambda line: logger.info("%s", line))
        run_dir = wiring.run_dir(config)
        run_dir.mkdir(parents=True, exist_ok=True)
        pipeline = wiring.patiently("starting", lambda: wiring.open_pipeline(config, run_dir))
        wiring.patiently("preparing", lambda: wiring.prepare(config, pipeline.systems))
        changes = wiring.patiently("comparing the mapping", lambda: remembered.settle_all(config))
        for line in remembered.sentences(changes, debezium=config.source == "debezium"):
            logger.warning("%s", line)
        environment = {**os.environ, wiring.SOURCE_VARIABLE: config.source}
        supervisor = Supervisor(wiring.part_commands(pipeline, file, workers, sink_workers, debug), run_dir, environment)
        stop_on_signals(supervisor.stop)
        if http is not None:
            from console import exporter

            exporter.serve_up(http, config, supervisor)
    except Stopped:
        return OK
    return supervisor.run()


def _run_part(name: str, kind: str, file: Path, debug: bool, system: str | None, worker: int, http: Address | None) -> int:
    """One part in this process, until it is asked to stop."""
    from console import endpoints, remembered, wiring
    from schemas.health import Health

    logs.set_up(name, debug=debug)
    gc.set_threshold(*GC_THRESHOLD)
    stop_on_signals(raise_stopped)
    try:
        config = wiring.open_config(file)
        if system is not None:
            _a_system(config, system, file, "SYSTEM")
        run_dir = wiring.run_dir(config)
        health = Health()
        with being(name, run_dir) as told:
            try:
                port = http or wiring.metrics_port(config, kind, system, worker)
                told.tell(metrics=endpoints.serve(port, *endpoints.of_part(name, health)))
                pipeline = wiring.patiently("starting", lambda: wiring.open_pipeline(config, run_dir), health.turned)
                claim = os.environ.get(SUPERVISED) != "1"  # else `concord up` has made them ours
                ours = (*config.systems,) if kind == "debezium" else () if system is None else (system,)
                wiring.patiently("preparing", lambda: wiring.prepare(config, ours, claim), health.turned)
                for line in wiring.patiently("comparing the mapping", lambda: remembered.warnings(config, ours), health.turned):
                    logger.warning("%s", line)

                def ready() -> None:
                    told.tell(state="running")
                    logger.info("running")

                run, stop = wiring.build(kind, pipeline, system, worker, ready, health)
                if stop is not None:
                    stop_on_signals(stop)
                run()
            except Stopped:
                pass
            except BaseException as error:
                # what `up` and `status` show as the reason; told, not handled
                if isinstance(error, Exception):
                    told.tell(state="failed", error=logs.words_of(error).partition("\n")[0])
                raise
            told.tell(state="stopped", error=None)
    except Stopped:
        pass
    except ConfigError as error:
        for problem in error.problems:
            logger.error("%s", problem)
        return NOT_ASKED
    except ConcordError as error:
        logger.error("%s", logs.words_of(error).partition("\n")[0])
        return NOT_OK if isinstance(error, Busy) else NOT_ASKED
    except click.ClickException:
        raise
    except Exception:  # the outermost place: the process ends, its supervisor starts it again
        logger.exception("ended by an error nobody expected")
        return 70
    logger.info("stopped")
    return OK


def _a_system(config: Config, system: str, file: Path, hint: str) -> str:
    """`system`, if there is one of that name."""
    if system not in config.systems:
        raise click.BadParameter(f"{system!r}: {file} has the systems {', '.join(config.systems)}", param_hint=hint)
    return system


WORKER = click.option("--worker", type=click.IntRange(0, 999), default=0, show_default=True, help="Number of this worker, each its own.")


@command(cli, "source", part=True)
@click.argument("system")
@HTTP
def source(system: str, file: Path, debug: bool, http: Address | None) -> int:
    """Read one system's change log into Kafka: one part of `concord up`.

    \b
      concord source crm -c concord.yaml
    """
    return _run_part(f"source-{system}", "source", file, debug, system, 0, http)


@command(cli, "debezium", report=True)
@click.option("--connect", "url", metavar="URL", help="Tell the Kafka Connect there, and wait until every system is captured.")
@click.option("--wait", "seconds", type=click.FloatRange(0), default=600.0, show_default=True, help="At most so long.")
@click.option("--run", "as_part", is_flag=True, help="Run a Kafka Connect of our own, here: one part of `concord up --source debezium`.")
def debezium(file: Path, debug: bool, as_json: bool, url: str | None, seconds: float, as_part: bool) -> int:
    """What real Debezium must be told to take our sources' place; tells it, or runs it.

    Slots, publications and topics have the names of our sources: stop those first. Without an option its connectors' settings are printed,
    passwords struck out. What you add under `debezium:` in concord.yaml is in them; what would lose values is refused. What is different
    with it is in docs/debezium.md.

    \b
      concord debezium
      concord debezium --connect http://connect:8083
      concord debezium --json | jq '.connectors["concord-crm"]'

    With --connect: exit status 1 when a system is not captured yet after the wait.
    """
    from console import debezium as asking
    from console import wiring

    if as_part:
        os.environ[wiring.SOURCE_VARIABLE] = "debezium"
        return _run_part(wiring.DEBEZIUM, "debezium", file, debug, None, 0, None)
    config = wiring.open_config(file, "debezium")
    if url is None:
        report = asking.told(config)
    else:
        wiring.prepare(config, config.systems)
        report = asking.put(config, url, seconds, lambda line: logger.info("%s", line))
    say_json(report.to_json()) if as_json else asking.show(report, screen())
    return NOT_OK if report.waiting else OK


@command(cli, "streams", part=True)
@WORKER
@HTTP
def streams(worker: int, file: Path, debug: bool, http: Address | None) -> int:
    """Map, identify and merge: one part of `concord up`, any number on any machines.

    \b
      concord streams -c concord.yaml
      concord streams -c concord.yaml --worker 1
    """
    return _run_part(f"streams-{worker}", "streams", file, debug, None, worker, http)


@command(cli, "sink", part=True)
@click.argument("system")
@WORKER
@HTTP
def sink(system: str, worker: int, file: Path, debug: bool, http: Address | None) -> int:
    """Write golden records to one system: one part of `concord up`, any number on any machines.

    \b
      concord sink erp -c concord.yaml
      concord sink erp -c concord.yaml --worker 1
    """
    return _run_part(f"sink-{system}-{worker}", "sink", file, debug, system, worker, http)


# --- asking -----------------------------------------------------------------------------------------------------------------------


@command(cli, "status", report=True)
@click.option(
    "--wait", "seconds", type=click.FloatRange(0), help="Wait up to so many seconds until nothing is in flight; 1 if it still is."
)
@click.option("--watch", is_flag=True, help="A live screen, until Ctrl-C.")
@HTTP
def status(file: Path, debug: bool, as_json: bool, seconds: float | None, watch: bool, http: Address | None) -> int:
    """How far behind is each system, what is stuck, what is alive.

    Exit status 0 when every part runs, every slot streams and nothing is dead-lettered; with --wait, when all has settled.

    \b
      concord status
      concord status --watch
      concord status --wait 60 --json | jq .settled
      concord status --http 9100            # the same figures for Prometheus, until Ctrl-C, where no concord up serves them
    """
    from console import status as asking
    from console import wiring

    config = wiring.open_config(file)
    if http is not None:
        from console import exporter

        stop_on_signals(raise_stopped)
        with contextlib.suppress(Stopped):
            exporter.serve_status(http, config)
        return OK
    if watch:
        asking.watch(config, screen())
        return OK
    report = asking.status(config) if seconds is None else asking.settled_within(config, seconds)
    say_json(report) if as_json else asking.show(report, screen(), config.name)
    if not asking.could_be_asked(report):
        return NOT_ASKED
    if seconds is not None:
        return OK if report["settled"] else NOT_OK
    return OK if asking.is_well(report) else NOT_OK


@command(cli, "verify", report=True)
@click.option("--entity", "entities", multiple=True, help="Only this entity; may be given again.")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="Name so many differences; all are counted.")
@click.option("--repair", is_flag=True, help="Send what is agreed on again, to be written over what differs from it.")
@click.option("--dry-run", is_flag=True, help="With --repair: only say what it would do.")
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="With --repair: wait so long for what becomes of it.",
)
@click.option("--fetch", is_flag=True, help="Fetch every row, instead of comparing hashes that the databases make.")
@click.option("--by", help="With --repair: who wants it so, for the history.  [default: you, at this machine]")
def verify(
    file: Path,
    debug: bool,
    as_json: bool,
    entities: tuple[str, ...],
    limit: int,
    repair: bool,
    dry_run: bool,
    seconds: float,
    fetch: bool,
    by: str | None,
) -> int:
    """Do both sides agree? Compares them through the mapping, while live, and names each difference.

    A row that is in flight is looked at again before anything is said about it. Values are shown: you asked for them.

    With --repair, what is agreed on (the golden record) is sent again as the operator's write, and written over what a system was seen to
    hold, also where that system owns the field; a row that is missing is inserted, one that should be gone is deleted, one that nobody
    knows of is read again. Edits win over it: what somebody writes meanwhile, or has written and is on its way, is never lost. What was
    written over is kept on conflicts.ENTITY. Where the row is right and what is agreed on is not, use concord snapshot instead.

    \b
      concord verify
      concord verify --entity customer --limit 1000 --json
      concord verify --repair --dry-run
      concord verify --repair --entity customer
    """
    from console import decide, verified, wiring
    from console import verify as verifying
    from console.match.progress import progress

    if dry_run and not repair:
        raise click.UsageError("--dry-run says what --repair would do: give both")
    config = wiring.open_config(file)
    pipeline = wiring.open_pipeline(config)
    unknown = [name for name in entities if name not in pipeline.entities]
    if unknown:
        raise click.BadParameter(f"no entity {unknown[0]!r}: {file} has {', '.join(pipeline.entities)}", param_hint="--entity")
    how = verifying.Mending(by or decide.oneself(), dry_run, seconds)
    repairs = verifying.Repairer(pipeline, how) if repair else None
    chosen = entities or tuple(pipeline.entities)
    with progress(Console(stderr=True, highlight=False), verifying.about(pipeline, chosen) or None) as tell:
        report = verifying.verify(pipeline, chosen, limit, repairs=repairs, hashes=not fetch, tell=tell)
    verified.keep(config, {name: (count.things, count.differing + count.absent) for name, count in report.entities.items()})
    say_json(report.to_json()) if as_json else verifying.show(report, screen())
    return OK if report.equal else NOT_OK


@cli.command("alerts", short_help="Prometheus alerting rules: what is worth waking somebody for")
def alerts() -> None:
    """Prometheus alerting rules: what is worth waking somebody for.

    They work on what `concord up --http PORT` or `concord status --http PORT` serves. docs/operations.md says of each what to do.

    \b
      concord alerts > /etc/prometheus/concord.rules.yml
    """
    from console.exporter import rules

    click.echo(rules(), nl=False)


@command(cli, "snapshot", report=True)
@click.argument("system", required=False)
@click.argument("table", required=False)
@click.option("--changed", is_flag=True, help="Every table of which the configuration says something else than when it was read.")
@click.option(
    "--where", "conditions", multiple=True, metavar="CONDITION", help="Only rows for which COLUMN=VALUE (or <, <=, >, >=, is null)."
)
@click.option("--vanished", is_flag=True, help="Also send deletes for rows that we know and that are not in the table any more.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until Kafka has the rows.")
def snapshot(
    file: Path,
    debug: bool,
    as_json: bool,
    system: str | None,
    table: str | None,
    changed: bool,
    conditions: tuple[str, ...],
    vanished: bool,
    wait: bool,
) -> int:
    """Read rows of a table again, while everything runs.

    The source of the system reads them between watermarks in its log, beside what it streams: what was committed meanwhile is never
    overwritten by an older row. It goes on after a crash, may be asked for as often as you like, and waits in the database when the source
    does not run. Several conditions must all hold; several = of one column mean one of these values. Rows that the mapping leaves out are
    read and passed over.

    Use it after something was changed behind the log's back, for rows whose events were dead-lettered, or when a replay would have to reach
    further back than the topics do. A row that is read again is older than every edit, but for the edits that were made on top of what we
    wrote.

    \b
      concord snapshot crm account
      concord snapshot erp public.partner --where kind=customer --where 'id>=4000' --no-wait
      concord snapshot erp partner --vanished
      concord snapshot --changed            # after a change to concord.yaml, when every part runs by it; concord up does it by itself

    Exit status 1 when it could not be read, or nobody reads it now.
    """
    from console import snapshot as asking
    from console import wiring

    config = wiring.open_config(file)
    if changed:
        if system or conditions or vanished:
            raise click.UsageError("--changed finds out by itself what to read: give nothing else with it")
        return _snapshot_changed(config, as_json)
    if system is None or table is None:
        raise click.UsageError("which table? concord snapshot SYSTEM TABLE, or --changed")
    _a_system(config, system, file, "SYSTEM")
    if vanished and conditions:
        raise click.UsageError("--vanished compares the whole table: leave out --where")
    asked = asking.ask(config, system, table, conditions, vanished)
    if not wait:
        found = asking.Progress(asking.State.ASKED, 0)
    elif as_json or not sys.stderr.isatty():
        found = asking.follow(config, asked)
    else:
        with Console(stderr=True).status(asking.sentence(asked, asking.Progress(asking.State.ASKED, 0))) as line:
            found = asking.follow(config, asked, lambda progress: line.update(asking.sentence(asked, progress)))
    say_json(asking.to_json(asked, found)) if as_json else click.echo(asking.sentence(asked, found))
    return OK if found.state is asking.State.DONE or not wait else NOT_OK


def _snapshot_changed(config: Config, as_json: bool) -> int:
    from console import remembered

    found = remembered.settle_all(config, everything=True)
    told = remembered.sentences(found, everything=True, debezium=config.source == "debezium")
    if as_json:
        say_json({"changes": [change.to_json() for change in found]})
    else:
        for line in told or ["every table was read by this configuration"]:
            click.echo(line)
    return OK


@command(cli, "replay", report=True)
@click.argument("system")
@click.option("--from", "start", metavar="OFFSET|TIME", help="Where to begin; see above.")
@click.option("--rebuild", is_flag=True, help="Write the system again, from what is agreed (golden.*).")
@click.option("--dry-run", "dry", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--table", "tables", multiple=True, help="With --from: only this table's events; may be given again.")
@click.option("--anyway", is_flag=True, help="Go on where it says that something is missing.")
@click.option("--admin", metavar="DSN", help="With --rebuild: who may give rows their keys; or in the environment: CRM_ADMIN_DSN for crm.")
@click.option("--by", help="Who asks for it, for the log.  [default: you]")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="Name so many changes; all are counted.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="With --from: wait until all has been read again.")
def replay(
    file: Path,
    debug: bool,
    as_json: bool,
    system: str,
    start: str | None,
    rebuild: bool,
    dry: bool,
    tables: tuple[str, ...],
    anyway: bool,
    admin: str | None,
    by: str | None,
    limit: int,
    wait: bool,
) -> int:
    """Read a system's events again (--from), or write a system that was lost again (--rebuild).

    --from heals what was lost of Concord's own: rows of the schema concord, state of the streams, golden records, and what follows from
    them in the systems. It works while everything runs, with any number of workers, and survives their crashes. Nothing becomes older by
    it: an event that is known changes nothing, and a newer value stays. After a loss of the streams' whole state, replay every system.

    \b
    --from earliest                        everything from the first event on; --anyway: what Kafka still has
    --from 2h, --from 3d                   what was captured since then
    --from 2026-03-01T12:00+01:00          the same; without a zone it is UTC
    --from 4711                            from this offset on, in every partition
    --from crm.public.account@1/4711       in this partition alone, as dead letters and logs name records

    --rebuild brings a database that is empty, or was restored from a backup, to what is agreed, whatever it holds: rows that are missing
    come back under their old keys, values of the backup are written over, rows deleted since are deleted. It needs nothing but the tables:
    the schema concord may be gone, too (`concord check --grant` makes it). Stop `concord up` first, and restore before you rebuild, or the
    backup's rows are read as news. Giving rows their old keys takes more rights than the pipeline has: name somebody with --admin.
    What differs in a database that is not lost is for `concord verify --repair`.

    \b
      concord replay crm --from 2h --dry-run
      concord replay erp --from earliest --table partner --no-wait
      concord replay erp --rebuild --dry-run
      concord replay erp --rebuild

    --dry-run folds the events again in memory, or plans what would be written, and names each change: thing, system, field, from what to
    what. Exit status 1 when something would change.

    Topics keep seven days. Where they do not reach back far enough it says so and does nothing (exit status 1): `concord snapshot` reads
    the rows as they are now.
    """
    from datetime import UTC, datetime

    from console import decide, wiring
    from console import replay as replaying
    from console.kafka import Cluster

    if rebuild == (start is not None):
        raise click.UsageError("say where to begin (--from 2h), or that the system is to be written again (--rebuild)")
    config = wiring.open_config(file)
    _a_system(config, system, file, "SYSTEM")
    if rebuild:
        return _rebuild(config, system, dry, limit, anyway, admin, as_json)
    cluster = Cluster(config.kafka)
    plan = replaying.planned(config, cluster, system, replaying.start_of(start or "", datetime.now(UTC)), tables)
    if plan.short and not anyway:
        say_json(replaying.to_json(plan, "refused")) if as_json else screen().print(plan.complaint(), markup=False)
        return NOT_OK
    if not as_json:
        replaying.show_plan(plan, screen())
    if dry:
        return _rehearse(config, plan, limit, as_json)
    told = replaying.command(cluster, config, plan, by or decide.oneself())
    progress = replaying.Progress("asked", 0)
    if wait:
        with _progress(as_json) as line:
            progress = replaying.follow(cluster, config, plan, told, lambda one: line(replaying.sentence(plan, one)))
    say_json(replaying.to_json(plan, progress.state)) if as_json else click.echo(replaying.sentence(plan, progress))
    return OK if progress.state in ("done", "asked") else NOT_OK


def _rehearse(config: Config, plan: Plan, limit: int, as_json: bool) -> int:
    from console import rehearse, wiring
    from console import replay as replaying

    with _progress(as_json) as line:
        found, foretold = rehearse.rehearse(wiring.open_pipeline(config), plan, limit, line)
    if as_json:
        more = {
            "records": found.records,
            "conflicts": found.conflicts,
            "dead": found.dead,
            "poison": [one._asdict() for one in found.poison[:limit]],
            "poison_total": len(found.poison),
            **foretold.to_json(),
        }
        say_json(replaying.to_json(plan, "dry run", more))
    else:
        foretold.show(screen())
        for one in found.poison[:limit]:
            click.echo(f"{one.record}: could not be folded, and would be a dead letter: {one.error}")
        if (hidden := len(found.poison) - limit) > 0:
            click.echo(f"… and {hidden:,} more of these (--limit)")
    return NOT_OK if foretold.total or found.poison else OK


def _rebuild(config: Config, system: str, dry: bool, limit: int, anyway: bool, admin: str | None, as_json: bool) -> int:
    from console import rebuild as rebuilding
    from console import wiring

    with _progress(as_json) as line:
        admin = admin or os.environ.get(f"{system.upper()}_ADMIN_DSN")
        work = rebuilding.Rebuild(wiring.open_pipeline(config), system, line, admin)
        try:
            report = work.run(dry, limit, anyway)
        finally:
            work.close()
    say_json(report.to_json()) if as_json else report.show(screen())
    return OK if report.is_well else NOT_OK


@contextlib.contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[str], None]]:
    """A line on the terminal that says how far it has come; nothing where nobody looks."""
    if as_json or not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True).status("") as line:
        yield line.update


@cli.group("dead")
def dead() -> None:
    """What could not be applied as it is, and why.

    \b
      concord dead list
      concord dead show erp:17
      concord dead retry erp:17
      concord dead discard erp:17 --reason 'a test'
    """


@command(dead, "list", report=True)
@click.option("--system", help="Only letters of this system.")
@click.option("--limit", type=click.IntRange(1), default=1_000, show_default=True, help="At most so many of each system, the newest.")
@click.option("--decided", is_flag=True, help="What was decided instead: the letters that were retried or discarded, by whom and why.")
def dead_list(file: Path, debug: bool, as_json: bool, system: str | None, limit: int, decided: bool) -> int:
    """All dead letters: what, where, why, since when.

    A letter of a sink is named `system:number`, one of the streams `system@partition/offset`; `concord dead show` takes either. Exit
    status 1 while there are any.

    \b
      concord dead list
      concord dead list --decided --json | jq '.dead[].decision'
    """
    from console import dead as letters
    from console import wiring

    config = wiring.open_config(file)
    systems = [_a_system(config, system, file, "--system")] if system else list(config.systems)
    found = letters.all_decisions(config, systems, limit) if decided else letters.all_letters(config, systems, limit)
    if as_json:
        say_json({"dead": [letter.to_json() for letter in found]})
    else:
        letters.show_all(found, screen(), "nothing was decided" if decided else "no dead letters")
    return NOT_OK if found and not decided else OK


@command(dead, "show", report=True)
@click.argument("letter_id", metavar="ID")
def dead_show(file: Path, debug: bool, as_json: bool, letter_id: str) -> int:
    """One dead letter with the record in it.

    Its values are shown: you asked for them.
    """
    from console import dead as letters
    from console import wiring

    config = wiring.open_config(file)
    letter = letters.letter(config, letter_id)
    if letter is None:
        raise click.BadParameter(f"there is no dead letter {letter_id!r}; `concord dead list` names them", param_hint="ID")
    told = letters.opened(config, letter)
    say_json(told) if as_json else letters.show_one(told, screen())
    return OK


def _selecting(function: Command) -> Command:
    """The options that say which letters are meant."""
    options = [
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.option("--system", help="Letters of this system …"),
        click.option("--entity", help="… of this entity …"),
        click.option("--link", help="… of this thing …"),
        click.option("--code", help="… with this code: all that fit all of it."),
        click.option("--all", "everything", is_flag=True, help="Every letter."),
        click.option("--by", help="Who decides, for the history.  [default: you]"),
    ]
    made: Any = function
    for option in reversed(options):
        made = option(made)
    return cast(Command, made)


def _selection(config: Config, file: Path, ids: tuple[str, ...], system: str | None, everything: bool, **filters: str | None) -> Selection:
    from console.decide import Selection

    filtered = {name: value for name, value in filters.items() if value is not None}
    if bool(ids) + bool(system or filtered) + everything != 1:
        raise click.UsageError("which letters? Give ids, or --system, --entity, --link, --code, or --all; `concord dead list` shows them")
    if system is not None:
        _a_system(config, system, file, "--system")
    return Selection(ids, system, **filtered)


@command(dead, "retry", report=True)
@_selecting
@click.option("--reason", default="", help="Why, for the history.")
@click.option("--wait", "seconds", type=click.FloatRange(0), default=10.0, show_default=True, help="See for so long what becomes of them.")
def dead_retry(
    file: Path,
    debug: bool,
    as_json: bool,
    ids: tuple[str, ...],
    system: str | None,
    entity: str | None,
    link: str | None,
    code: str | None,
    everything: bool,
    by: str | None,
    reason: str,
    seconds: float,
) -> int:
    """Try dead letters again, once what kept them from going through is mended. Says what became of each.

    A sink tries its letter as it tries any record: what is newer in the target stays. A record that the streams could not handle is sent
    again, with what came after it under its key. A row that was too large for Kafka, or whose record is not in Kafka any more, is read
    again from its database. All of it works while the pipeline runs; what does not run now tries it when it does.

    \b
      concord dead retry erp:17
      concord dead retry --entity customer --code 22001 --reason 'column was widened'
      concord dead retry --all --wait 60 --json | jq -r '.letters[] | select(.became == "dead") | .why'

    \b
    applied     the target has it now            handled     the streams took it, it goes its way
    superseded  something newer is there         read again  its row was read again
    parked      it now waits for another thing   queued      nobody has come to it yet, or what should does not run
    dead        it failed again                  refused     cannot be tried again, and why

    Exit status 0 when each is one of the first four.
    """
    from console import decide, wiring

    config = wiring.open_config(file)
    chosen = _selection(config, file, ids, system, everything, entity=entity, link=link, code=code)
    report = decide.retry(config, chosen, decide.Operator(by or decide.oneself(), reason), seconds)
    say_json(report.to_json()) if as_json else decide.show(report, screen())
    return OK if report.well else NOT_OK


@command(dead, "discard", report=True)
@_selecting
@click.option("--reason", required=True, help="Why, for the history.")
def dead_discard(
    file: Path,
    debug: bool,
    as_json: bool,
    ids: tuple[str, ...],
    system: str | None,
    entity: str | None,
    link: str | None,
    code: str | None,
    everything: bool,
    by: str | None,
    reason: str,
) -> int:
    """Close dead letters for good: nobody tries them again.

    The systems stay as they are: where they differ for it, `concord verify` goes on saying so, and the next change of the thing brings all
    of it. Each letter stays in the history, with who discarded it and why: `concord dead list --decided`. One whose record fails anew is a
    new letter.

    \b
      concord dead discard crm@0/42 --reason 'test data'
      concord dead discard --system erp --code NotAnEvent --reason 'somebody wrote rubbish into the topic'
    """
    from console import decide, wiring

    config = wiring.open_config(file)
    chosen = _selection(config, file, ids, system, everything, entity=entity, link=link, code=code)
    report = decide.discard(config, chosen, decide.Operator(by or decide.oneself(), reason))
    say_json(report.to_json()) if as_json else decide.show(report, screen())
    return OK if report.well else NOT_OK


# --- the embedded stack -----------------------------------------------------------------------------------------------------------


@cli.group("stack")
def stack() -> None:
    """An embedded Kafka and two PostgreSQL servers, for trying out. Needs Java 17+ and Maven, no Docker.

    \b
      concord stack up
      concord stack status --json
      concord stack down
    """


HOME = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".concord"),
    show_default=True,
    help="Where it keeps everything.",
)


@command(stack, "up", report=True)
@HOME
def stack_up(file: Path, debug: bool, as_json: bool, home: Path) -> int:
    """Start the servers, or find them running. They stay until `concord stack down`."""
    from console import stack as embedded

    state = embedded.up(home, progress=lambda line: click.echo(line, err=True))
    _say_stack(state, as_json)
    return OK


@command(stack, "down", report=True)
@HOME
def stack_down(file: Path, debug: bool, as_json: bool, home: Path) -> int:
    """Stop the servers. What they hold stays for the next time."""
    from console import stack as embedded

    was_up = embedded.down(home, progress=lambda line: click.echo(line, err=True))
    say_json({"was_up": was_up}) if as_json else click.echo("stopped" if was_up else "nothing was running")
    return OK


@command(stack, "status", report=True)
@HOME
def stack_status(file: Path, debug: bool, as_json: bool, home: Path) -> int:
    """What runs, and where. 1 when it does not run, or does not answer."""
    from console import stack as embedded

    state = embedded.status(home)
    _say_stack(state, as_json)
    return OK if state is not None and state.alive else NOT_OK


def _say_stack(state: StackState | None, as_json: bool) -> None:
    if as_json:
        say_json({"alive": state is not None and state.alive, "stack": None if state is None else state.as_json()})
        return
    if state is None:
        click.echo("not running: concord stack up")
        return
    out = screen()
    if state.kafka is not None:
        out.print(f"{'Kafka ' + state.kafka.version:<18}{_alive(state.kafka.alive)}  {state.kafka.bootstrap}", soft_wrap=True)
    for server in state.postgres:
        out.print(f"{'PostgreSQL ' + server.version:<18}{_alive(server.alive)}  {server.dsn}", soft_wrap=True)


def _alive(alive: bool) -> str:
    return "[green]up  [/]" if alive else "[red]down[/]"


def main() -> None:
    """The program."""
    faulthandler.enable()  # a crash in a C library says where we were
    threading.excepthook = logs.of_thread
    end_with_supervisor()
    cli(prog_name="concord")
