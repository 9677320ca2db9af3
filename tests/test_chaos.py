"""Runs that are killed at random, and checkpoints that are damaged at random: `benchmarks.chaos` in small."""

import pytest

from benchmarks import chaos

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("at_repository")]


@pytest.mark.parametrize("job", chaos.JOBS)
def test_a_run_that_is_killed_five_times_ends_with_the_same_bits(job, tmp_path):
    records = chaos.run(tmp_path, kills=5, damages=0, seed=0, jobs=[job])
    assert sum(record["kills"] for record in records) == 5
    assert all(record["same"] for record in records), records


def test_fifty_damages_change_no_number(tmp_path):
    records = chaos.run(tmp_path, kills=0, damages=50, seed=0)
    results = [record["result"] for record in records]
    assert len(results) == 50
    assert set(results) <= {"same", "a line"}, records
    assert "| the run continues | 10 | 10 | 0 | 0 |" in chaos.table(records)
