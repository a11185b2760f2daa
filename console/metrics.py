"""Metrics of parts: served on a port of each (`console.endpoints`), and read back from there by `status`, its exporter and the demo.

A fixed port (`metrics: {source: 9101}`) is for a Prometheus elsewhere, so it listens on all interfaces; parts of one kind take the ports
from there on, in the order of systems and workers. Without one a free port is taken, on this machine's own interface, and its address is in
the part's file.
"""

from __future__ import annotations

import http.client
import logging
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

from prometheus_client.parser import text_string_to_metric_families

from console.parts import is_held, read_json
from schemas.metrics import added

logger = logging.getLogger(__name__)

SCRAPE_SECONDS = 2.0


Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """What parts report at one moment: samples by name and labels, those of several parts added up."""

    samples: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)

    def rows(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Samples that have these labels, with all their labels."""
        wanted = set(labels.items())
        for found, value in self.samples.get(name, {}).items():
            if wanted <= found:
                yield dict(found), value

    def total(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self.rows(name, **labels))

    def highest(self, name: str, **labels: str) -> float | None:
        return max((value for _, value in self.rows(name, **labels)), default=None)

    def histogram(self, name: str, **labels: str) -> dict[float, float]:
        """Upper bound → count up to it, of all series with these labels together: what `schemas.metrics.quantile` takes."""
        return added(*({float(told["le"]): value} for told, value in self.rows(f"{name}_bucket", **labels)))


def scrape(addresses: Iterable[str]) -> Scrape:
    """Reads these endpoints; one that does not answer is left out."""
    samples: dict[str, dict[Labels, float]] = {}
    for address in addresses:
        text = read(address)
        for family in () if text is None else text_string_to_metric_families(text):
            if family.name.startswith("concord_"):
                for sample in family.samples:
                    series = samples.setdefault(sample.name, {})
                    labels = frozenset(sample.labels.items())
                    series[labels] = series.get(labels, 0.0) + sample.value
    return Scrape(samples)


def read(address: str) -> str | None:
    """What this endpoint says; None when it does not answer."""
    try:
        with urllib.request.urlopen(address, timeout=SCRAPE_SECONDS) as answer:
            return str(answer.read().decode())
    except (URLError, OSError, http.client.HTTPException) as error:
        logger.debug("no metrics from %s: %s", address, error)
        return None


def addresses(run_dir: Path) -> dict[str, str]:
    """Part → address of its metrics, of the parts that run on this machine."""
    found = {}
    for file in sorted((run_dir / "parts").glob("*.json")):
        told = read_json(file)
        if told.get("metrics") and is_held(file.with_suffix(".lock")):
            found[file.stem] = str(told["metrics"])
    return found
