"""What is compared, and the goals. A goal is a part of what the other has: in CPU per request, or in latency that is added."""

from dataclasses import dataclass, field

SMALL, MIDDLE, BIG = 1024, 16 << 10, 1 << 20
BOTH, CLOSED = ("closed", "equal"), ("closed",)


@dataclass(frozen=True)
class Cell:
    name: str
    link: str
    connections: int = 32
    size: int = SMALL
    loads: tuple = CLOSED
    # Of CPU per request, by whose.
    cpu: dict = field(default_factory=dict)
    # Of added latency, by whose, by quantile; in a closed loop only of the median of one connection, which nobody queues before.
    added: dict = field(default_factory=dict)
    # Who cannot stand here, though it can with this link.
    without: tuple = ()

    def title(self):
        way = {"h1": "h1 → h1", "h2": "h1 → mTLS h2 → h1", "h3": "h1 → h3 → h1"}[self.link]
        size = {SMALL: "1 KiB", MIDDLE: "16 KiB", BIG: "1 MiB"}[self.size]
        return f"{way}, {self.connections} connection{'s' if self.connections > 1 else ''}, {size}"


CELLS = [
    Cell("h1", "h1", loads=BOTH, cpu={"envoy": 0.30, "haproxy": 0.95, "nginx": 0.95, "relay": 1.25}),
    Cell("h2", "h2", loads=BOTH, cpu={"envoy": 0.25, "haproxy": 0.95},
         added={"p99": {"envoy": 0.25, "haproxy": 0.9}, "p999": {"envoy": 0.35, "haproxy": 0.9}}),
    Cell("h2-256", "h2", connections=256, cpu={"envoy": 0.25, "haproxy": 0.95}),
    Cell("h2-1024", "h2", connections=1024, cpu={"envoy": 0.25, "haproxy": 0.95}),
    Cell("h2-16k", "h2", size=MIDDLE, cpu={"envoy": 0.40, "haproxy": 0.75}),
    Cell("h2-1m", "h2", size=BIG, cpu={"envoy": 0.60, "haproxy": 0.75}),
    Cell("h2-one", "h2", connections=1, added={"p50": {"envoy": 0.35, "haproxy": 0.75}}),
    Cell("h3", "h3", loads=BOTH, cpu={"envoy": 0.14, "h2": 1.25}),
    Cell("h3-16k", "h3", size=MIDDLE, cpu={"envoy": 0.22}),
    Cell("h3-1m", "h3", size=BIG, cpu={"envoy": 0.30}, without=("relay",)),  # which has nothing against losses
]
SMOKE = ["h1", "h2", "h2-1m", "h3"]
# Who can stand where. nginx speaks no HTTP/2 to an upstream and HAProxy no HTTP/3; `relay` is the floor: under one hop bytes are moved,
# under a pair they are also numbered, gathered, and sealed: over TCP, or over UDP.
PLACES = {"envoy": {"h1", "h2", "h3"}, "haproxy": {"h1", "h2"}, "nginx": {"h1"}, "relay": {"h1", "h2", "h3"}}
