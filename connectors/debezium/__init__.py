"""Real Debezium in our source's place: what its connectors are told, and Kafka Connect as a part that runs them.

    settings.py   concord.yaml ─▶ a connector's settings, a worker's properties; settings that lose values, refused      (no I/O)
    connect.py    Kafka Connect's REST interface
    watching.py   what a worker's connectors do: put them there, restart what failed, say when a system is captured
    worker.py     Kafka Connect as a child process of ours: the part `debezium` of `concord up --source debezium`

Streams and sinks know nothing of it: they read its events as they read our source's (docs/decisions/0020).
"""
