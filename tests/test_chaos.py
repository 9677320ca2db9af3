"""Runs that are killed at random, and checkpoints that are damaged at random: `benchmarks.chaos` in small."""

import pytest

from benchmarks import chaos


@pytest.mark.heavy
@pytest.mark.usefixtures("at_repository")
def test_kills_and_damages_change_no_bit(tmp_path):
    records = chaos.run(tmp_path, kills=20, damages=50, seed=0)
    killed = [record for record in records if "job" in record]
    assert {record["job"] for record in killed} == set(chaos.JOBS)
    assert sum(record["kills"] for record in killed) == 20
    assert all(record["same"] for record in killed), killed
    results = [record["result"] for record in records if "damage" in record]
    assert len(results) == 50
    assert set(results) <= {"same", "a line"}, records
    assert "| the run continues | 10 | 10 | 0 | 0 |" in chaos.table(records)
