"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from store_engine import __version__

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "store_engine_requests",
            "Requests by path and status.",
            ("method", "path", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "store_engine_request_seconds",
            "From the last byte of a request to the last of its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.waiting = Gauge(
            "store_engine_waiting", "Requests that wait for an engine.", registry=registry
        )
        self.batch_size = Histogram(
            "store_engine_batch_size", "Requests of a batch.", buckets=_SIZES, registry=registry
        )
        self.batch_seconds = Histogram(
            "store_engine_batch_seconds",
            "How long a batch took, with the way to the engine and back.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.retries = Counter(
            "store_engine_retries",
            "Batches that went to another replica, because theirs was lost.",
            registry=registry,
        )
        self.sequence = Gauge(
            "store_engine_sequence",
            "The last change that a replica has, by the run that it serves.",
            ("replica", "run"),
            registry=registry,
        )
        self.journal_sequence = Gauge(
            "store_engine_journal_sequence", "The last change of the journal.", registry=registry
        )
        info = Gauge("store_engine_info", "Always 1.", ("version",), registry=registry)
        info.labels(__version__).set(1)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
