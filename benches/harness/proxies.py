"""What is measured: sidecars in pairs, the load for them, and what their link really is."""

import json
import os
import shutil
import signal
import socket
import string
import struct
import subprocess
import time
from pathlib import Path

from harness.machine import HERE, envoy_program, find, processors, run


def certificates(directory):
    """One CA and the certificates of both sides, which all proxies use."""
    if not (directory / "delta.pem").exists():
        shutil.rmtree(directory, ignore_errors=True)
        run(os.environ["LACIS_BIN"], "cert", "init", "--dir", directory, stdout=subprocess.DEVNULL)
        for service in ["alpha", "delta"]:
            run(os.environ["LACIS_BIN"], "cert", "issue", service, "--dir", directory, stdout=subprocess.DEVNULL)
    for service in ["alpha", "delta"]:
        combined = directory / f"{service}-haproxy.pem"
        combined.touch(mode=0o600)
        combined.write_text((directory / f"{service}.pem").read_text() + (directory / f"{service}-key.pem").read_text())


# Sidecars by the link that is measured: `h1` is one proxy and no link, from the application straight to the service.
SIDES = {"h1": ["hop"], "h2": ["delta", "alpha"], "h3": ["delta", "alpha"]}


class Pair:
    """The sidecars of one kind on the way of a request, running: two, or one where there is no link between them."""

    def __init__(self, name, kind, link, backend, work, cpus=None, **more):
        """On one processor, or on `cpus`. `more` goes into the configuration: see `USUAL`."""
        self.name, self.directory = name, work / "run" / name
        self.directory.mkdir(parents=True, exist_ok=True)
        ports = free_ports(4)
        self.port, self.delta = ports[:2]
        values = dict(zip(["alpha", "delta", "admin_alpha", "admin_delta"], ports),
                      backend=backend, link=link, certs=work / "certs") | more
        self.processes = []
        for side in SIDES[link]:
            self.processes.append(start(command(kind, link, side, self.directory, values), self.directory / f"{side}.log", cpus))

    def pids(self):
        """Of the service's sidecar, the caller's, and the kernel's thread that delivers on their processor what did not
        fit into their own time: the loopback's work for them, which nobody else on that processor causes."""
        return [process.pid for process in self.processes] + softirq_pid(processors()[1])

    def check(self):
        for process in self.processes:
            if process.poll() is not None:
                logs = "".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.directory.glob("*.log")))
                raise SystemExit(f"benches/compare: a sidecar of {self.name} ended by itself:\n{logs}")

    def stop(self):
        stop(self.processes)


# What a configuration has where nothing else is said: how many workers, how a relay's connections come to its threads (all in one loop),
# what more an Envoy's listener says, and where the sidecar of delta is.
USUAL = {"workers": 1, "tasks": None, "listener": "", "far": "127.0.0.1"}


def command(kind, link, side, directory, values):
    """Writes the configuration of one sidecar; the command that starts it."""
    values = USUAL | values
    if kind == "relay":
        between = ["--link", {"h2": "sealed", "h3": "udp"}[link], "--side", {"alpha": "near", "delta": "far"}[side]] if side != "hop" else []
        if values["tasks"]:
            between = ["--tasks", values["tasks"], "--threads", values["workers"]]
        listen, target = {"hop": ("alpha", "backend"), "alpha": ("alpha", "delta"), "delta": ("delta", "backend")}[side]
        return [os.environ["MESHLOAD_BIN"], "relay", "--listen", f"127.0.0.1:{values[listen]}", "--target", f"127.0.0.1:{values[target]}"] + between
    linked = side if side == "hop" else f"{link}-{side}"
    template = {"lacis": f"lacis/{side}.yaml", "envoy": f"envoy/{linked}.yaml", "haproxy": f"haproxy/{side}.cfg", "nginx": f"nginx/{side}.conf"}[kind]
    config = directory / Path(template).name
    config.write_text(string.Template((HERE / "peers" / template).read_text()).substitute(values))
    return {
        "lacis": [os.environ["LACIS_BIN"], "run", "-c", config, "--log-level", "warn"],
        "envoy": [envoy_program(), "-c", config, "--concurrency", values["workers"], "--disable-hot-restart", "--log-level", "warn"],
        "haproxy": [find("haproxy"), "-db", "-f", config],
        "nginx": [find("nginx"), "-e", "stderr", "-p", directory, "-c", config],
    }[kind]


def start(argv, log, cpus=None):
    """On the processor of the sidecars, or on `cpus`."""
    cpus = cpus or {processors()[1]}
    with open(log, "w") as output:
        # Whatever ends this script ends the sidecars too.
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, argv)], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                preexec_fn=lambda: os.sched_setaffinity(0, cpus))


def stop(processes):
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()


def softirq_pid(processor):
    """None where the kernel's threads are not visible, as in a container."""
    names = (path for path in Path("/proc").glob("[0-9]*/comm") if path.read_text() == f"ksoftirqd/{processor}\n")
    return [int(path.parent.name) for path in names][:1]


def free_ports(count):
    """Free for TCP and UDP both: the namespace is ours alone."""
    found = []
    while len(found) < count:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            port = server.getsockname()[1]
            try:
                datagrams.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in found:
                found.append(port)
    return found


class Load:
    """meshload, serving its backend and waiting for plans."""

    def __init__(self, size):
        load_cpu = processors()[0]
        self.process = subprocess.Popen([os.environ["MESHLOAD_BIN"], "serve", "--size", str(size)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        preexec_fn=lambda: os.sched_setaffinity(0, {load_cpu}))
        self.backend = int(json.loads(self.process.stdout.readline())["backend"].rsplit(":", 1)[1])

    def window(self, port, connections, seconds, warmup, pids=(), rate=None, **more):
        """`more`: fields of a plan (src/plan.rs)."""
        plan = {"target": f"127.0.0.1:{port}", "connections": connections, "seconds": seconds, "warmup": warmup,
                "pids": list(pids), "rate": rate} | more
        self.process.stdin.write(json.dumps(plan) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def await_ready(self, pair):
        """Until a request crosses the pair."""
        deadline = time.monotonic() + 30
        while True:
            pair.check()
            window = self.window(pair.port, 1, 0.1, 0)
            if window.get("done") and not window["errors"]:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"benches/compare: {pair.name} does not answer: {json.dumps(window)}\nlogs in {pair.directory}")

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


class Handshakes:
    """Listens on the loopback while a pair starts, and so knows what the link is, whatever the configuration says: what a
    TLS 1.3 server chose stands in clear in its ServerHello. QUIC's is encrypted, with keys that this does not derive."""

    SUITES = {0x1301: "TLS_AES_128_GCM_SHA256", 0x1302: "TLS_AES_256_GCM_SHA384", 0x1303: "TLS_CHACHA20_POLY1305_SHA256"}
    GROUPS = {0x001D: "X25519", 0x0017: "P-256", 0x0018: "P-384", 0x11EC: "X25519MLKEM768"}

    def __enter__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind(("lo", 0))
        self.socket.setblocking(False)
        return self

    def __exit__(self, *_):
        self.socket.close()

    def of(self, port):
        """What the server on `port` spoke: None where it was neither TLS 1.3 nor datagrams."""
        found = None
        while True:
            try:
                frame = self.socket.recv(65535)
            except BlockingIOError:
                return found
            ip = frame[14:]
            if len(ip) < 28 or ip[0] >> 4 != 4:
                continue
            segment = ip[(ip[0] & 15) * 4:]
            if struct.unpack_from("!H", segment)[0] != port:
                continue
            if ip[9] == socket.IPPROTO_UDP:
                found = {"link": "h3", "tls": "QUIC"}
            elif ip[9] == socket.IPPROTO_TCP:
                hello = segment[(segment[12] >> 4) * 4:]
                # Record of type handshake (22), message of type ServerHello (2): RFC 8446, 4.1.3 and 5.1.
                if len(hello) > 50 and hello[0] == 22 and hello[5] == 2:
                    found = {"link": "h2", "tls": self.chosen(hello[9:])}

    def chosen(self, hello):
        after_session = 35 + hello[34]
        suite, = struct.unpack_from("!H", hello, after_session)
        extension, group = after_session + 5, None
        while extension + 4 <= len(hello):
            kind, length = struct.unpack_from("!HH", hello, extension)
            if kind == 51 and length >= 2:
                group, = struct.unpack_from("!H", hello, extension + 4)
            extension += 4 + length
            if kind == 51:
                break
        return f"{self.SUITES.get(suite, hex(suite))}, {self.GROUPS.get(group, group)}"


def await_port(port, process, log, patience=30):
    """Until a process listens there."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"nobody listens on port {port}:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)


def resident(process):
    """Memory of a process, in MiB."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    fields = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in rollup[1:]}
    return {"rss_mib": fields["Rss"], "pss_mib": fields["Pss"], "private_dirty_mib": fields["Private_Dirty"]}


def idle_sample(kind, options, work):
    directory = work / "run" / f"idle-{kind}"
    directory.mkdir(parents=True, exist_ok=True)
    ports = free_ports(5)
    values = dict(zip(["alpha", "delta", "admin_alpha", "admin_delta", "backend"], ports), link="h2", certs=work / "certs")
    argv = command(kind, "h2", "idle" if kind == "lacis" else "delta", directory, values)
    process = start(argv, directory / "idle.log")
    try:
        await_port(values["delta"], process, directory / "idle.log")
        time.sleep(0.5 if options.quick else 5)
        return resident(process)
    finally:
        stop([process])
