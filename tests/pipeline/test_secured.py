"""TLS and passwords everywhere, with certificates made on the spot: the smallest whole pipeline through it, and what a wrong one says."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from console import stack
from console.stack import postgres as postgres_server
from console.stack import secure
from schemas.errors import ConfigError
from streams.app import _credentials
from tests.pipeline.pipeline_fixtures import RunningPipeline, eventually
from tests.services import HOME, SECRET, a_database

CONFIG = """
name: {name}
kafka:
  bootstrap: "{kafka}"
  partitions: 1
  settings:
    security.protocol: SASL_SSL
    sasl.mechanism: PLAIN
    sasl.username: concord
    sasl.password: "${{KAFKA_PASSWORD}}"
    ssl.ca.location: "${{CA}}"
state_dir: "{state}"
systems:
  crm: {{dsn: "${{CRM_DSN}}", rank: 1}}
  erp: {{dsn: "${{ERP_DSN}}", rank: 2}}
entities:
  customer:
    crm: {{table: account}}
    erp: {{table: partner}}
    fields: {{name: {{crm: name, erp: legal_name}}}}
"""


def a_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(pem)
    return key


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def a_certificate(path: Path, subject: str, key: Any, issuer: str, issuer_key: Any, *, ca: bool) -> None:
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        made = made.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    path.write_bytes(made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What console.stack.secure asks for, and another authority, who signed nothing."""
    made = tmp_path_factory.mktemp("secured")
    authority = a_key(made / "ca.key")
    a_certificate(made / "ca.pem", "an authority", authority, "an authority", authority, ca=True)
    a_certificate(made / "server.pem", "server", a_key(made / "server.key"), "an authority", authority, ca=False)
    stranger = a_key(made / "stranger.key")
    a_certificate(made / "stranger.pem", "a stranger", stranger, "a stranger", stranger, ca=True)
    (made / "password").write_text(f"k4fka-{secrets.token_hex(8)}")
    return made


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Iterator[RunningPipeline]:
    """Servers of its own, since those of the other tests let everybody in."""
    for lacks in (stack.kafka_lacks(HOME), stack.postgres_lacks()):
        if lacks:
            pytest.skip(lacks)
    if lacks := secure.lacks(postgres_server.installs()[0].bin):
        pytest.skip(f"PostgreSQL in {postgres_server.installs()[0].bin}: {lacks}")
    run = f"test-{os.getpid()}-secured"
    with stack.running(HOME, run=run, postgres=(None,), fsync=False, ephemeral=True, secure=folder) as state:
        assert state.kafka is not None
        server = state.postgres[0].dsn
        with a_database(server) as crm, a_database(server) as erp:
            running = RunningPipeline(folder, "t" + uuid.uuid4().hex[:8], state.kafka.bootstrap, crm, erp, CONFIG)
            for system in ("CRM", "ERP"):
                running.env[f"{system}_DSN"] += f"?sslmode=verify-full&sslrootcert={folder / 'ca.pem'}"
            running.env |= {"KAFKA_PASSWORD": (folder / "password").read_text(), "CA": str(folder / "ca.pem")}
            try:
                running.do("crm", "CREATE TABLE account (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text)")
                running.do("erp", "CREATE TABLE partner (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, legal_name text)")
                yield running
            finally:
                running.close()


@pytest.mark.slow
def test_a_change_goes_both_ways_and_nothing_is_in_the_clear(pipeline: RunningPipeline) -> None:
    pipeline.up("--debug")
    pipeline.do("crm", "INSERT INTO account (name) VALUES ('Acme')")
    eventually(lambda: pipeline.one("erp", "SELECT legal_name FROM partner") == "Acme", seconds=90)
    pipeline.do("erp", "UPDATE partner SET legal_name = 'Acme Ltd'")
    eventually(lambda: pipeline.one("crm", "SELECT name FROM account") == "Acme Ltd")
    clear = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE starts_with(a.usename, 'concord') AND NOT s.ssl"
    assert pipeline.one("crm", clear) == 0
    log = pipeline.log.read_text()
    assert SECRET not in log
    assert pipeline.env["KAFKA_PASSWORD"] not in log


def told(pipeline: RunningPipeline, **env: str) -> str:
    """What `concord check` cannot ask, and why, with this in the environment; nothing in it is a secret."""
    before = dict(pipeline.env)
    pipeline.env |= env
    try:
        found = pipeline.concord("check", "--no-rows", expect=2)
    finally:
        pipeline.env = before
    text = "\n".join(f"{one['where']}: {one['what']} → {one['mend']}" for one in found["unanswered"] + found["problems"])
    assert not [secret for secret in (SECRET, before["KAFKA_PASSWORD"], "wr0ng-one") if secret in text]
    return text


def test_a_wrong_authority_is_said_with_where_and_what_to_do(pipeline: RunningPipeline, folder: Path) -> None:
    stranger = str(folder / "stranger.pem")
    dsn = pipeline.env["ERP_DSN"].replace(str(folder / "ca.pem"), stranger)
    text = told(pipeline, CA=stranger, ERP_DSN=dsn)
    assert "erp: system erp: connecting" in text
    assert "certificate verify failed" in text
    assert "is systems.erp.dsn right (also user, password, sslmode, sslrootcert)?" in text
    assert "kafka: asking Kafka at" in text
    assert "see kafka.settings (ssl.*, sasl.*)" in text


def test_a_wrong_password_is_said_and_not_shown(pipeline: RunningPipeline) -> None:
    text = told(pipeline, KAFKA_PASSWORD="wr0ng-one", CRM_DSN=pipeline.env["CRM_DSN"].replace(SECRET, "wr0ng-one"))
    assert "password authentication failed for user" in text
    assert "[_AUTHENTICATION]" in text or "[SASL_AUTHENTICATION_FAILED]" in text


def test_what_the_streams_have_no_equal_of_is_refused_by_name(folder: Path) -> None:
    def refused(**settings: str) -> str:
        with pytest.raises(ConfigError) as error:
            _credentials({"security.protocol": "SSL", **{name.replace("_", "."): value for name, value in settings.items()}})
        return str(error.value)

    assert "kafka.settings.ssl.ca.location: '/nowhere'" in refused(ssl_ca_location="/nowhere")
    assert "kafka.settings.ssl.certificate.location" in refused(ssl_certificate_location=str(folder / "password"))
    assert "kafka.settings.ssl.cipher.suites: the streams have no equal of it" in refused(ssl_cipher_suites="x")
    assert "the streams cannot use sasl_ssl with GSSAPI" in refused(security_protocol="SASL_SSL", sasl_mechanism="GSSAPI")
    assert _credentials({}) == {}


def test_the_stack_lets_nobody_in_without_tls(pipeline: RunningPipeline) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(pipeline.dsn["crm"] + "?sslmode=disable")
