"""The report's figures as a drawing: for each cell, who uses how much of a processor for a request."""

from html import escape

COLOURS = {"lacis": "#1f6feb", "h2": "#79b8ff", "envoy": "#d1242f", "haproxy": "#9a6700", "nginx": "#1a7f37", "relay": "#8c959f"}
LEFT, WIDTH, BAR, GAP = 300, 560, 14, 16


def write(report, path):
    path.write_text(svg(report) + "\n")


def svg(report):
    parts, y = [], 30
    for cell in report["cells"]:
        arms = {name: arm["cpu_us"] for name, arm in cell["arms"].items() if name in COLOURS}
        longest = max(arms.values(), default=0) or 1
        load = "closed loop" if cell["load"] == "closed" else f"{cell['rate']:.0f} requests/s"
        parts.append(text(12, y + 11, f"{cell['title']}", "bold"))
        parts.append(text(12, y + 27, load, "normal"))
        for name, value in arms.items():
            length = WIDTH * value / longest
            label = "lacis over h2" if name == "h2" else "relay of bytes" if name == "relay" else name
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{COLOURS[name]}"/>')
            parts.append(text(LEFT + length + 6, y + 10, f"{label} {value:.1f} µs", "normal"))
            y += BAR
        y = max(y, y - BAR * len(arms) + 32) + GAP
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 170}" height="{y}" font-family="sans-serif" font-size="11">'
            f'<rect width="100%" height="100%" fill="white"/>')
    note = "" if report["counts"] else " (a quick run, which proves nothing)"
    title = text(12, 16, f"CPU per request, all sidecars on its way, {report['when'][:10]}{note}", "bold")
    return "\n".join([head, title, *parts, "</svg>"])


def text(x, y, words, weight):
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}">{escape(words)}</text>'
