"""Where the time of the steps goes, and the warning of an input-bound run."""

import pytest

from simclr_jax.training import timing


def test_timing_adds_up_to_the_time_that_passed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: clock[0])
    measured = timing.Timing(10)
    for _ in range(4):
        with measured.of("data_wait"):
            clock[0] += 0.3
        clock[0] += 0.1  # the step
    with measured.of("checkpoint"):
        clock[0] += 2.0
    report = measured.report(14, 32)
    assert report["ms_data_wait"] == pytest.approx(300)
    assert report["ms_step"] == pytest.approx(100)
    assert report["ms_checkpoint"] * 4 == pytest.approx(2000)
    assert report["data_wait_fraction"] == pytest.approx(1.2 / 3.6)


def test_an_input_bound_run_is_told_once(monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(timing.log, "propagate", True)

    def report(waiting, computing):
        for _ in range(2):
            with measured.of("data_wait"):
                clock[0] += waiting
            clock[0] += computing
        measured.report(steps.pop(0), 32)

    steps = [2, 4, 6, 8]
    measured = timing.Timing(0)
    report(9.0, 1.0)  # the first report is of a cold start
    report(0.1, 1.0)
    assert not caplog.records
    report(0.6, 0.4)
    report(0.6, 0.4)
    (record,) = caplog.records
    assert "Input-bound: 60 % of the time was spent waiting for data (600 of 1000 ms a step)" in record.getMessage()
