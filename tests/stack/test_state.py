"""What another version of Concord left in the state folder."""

import json
from pathlib import Path

import pytest

from console.stack.state import Spec, StackError

SPEC = Spec("h", "run", True, (15, 18), ("b",), ("15.1",), "data", None, False, True)


def test_a_key_that_another_version_wrote_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    spec = Spec(**{**{name: getattr(SPEC, name) for name in Spec.__dataclass_fields__}, "home": str(tmp_path)})
    spec.save()
    told = json.loads((spec.folder / "spec.json").read_text())
    (spec.folder / "spec.json").write_text(json.dumps({**told, "kept": True}))
    assert Spec.load(spec.folder) == spec


def test_a_key_that_another_version_did_not_write_is_said(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}")
    with pytest.raises(StackError, match="make clean"):
        Spec.load(tmp_path)
