"""Two machines and the network between them, on one machine: a namespace each, and linkshim in the middle.

    application (meshload) ─▶ sidecar of alpha ─▶ near ══ linkshim ══ far ─▶ sidecar of delta ─▶ backend (meshload)
        └───────── namespace near ──────────┘                            └────────── namespace far ─────────┘
"""

import json
import os
import re
import subprocess
import time
from pathlib import Path

from harness.machine import run
from harness.proxies import command

NEAR, FAR = "10.77.0.1", "10.77.0.2"
# Every place has its namespaces to itself, so the ports are always the same.
PORTS = {"alpha": 15001, "delta": 15006, "admin_alpha": 15000, "admin_delta": 15000, "backend": 9000}
# The network is not what is measured: it goes first.
SHIM_NICE = -10


class Place:
    """Two namespaces, and a network of the asked conditions between them."""

    def __init__(self, number):
        self.processes = []
        self.shim = self.spawn(None, [os.environ["LINKSHIM_BIN"], "--near", f"near{number}", "--far", f"far{number}"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.nice(SHIM_NICE))
        devices = json.loads(self.shim.stdout.readline())
        self.near, self.far = self.namespace(), self.namespace()
        self.join(self.near, devices["near"], NEAR, FAR)
        self.join(self.far, devices["far"], FAR, NEAR)

    def namespace(self):
        process = self.spawn(None, ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
        process.stdout.readline()
        return process

    def join(self, namespace, device, own, other):
        """Cubic for every connection, as an attribute of the routes: no setting of the machine changes."""
        run("ip", "link", "set", device, "netns", namespace.pid)
        inside = lambda *words: run(*within(namespace), "ip", *words)
        inside("link", "set", "lo", "up")
        inside("addr", "add", f"{own}/32", "dev", device)
        inside("link", "set", device, "mtu", "1500", "up")
        inside("route", "add", other, "dev", device, "src", own, "congctl", "cubic")
        for destination in ["127.0.0.0/8", "127.0.0.1"]:
            inside("route", "replace", "table", "local", "local", destination, "dev", "lo", "proto", "kernel", "scope", "host",
                   "src", "127.0.0.1", "congctl", "cubic")

    def spawn(self, namespace, argv, **keywords):
        """Ends with this script, however that ends. setpriv comes last: nsenter execs, and what it asks for is kept."""
        argv = within(namespace) + ["setpriv", "--pdeathsig", "KILL", *map(str, argv)]
        process = subprocess.Popen(argv, **({"stdin": subprocess.DEVNULL} | keywords))
        self.processes.append(process)
        return process

    def change(self, conditions):
        """Other conditions from now on. What became of the packets before."""
        self.shim.stdin.write(json.dumps(conditions) + "\n")
        self.shim.stdin.flush()
        return json.loads(self.shim.stdout.readline())

    def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def within(namespace):
    return ["nsenter", f"--net=/proc/{namespace.pid}/ns/net"] if namespace else []


class Distant:
    """A pair of sidecars with the network between them, the load at one end and its backend at the other."""

    def __init__(self, name, kind, link, place, work):
        self.name, self.place, self.directory = name, place, work / "run" / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.client = self.backend = None
        values = PORTS | {"link": link, "certs": work / "certs", "far": FAR}
        self.sidecars = []
        for side, namespace in [("delta", place.far), ("alpha", place.near)]:
            argv = command(kind, "h3" if link == "h3" else "h2", side, self.directory, values)
            with open(self.directory / f"{side}.log", "w") as output:
                self.sidecars.append(place.spawn(namespace, argv, stdout=output, stderr=output))

    def load(self, size):
        """Answers have so many bytes from now on. Ends the load before, if there was one."""
        for process in (self.client, self.backend):
            if process:
                process.kill()
                process.wait()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        serve = [os.environ["MESHLOAD_BIN"], "serve", "--size", size]
        self.backend = self.place.spawn(self.place.far, [*serve, "--backend", f"127.0.0.1:{PORTS['backend']}"], **pipes)
        self.client = self.place.spawn(self.place.near, serve, **pipes)
        for process in (self.client, self.backend):
            process.stdout.readline()
        # It serves while a plan runs: this one sends nothing, and does not end by itself.
        self.ask(self.backend, {"target": "127.0.0.1:1", "connections": 0, "seconds": 1e5})

    @staticmethod
    def ask(process, plan):
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.flush()

    def begin(self, connections, seconds, warmup, rate=None):
        self.ask(self.client, {"target": f"127.0.0.1:{PORTS['alpha']}", "connections": connections, "seconds": seconds, "warmup": warmup,
                               "rate": rate, "arrivals": "poisson", "pids": [process.pid for process in self.sidecars]})

    def end(self):
        window = json.loads(self.client.stdout.readline())
        if "error" in window:
            raise SystemExit(f"benches/links: {self.name}: {window['error']}\nlogs in {self.directory}")
        return window

    def received(self):
        """Bytes that the application's loopback has carried: nearly all are answers, with their TCP/IP headers."""
        for line in Path(f"/proc/{self.place.near.pid}/net/dev").read_text().splitlines():
            if line.strip().startswith("lo:"):
                return int(line.split()[1])
        raise SystemExit("a namespace without a loopback")

    def await_ready(self):
        deadline = time.monotonic() + 30
        while True:
            for process in self.sidecars:
                if process.poll() is not None:
                    logs = "".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.directory.glob("*.log")))
                    raise SystemExit(f"benches/links: a sidecar of {self.name} ended by itself:\n{logs}")
            self.begin(1, 0.7, 0)
            window = self.end()
            if window["done"] and not window["errors"]:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"benches/links: {self.name} does not answer: {json.dumps(window)}\nlogs in {self.directory}")

    def congestion_control(self):
        """Of the link's TCP connection at both ends; none where it is QUIC."""
        found = set()
        for namespace in (self.place.near, self.place.far):
            text = subprocess.run([*within(namespace), "ss", "-tinH", f"( sport = :{PORTS['delta']} or dport = :{PORTS['delta']} )"],
                                  capture_output=True, text=True, check=True).stdout
            found |= set(re.findall(r"\b(cubic|bbr|reno)\b", text))
        return sorted(found)

    def link_used(self):
        """By which protocol requests crossed, where the sidecar tells it: of Lacis, what its metrics count."""
        text = subprocess.run([*within(self.place.near), "curl", "-s", f"http://127.0.0.1:{PORTS['admin_alpha']}/metrics"],
                              capture_output=True, text=True).stdout
        counts = {}
        for line in text.splitlines():
            match = re.match(r'lacis_requests_total\{.*\blink="(\w+)".*\} (\d+)', line)
            if match:
                counts[match[1]] = counts.get(match[1], 0) + int(match[2])
        return counts
