"""What is measured with, and where: the programs, the processors, the network."""

import functools
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PEERS = TARGET / "peers"


def install(peers):
    needed = {"haproxy": "haproxy", "nginx": "nginx-light", "ip": "iproute2", "unshare": "util-linux"}
    packages = [package for program, package in needed.items()
                if not find(program) and (program in peers or program not in ("haproxy", "nginx"))]
    if packages:
        say(f"apt-get install {' '.join(packages)}")
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    if "envoy" in peers and not envoy_program():
        say(f"Envoy into {PEERS}/envoy")
        run(sys.executable, "-m", "venv", PEERS / "envoy")
        run(PEERS / "envoy/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes",
            "--requirement", HERE / "peers/requirements.txt")


def find(program):
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def envoy_program():
    """The program itself: what pip puts into bin/ is a Python script that starts it. None where it is not installed."""
    return next(PEERS.glob("envoy/lib/python*/site-packages/envoy/_bin/envoy"), None)


def build():
    programs = [("LACIS_BIN", "lacis", "lacis"), ("MESHLOAD_BIN", "lacis-benches", "meshload"), ("MESHDIAL_BIN", "lacis-benches", "meshdial")]
    for variable, package, binary in programs:
        if variable not in os.environ:
            say(f"cargo build --release -p {package}")
            run("cargo", "build", "--release", "-p", package, cwd=ROOT)
            os.environ[variable] = str(TARGET / "release" / binary)


def build_filter():
    """With its twin on the SDK beside it; in a target directory of its own, whose builds do not wait for the usual one."""
    target, directory = "wasm32-wasip1", TARGET / "guests"
    run("cargo", "build", "--release", "--locked", "--package", "lacis-bench-filter", "--package", "lacis-bench-filter-sdk", "--target", target, "--target-dir", directory, cwd=ROOT)
    return directory / target / "release" / "lacis_bench_filter.wasm"


def build_cost():
    """The program that measures the host alone (proxy/host/examples/cost.rs)."""
    say("cargo build --release -p lacis-host --example cost")
    run("cargo", "build", "--release", "-p", "lacis-host", "--features", "testing", "--example", "cost", cwd=ROOT)
    return TARGET / "release" / "examples" / "cost"


def need_root():
    if os.geteuid() != 0:
        sys.exit(f"{sys.argv[0]}: needs root for a network namespace of its own (unshare --net): sudo -E {sys.argv[0]}")


def enter_namespace():
    need_root()
    os.environ["LACIS_BENCH_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--net", "--", sys.executable, *sys.argv])


def descriptors():
    """Files that each process may have open: as many as this one may allow itself."""
    return min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def prepare_network():
    """Brings the loopback up with cubic as the congestion control of every TCP connection over it, whatever the machine's
    default is: an attribute of the namespace's own routes, so that no setting of the machine changes. Returns what a
    connection really has."""
    run("ip", "link", "set", "lo", "up")
    for destination in ["127.0.0.0/8", "127.0.0.1"]:
        run("ip", "route", "replace", "table", "local", "local", destination, "dev", "lo", "proto", "kernel",
            "scope", "host", "src", "127.0.0.1", "congctl", "cubic")
    # Thousands of connections end in one process.
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors(), descriptors()))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            names = {end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
                     for end in (client, accepted)}
    if names != {"cubic"}:
        sys.exit(f"{sys.argv[0]}: TCP has {names} where cubic was asked for")
    return "cubic"


@functools.cache
def processors():
    """The processor of the load and the one of the sidecars."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        sys.exit(f"{sys.argv[0]}: needs two processors, one for the load and one for the sidecars")
    return allowed[0], allowed[1]


def describe(congestion):
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown")
    load_cpu, proxy_cpu = processors()
    return {"processor": model, "processors": os.cpu_count(), "kernel": platform.release(), "congestion_control": congestion,
            "load_cpu": load_cpu, "proxy_cpu": proxy_cpu, "load_average": os.getloadavg()[0]}


def versions(peers):
    first = lambda *command: subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()[0]
    # Which build it is, as the version does not say.
    program = os.path.relpath(os.environ["LACIS_BIN"], ROOT)
    programs = {"lacis": f"{first(os.environ['LACIS_BIN'], '--version')} ({program})"}
    if "envoy" in peers:
        programs["envoy"] = "envoy " + first(envoy_program(), "--version").split("version:")[1].strip()
    if "haproxy" in peers:
        programs["haproxy"] = first(find("haproxy"), "-v")
    if "nginx" in peers:
        programs["nginx"] = subprocess.run([find("nginx"), "-v"], capture_output=True, text=True).stderr.strip()
    return programs


def run(*command, **keywords):
    try:
        subprocess.run([str(part) for part in command], check=True, **keywords)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{sys.argv[0]}: {error}")


def say(text):
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)
