"""`concord verify`: do all systems hold the same, as far as the mapping goes? While everything runs, in flat memory.

Each system in turn leads: its table is read in the order of its key, a chunk at a time.

    1. The databases hash the chunk's things through the mapping and only sums are compared (`hashed`, `in_sql`). Where they are equal, that
       is that. Where not, or where the mapping cannot be said in SQL, rows are fetched:
    2. `concord.key` of all databases says which thing each row is, and which rows it is elsewhere;
    3. those rows are fetched by key; a thing that an earlier system has led already is passed over;
    4. both rows are mapped to canonical fields and compared in either system's own representation, references as things;
    5. what is not equal is a suspect, no more: it may be in flight. Suspects are looked at again after a while, several times, and only
       what stays as it is gets reported. What keeps changing is counted as in flight.

A row that nobody linked is missing elsewhere if things may be born in its system, else out of scope; with the match value of another row
of its system it is a duplicate that waits. Where a thing is gone in one system and the policy is soft or ignore, nothing is missing.

Values are in the report: the operator asked for them. `repair` writes what is agreed on again where a system differs from it.
"""

from console.verify.repair import Mending, Repairer
from console.verify.report import Count, Report, Verdict
from console.verify.rows import CHUNK, Connection, Crosswalk, Rows
from console.verify.run import about, verify
from console.verify.show import sentence, show, table

__all__ = [
    "CHUNK",
    "Connection",
    "Count",
    "Crosswalk",
    "Mending",
    "Repairer",
    "Report",
    "Rows",
    "Verdict",
    "about",
    "sentence",
    "show",
    "table",
    "verify",
]
