"""How fast a backlog goes, and how long one image takes: right after idling, at the start, and after any change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.drain_rate import DrainRate, ServiceTime


class Service:
    """Answers in batches at a steady pace, on a clock of its own."""

    def __init__(self, batch=1, capacity=32):
        self.rate = DrainRate()
        self.batch = batch
        self.capacity = capacity
        self.service_seconds = 0.0
        self.now = 0.0

    def observe(self, *, is_backlog):
        self.rate.observe(self.now, is_backlog=is_backlog, capacity=self.capacity, service_seconds=self.service_seconds)

    def work(self, seconds, per_second):
        """Have a backlog for a while."""
        self.observe(is_backlog=True)
        for _ in range(round(seconds * per_second / self.batch)):
            self.now += self.batch / per_second
            self.observe(is_backlog=True)
            for _ in range(self.batch):
                self.rate.answered()

    def stall(self, seconds):
        """Have a backlog, and answer nothing."""
        self.observe(is_backlog=True)
        self.now += seconds
        self.observe(is_backlog=True)

    def idle(self, seconds):
        self.observe(is_backlog=False)
        self.now += seconds
        self.observe(is_backlog=False)

    @property
    def per_second(self):
        return self.rate.per_second(self.capacity)


def test_nothing_is_known_at_the_start():
    """Neither without an answer, nor after one batch that came at once."""
    service = Service(batch=16)
    assert service.per_second is None
    service.work(0.02, per_second=800)
    assert service.per_second is None


def test_answers_without_a_backlog_tell_nothing():
    """They come as fast as they are asked for, and no faster."""
    rate = DrainRate()
    for second in range(100):
        rate.observe(float(second), is_backlog=False, capacity=4)
        rate.answered()
    assert rate.per_second(4) is None


@given(st.floats(5, 5000), st.sampled_from([1, 4, 16]))
def test_a_steady_rate_is_found(per_second, batch):
    """To within a quarter, however slow it is and whatever the batches."""
    service = Service(batch)
    service.service_seconds = 2 * batch / per_second
    service.work(max(5, 40 * batch / per_second), per_second)
    assert service.per_second == pytest.approx(per_second, rel=0.25)


@given(st.floats(0.001, 1e6))
def test_idle_time_changes_nothing(seconds):
    """A night without requests is no slowness."""
    service = Service()
    service.work(4, per_second=100)
    before = service.per_second
    service.idle(seconds)
    assert service.per_second == before
    service.work(0.05, per_second=100)
    assert service.per_second == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("before, after", [(80, 640), (640, 80)])
def test_a_change_by_eight_is_known_within_three_seconds_of_backlog(before, after):
    """To within a half upwards of the slower rate, and a tenth of the faster."""
    service = Service()
    service.work(10, before)
    service.work(3, after)
    assert 0.9 * after <= service.per_second <= 1.5 * after


def test_a_loss_of_capacity_counts_at_once():
    """Of eight Tritons one is left: so is an eighth of the rate, before any answer shows it."""
    service = Service(capacity=256)
    service.work(10, per_second=640)
    service.capacity = 32
    assert service.per_second == pytest.approx(80, rel=0.05)


def test_a_gain_of_capacity_has_to_be_seen():
    """Eight times the Tritons may be eight times as fast; until they are, nobody is promised so."""
    service = Service(capacity=32)
    service.work(10, per_second=80)
    service.capacity = 256
    assert service.per_second == pytest.approx(80, rel=0.05)


def test_a_stall_is_seen_to_and_passes():
    """After three seconds without an answer hardly anything is promised; one second later most of it is again."""
    service = Service()
    service.work(10, per_second=100)
    service.stall(3)
    assert service.per_second < 10
    service.work(1.2, per_second=100)
    assert service.per_second > 60


def test_an_image_that_was_given_up_took_at_least_so_long():
    """A service that has become too slow for any answer is known to be; an image given up early says nothing."""
    service = ServiceTime()
    for seconds in [0.05] * 50 + [0.01] * 50:
        service.add_at_least(seconds)
    assert service.mean_seconds == pytest.approx(0.05)
    for _ in range(100):
        service.add_at_least(0.9)
    assert service.mean_seconds > 0.7


def test_a_service_time_is_above_all_but_a_few():
    """Two mean deviations above the mean, which an odd one hardly moves."""
    service = ServiceTime()
    assert service.upper_seconds == 0
    for number in range(200):
        service.add(0.04 if number % 2 else 0.06)
    assert service.upper_seconds == pytest.approx(0.07, rel=0.05)
    service.add(4.0)
    assert service.upper_seconds < 0.5
