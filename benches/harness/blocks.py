"""Blocks: all that is compared runs side by side, and is measured in turn, there and back."""

import random
import statistics

from harness.machine import processors
from harness.proxies import Load, resident

# A window in which others used more of the sidecars' processor, or the hypervisor more of it, says nothing about them.
FOREIGN_LIMIT = 0.05
STEAL_LIMIT = 0.005
# An open loop that falls so far behind measures something else than the rate it claims.
KEPT_LIMIT = 0.995
SEED = 7


def run_blocks(arms, rate, options, count, tell):
    """`arms`: by name, what starts what is measured, given where the backend is; None is the backend itself."""
    shuffle, results = random.Random(SEED), []
    for number in range(count):
        order = list(arms)
        shuffle.shuffle(order)
        # There and back: whatever drifts evenly in a block touches all arms alike (ABBA for any number of them).
        results.append(run_block(arms, order + order[::-1], rate, options))
        tell(number + 1, results[-1])
    return results


def run_block(arms, order, rate, options):
    load, running = Load(options.size), {}
    try:
        for name, begin in arms.items():
            if begin is not None:
                running[name] = begin(load)
        windows = {name: [] for name in arms}
        for name in arms:
            port = running[name].port if name in running else load.backend
            load.window(port, options.connections, 0.1, options.warmup)
        for name in order:
            proxy = running.get(name)
            port, pids = (proxy.port, proxy.pids()) if proxy else (load.backend, [])
            window = load.window(port, options.connections, options.window, options.window / 10, pids, rate)
            if "error" in window:
                raise SystemExit(f"{name}: {window['error']}")
            if proxy:
                proxy.check()
            windows[name].append(window)
        memory = {name: sum(resident(process)["rss_mib"] for process in proxy.processes) for name, proxy in running.items()}
        return {"order": order, "windows": windows, "rss_mib": memory, "noise": noise(windows, rate)}
    finally:
        for proxy in running.values():
            proxy.stop()
        load.stop()


def cost(windows):
    """Microseconds of processor time that the sidecars used for one request."""
    used = sum(process["cpu_ns"] for window in windows for process in window["processes"])
    return used / 1000 / max(1, sum(window["done"] for window in windows))


def added(windows, direct, quantile):
    """Microseconds that the sidecars add to a quantile of the latency."""
    middle = lambda windows: statistics.mean(window["latency"][quantile] for window in windows)
    return middle(windows) - middle(direct)


def noise(windows, rate):
    """Why a block does not count, if it does not. Both ends of a ratio go: keeping one would choose among them."""
    for name, both in windows.items():
        for window in both:
            length = window["seconds"] * 1e9
            proxy = next(each for each in window["processors"] if each["number"] == processors()[1])
            sidecars = sum(process["cpu_ns"] for process in window["processes"])
            foreign = (proxy["user_ns"] + proxy["system_ns"] + proxy["interrupt_ns"] - sidecars) / length
            if foreign > FOREIGN_LIMIT:
                return f"others used {foreign:.0%} of the sidecars' processor beside {name}"
            if proxy["steal_ns"] / length > STEAL_LIMIT:
                return f"the hypervisor took {proxy['steal_ns'] / length:.1%} beside {name}"
            if rate and window["done"] < KEPT_LIMIT * window["offered"]:
                return f"{name} did not keep the rate"
            if any(process["ended_threads"] for process in window["processes"]):
                return f"threads of {name} ended, and with them their accounts"
    return None


def failures(results):
    """How often which request failed where."""
    errors = {}
    for block in results:
        for name, windows in block["windows"].items():
            for window in windows:
                for reason, count in window["errors"].items():
                    errors[f"{name}: {reason}"] = errors.get(f"{name}: {reason}", 0) + count
    return errors


def ratio(blocks):
    """Median with a bootstrap interval of 95 %. Fewer than three blocks have no interval."""
    if not blocks:
        return {"median": None, "low": None, "high": None, "blocks": []}
    if len(blocks) < 3:
        return {"median": statistics.median(blocks), "low": None, "high": None, "blocks": blocks}
    choose = random.Random(SEED)
    medians = sorted(statistics.median(choose.choices(blocks, k=len(blocks))) for _ in range(10_000))
    return {"median": statistics.median(blocks), "low": medians[249], "high": medians[9749], "blocks": blocks}
