"""What a service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counts of one service. None has a label with a photo, a place or a token in it."""

    def __init__(self) -> None:
        self._all = CollectorRegistry()
        self.requests = Counter(
            "geosurge_requests", "Requests, by route and HTTP status.", ["route", "status"], registry=self._all
        )
        self.rows = Counter(
            "geosurge_rows", "Photos and vectors that were answered, by route.", ["route"], registry=self._all
        )
        self.request_seconds = Histogram(
            "geosurge_request_seconds",
            "Seconds of a request, by route.",
            ["route"],
            buckets=_SECONDS,
            registry=self._all,
        )
        self.stage_seconds = Histogram(
            "geosurge_stage_seconds", "Seconds of a batch, by stage.", ["stage"], buckets=_SECONDS, registry=self._all
        )
        self.batch_rows = Histogram(
            "geosurge_batch_rows",
            "Photos or vectors in a batch, by stage.",
            ["stage"],
            buckets=_ROWS,
            registry=self._all,
        )
        self.inside = Gauge("geosurge_rows_inside", "Photos and vectors that are in the service.", registry=self._all)
        self.bytes_inside = Gauge("geosurge_bytes_inside", "Bytes of requests that are in memory.", registry=self._all)
        self.waiting = Gauge("geosurge_rows_waiting", "Rows that wait for a stage.", ["stage"], registry=self._all)
        self.swaps = Gauge("geosurge_swaps", "How often another version was taken up.", registry=self._all)
        self.refused = Gauge(
            "geosurge_version_refused", "1 where the current version cannot be served.", registry=self._all
        )
        self.deaths = Gauge("geosurge_stage_deaths", "How often a stage died.", ["stage"], registry=self._all)
        self.version = Gauge("geosurge_version", "1 of the version that is served.", ["version"], registry=self._all)

    def observe(self, stage: str, rows: int, seconds: float) -> None:
        """A batch of a stage is done."""
        self.stage_seconds.labels(stage).observe(seconds)
        self.batch_rows.labels(stage).observe(rows)

    def text(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._all)
