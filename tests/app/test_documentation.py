from pathlib import Path

from app.base.settings import Settings

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_every_setting_is_documented_and_no_other_is() -> None:
    lines = [line for line in OPERATIONS.read_text().splitlines() if line.startswith("| `LIRF_")]
    assert [line.split("`")[1] for line in lines] == [f"LIRF_{name.upper()}" for name in Settings.model_fields]
