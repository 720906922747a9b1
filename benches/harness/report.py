"""The report, for people and for programs."""

import json

from harness.machine import say


def write(report, work):
    (work / "compare.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
    text = "\n".join(markdown(report)) + "\n"
    (work / "compare.md").write_text(text)
    print(text)
    say(f"{work}/compare.md and compare.json")


def markdown(report):
    machine = report["machine"]
    yield "# Lacis against other proxies, as sidecars in pairs"
    yield ""
    if not report["counts"]:
        yield "**This was a quick run: it shows that everything works, and its numbers prove nothing.**"
        yield ""
    yield f"{report['when']}, {machine['processors']} × {machine['processor']}, Linux {machine['kernel']}, TCP {machine['congestion_control']}."
    yield (f"Load and backend on processor {machine['load_cpu']}, both sidecars on processor {machine['proxy_cpu']}, one worker each. "
           f"{'; '.join(report['versions'].values())}.")
    for cell in report["cells"]:
        yield ""
        yield from markdown_cell(cell)
    if "idle" in report:
        yield ""
        yield "## One idle sidecar"
        yield ""
        yield "| | RSS | PSS | private dirty |"
        yield "| --- | --- | --- | --- |"
        for name, found in report["idle"].items():
            if isinstance(found, dict):
                label = "lacis, with `builtin:auth`" if name == "lacis" else f"{name}, without a filter"
                yield f"| {label} | {found['rss_mib']:.1f} MiB | {found['pss_mib']:.1f} MiB | {found['private_dirty_mib']:.1f} MiB |"
        goal = report["idle"]["goal_mib"]
        met = report["idle"]["lacis"]["rss_mib"] <= goal
        yield ""
        yield f"Goal: at most {goal} MiB RSS: {'met' if met else 'missed'}."


def markdown_cell(cell):
    load = "closed loop" if cell["load"] == "closed" else f"equal rate of {cell['rate']:.0f} requests/s"
    yield f"## h1 → {'mTLS ' if cell['link'] == 'h2' else ''}{cell['link']} → h1, {cell['connections']} connections, {cell['size']} B, {load}"
    yield ""
    yield ("| | CPU/request | caller's + service's sidecar + softirq | added to the machine | user | switches/request | requests/s "
           "| p50 | p99 | p99.9 | TLS |")
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, arm in cell["arms"].items():
        latency = arm["latency_us"]
        tls = arm["link"]["tls"] if arm["link"] else ""
        service, caller, *softirq = arm["cpu_us_by_process"] or [0, 0]
        split = f"{caller:.1f} + {service:.1f}" + "".join(f" + {each:.1f}" for each in softirq)
        added = arm["cpu_us"] + arm["generator_us"] - cell["arms"]["direct"]["generator_us"]
        cpu = f"{arm['cpu_us']:.1f} µs | {split} | {added:.1f} µs | {arm['user_part']:.0%} | {arm['switches']:.2f}" if name != "direct" else "| | | |"
        yield (f"| {name} | {cpu} | {arm['rate']:.0f} | {latency['p50']:.0f} µs | {latency['p99']:.0f} µs | {latency['p999']:.0f} µs | {tls} |")
    yield ""
    yield "| ratio of CPU/request | median of blocks | 95 % | goal | |"
    yield "| --- | --- | --- | --- | --- |"
    for name, found in cell["ratios"].items():
        label = "control: lacis / lacis" if name == "control" else f"lacis / {name}"
        median = "–" if found["median"] is None else f"{found['median']:.3f}"
        interval = "–" if found["low"] is None else f"{found['low']:.3f} – {found['high']:.3f}"
        goal = f"≤ {found['goal']:.2f}" if found.get("goal") else ""
        yield f"| {label} | {median} | {interval} | {goal} | {found.get('verdict', '')} |"
        every = found["all"]
        if found["median"] is None and every["median"] is not None:
            span = f"{min(every['blocks']):.3f} – {max(every['blocks']):.3f} over all"
            yield f"| the same in disturbed blocks, which decide nothing | {every['median']:.3f} | {span} | | |"
    yield ""
    failed = ", ".join(f"{reason} × {count}" for reason, count in cell["errors"].items()) or "none"
    yield f"Failed requests: {failed}. Blocks used: {cell['kept']} of {cell['blocks']}" + (
        f". Noise: {'; '.join(cell['noise'])}." if cell["noise"] else ".")
