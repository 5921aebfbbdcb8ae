"""Time that passes only when a test says so."""


class Clock:
    """Seconds, as `time.monotonic` counts them."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds
