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
    yield "# Lacis against other proxies"
    yield ""
    if not report["counts"]:
        yield "**This was a quick run: it shows that everything works, and its numbers prove nothing.**"
        yield ""
    yield f"{report['when']}, {machine['processors']} × {machine['processor']}, Linux {machine['kernel']}, TCP {machine['congestion_control']}."
    yield (f"Load and backend on processor {machine['load_cpu']}, what is measured on processor {machine['proxy_cpu']}, one worker each. "
           f"{'; '.join(report['versions'].values())}.")
    yield ""
    yield "![CPU per request](compare.svg)"
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
        if "envoy" in report["idle"]:
            part = report["idle"]["lacis"]["rss_mib"] / report["idle"]["envoy"]["rss_mib"]
            yield ""
            yield f"RSS of Lacis: {part:.2f} of Envoy's; goal ≤ {report['idle']['goal']}: {'met' if part <= report['idle']['goal'] else 'missed'}."


def markdown_cell(cell):
    load = "closed loop" if cell["load"] == "closed" else f"equal rate of {cell['rate']:.0f} requests/s"
    yield f"## {cell['title']}, {load}"
    yield ""
    yield ("| | CPU/request | by process, softirq last | added to the machine | user | switches/request | requests/s "
           "| p50 | p99 | p99.9 | RSS | TLS |")
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, arm in cell["arms"].items():
        latency = arm["latency_us"]
        tls = arm["link"]["tls"] if arm["link"] else ""
        split = " + ".join(f"{each:.1f}" for each in arm["cpu_us_by_process"])
        added = arm["cpu_us"] + arm["generator_us"] - cell["arms"]["direct"]["generator_us"]
        cpu = f"{arm['cpu_us']:.1f} µs | {split} | {added:.1f} µs | {arm['user_part']:.0%} | {arm['switches']:.2f}" if name != "direct" else "| | | |"
        rss = f"{arm['rss_mib']:.1f} MiB" if name != "direct" else ""
        yield (f"| {name} | {cpu} | {arm['rate']:.0f} | {latency['p50']:.0f} µs | {latency['p99']:.0f} µs | {latency['p999']:.0f} µs | {rss} | {tls} |")
    yield ""
    yield "| ratio | median of blocks | 95 % | goal | |"
    yield "| --- | --- | --- | --- | --- |"
    for found in cell["ratios"]:
        label = "CPU per request, control / lacis" if found["to"] == "control" else f"{found['what']}, lacis / {found['to']}"
        median = "–" if found["median"] is None else f"{found['median']:.3f}"
        interval = "–" if found["low"] is None else f"{found['low']:.3f} – {found['high']:.3f}"
        goal = f"≤ {found['goal']:.2f}" if found.get("goal") else ""
        yield f"| {label} | {median} | {interval} | {goal} | {found['verdict']} |"
        every = found["all"]
        if found["median"] is None and every["median"] is not None:
            span = f"{min(every['blocks']):.3f} – {max(every['blocks']):.3f} over all"
            yield f"| the same in disturbed blocks, which decide nothing | {every['median']:.3f} | {span} | | |"
    yield ""
    failed = ", ".join(f"{reason} × {count}" for reason, count in cell["errors"].items()) or "none"
    yield f"Failed requests: {failed}. Blocks used: {cell['kept']} of {cell['blocks']}" + (
        f". Noise: {'; '.join(cell['noise'])}." if cell["noise"] else ".")
