"""What every test may ask for: the services (`tests/services.py`)."""

pytest_plugins = ["tests.services"]
