"""What all parts agree on: positions, events, records, topics, configuration and mapping.

Imports none of the other packages and does no I/O but the schema registry's.
"""
