import time
from pathlib import Path

import psycopg
from rich.console import Console

from console.check import check_databases, show
from console.check.findings import Checked
from examples.reference import load
from schemas.config import loads


def test_it(database, database_2):
    with psycopg.connect(database) as crm, psycopg.connect(database_2) as erp:
        load.create(crm, erp)
        load.load(crm, erp, 1)
    config = loads(
        Path("examples/reference/concord.yaml").read_text(), {"CRM_DSN": database, "ERP_DSN": database_2, "KAFKA_BOOTSTRAP": "x:1"}
    )
    found = Checked()
    t = time.time()
    check_databases(config, found)
    print(time.time() - t)
    show(found, Console(width=200))
