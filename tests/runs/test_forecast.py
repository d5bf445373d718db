"""The forecast of the remaining time counts down, adapts to the observed pace, and rises only with a note."""

from __future__ import annotations

import pytest

from offcomp.runs.forecast import SLOWER, Forecast, Outlook


class Clock:
    """A clock that moves only when a test sets it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def after(forecast: Forecast, clock: Clock, seconds: float) -> Outlook:
    clock.now += seconds
    return forecast.outlook()


def test_it_counts_down_between_reports(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.expect({"load": 4.0, "compress": 10.0})
    forecast.enter("load")
    shown = [after(forecast, clock, 1.0) for _ in range(3)]
    assert [one.remaining for one in shown] == [13.0, 12.0, 11.0]
    assert [one.elapsed for one in shown] == [1.0, 2.0, 3.0]
    assert all(one.note is None for one in shown)


def test_it_never_stands_still_and_never_grows_without_a_note(clock: Clock) -> None:
    """A stage estimated at one second takes a minute, with and without progress reports."""
    for reports in (False, True):
        forecast = Forecast(clock)
        forecast.expect({"compress": 1.0, "evaluate": 5.0})
        forecast.enter("compress")
        before = forecast.outlook()
        grown = 0
        for second in range(1, 60):
            if reports and second % 5 == 0:
                forecast.advance(second / 60)
            now = after(forecast, clock, 1.0)
            assert now.remaining != before.remaining
            assert now.fraction >= before.fraction
            if now.remaining > before.remaining:
                grown += 1
                assert now.note == SLOWER
            before = now
        assert grown


def test_a_stage_that_reports_is_extrapolated(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.expect({"compress": 10.0})
    forecast.enter("compress")
    clock.now += 20.0
    forecast.advance(0.5)
    outlook = forecast.outlook()
    assert (outlook.remaining, outlook.fraction) == (20.0, 0.5)


def test_what_the_finished_stages_took_corrects_the_stages_ahead(clock: Clock) -> None:
    def remaining(took: float) -> float:
        forecast = Forecast(clock)
        forecast.expect({"one": 10.0, "two": 30.0})
        forecast.enter("one")
        clock.now += took
        forecast.leave()
        forecast.enter("two")
        return forecast.outlook().remaining

    assert remaining(10.0) == pytest.approx(30.0)
    assert remaining(2.0) == pytest.approx(30.0 * 7 / 15)
    assert remaining(40.0) == pytest.approx(90.0)


def test_the_end_is_the_end(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.expect({"one": 10.0})
    forecast.enter("one")
    clock.now += 3.0
    forecast.advance(1.0)
    assert (forecast.outlook().remaining, forecast.outlook().fraction) == (0.0, 1.0)
