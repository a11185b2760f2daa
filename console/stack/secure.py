"""The embedded servers as a real installation has them: TLS only, and nobody without a password.

The folder is the caller's, with certificates made by whom it likes (PEM):

    ca.pem                   who signed the server's certificate
    server.pem, server.key   for 127.0.0.1 and localhost; the key without a passphrase
    password                 of Kafka's user `concord` (SASL PLAIN); PostgreSQL's roles have their own, `postgres` needs none

"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import struct
from pathlib import Path

KAFKA_USER = "concord"


def kafka_settings(folder: Path, data: Path, port: int, controller_port: int) -> dict[str, object]:
    """What server.properties has otherwise, or besides."""
    data.parent.mkdir(parents=True, exist_ok=True)
    keys = data.parent / "server-keys.pem"  # one file with both, as Kafka wants it
    keys.touch(mode=0o600)
    keys.write_text((folder / "server.key").read_text() + (folder / "server.pem").read_text())
    password = (folder / "password").read_text()
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    return {
        "listeners": f"SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"SASL_SSL://127.0.0.1:{port}",
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
        "security.inter.broker.protocol": "SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": (
            f'{login} username="{KAFKA_USER}" password="{password}" user_{KAFKA_USER}="{password}";'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": keys,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": folder / "ca.pem",
    }


def postgres_settings(folder: Path, data: Path, user: str | None) -> str:
    """More lines of postgresql.conf; the key goes to the data folder, readable by nobody else, as PostgreSQL asks for."""
    for name in ("server.pem", "server.key"):
        target = data / name
        shutil.copyfile(folder / name, target)
        target.chmod(0o600)
        if user:
            shutil.chown(target, user)
    (data / "pg_hba.conf").write_text("hostssl all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
    return "ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\npassword_encryption = 'scram-sha-256'\n"


def kafka_answers(port: int) -> bool:
    """`kafka.answers`, through TLS. Which API versions there are is said before anybody logs in."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whether it is there, not who it is
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=1) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(struct.pack(">i", len(request)) + request)
        return len(connection.recv(4)) == 4
    return False


def lacks(postgres: Path) -> str | None:
    """What a PostgreSQL misses for it; None if nothing."""
    return None if b"SSL_CTX_new" in (postgres / "postgres").resolve().read_bytes() else "it is built without TLS"
