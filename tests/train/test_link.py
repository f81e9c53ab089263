"""What an exchange takes on a slower link."""

import pytest

from comm_lopt.train import Link
from comm_lopt.train.run import TrainSummary


def test_an_exchange_waits_for_what_the_link_would_take_longer():
    slept = []
    link = Link(8.0)  # 10⁶ bytes a second
    assert link.seconds(500_000, 2_000_000) == pytest.approx(2.0)
    assert link.wait(500_000, 2_000_000, took=0.5, sleep=slept.append) == pytest.approx(1.5)
    assert link.wait(500_000, 2_000_000, took=3.0, sleep=slept.append) == 0.0
    assert slept == pytest.approx([1.5])


def test_a_round_on_another_link_has_its_local_steps_and_that_links_exchange():
    summary = TrainSummary(10, 0.5, {}, 2.0, 5.0, 1_000_000, 1_000_000)
    assert summary.seconds_per_round() == pytest.approx(0.7)
    assert summary.seconds_per_round(Link(80.0)) == pytest.approx(0.2 + 0.1)


@pytest.mark.parametrize("speed", [0.0, -1.0])
def test_a_link_has_a_speed(speed):
    with pytest.raises(ValueError, match="lies outside"):
        Link(speed)
