"""Pictures, as SVG of our own: for each round trip a panel, over the losses a line for each arm."""

import math

COLOURS = {"lacis-h2": "#1f6fb2", "lacis-h3": "#0b3d66", "lacis-auto": "#2a9d5c", "envoy-h2": "#e08a3c", "envoy-h3": "#a8481a"}
WIDTH, HEIGHT, LEFT, TOP = 230, 260, 60, 50


def latency(cells):
    """p99 of small requests, on a logarithmic scale that all panels share."""
    trips = sorted({cell["round_trip_ms"] for cell in cells})
    losses = list(dict.fromkeys(cell["loss"] for cell in cells))
    value = lambda arm: max(0.05, arm["latency_ms"]["p99"])
    values = [value(arm) for cell in cells for arm in cell["arms"].values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.01))
    y = lambda milliseconds: TOP + HEIGHT * (1 - (math.log10(milliseconds) - low) / max(1, high - low))
    x = lambda panel, loss: LEFT + panel * (WIDTH + 20) + 20 + losses.index(loss) * (WIDTH - 40) / max(1, len(losses) - 1)
    names = list(cells[0]["arms"])
    total = LEFT + len(trips) * (WIDTH + 20)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {TOP + HEIGHT + 70}" font-family="sans-serif" font-size="11">',
              f'<rect width="{total}" height="{TOP + HEIGHT + 70}" fill="white"/>',
              f'<text x="{LEFT}" y="18" font-size="14">p99 of small requests in ms (logarithmic), by loss, for each round trip</text>']
    for panel, trip in enumerate(trips):
        left = LEFT + panel * (WIDTH + 20)
        lines.append(f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>')
        lines.append(f'<text x="{left + WIDTH / 2}" y="{TOP - 8}" text-anchor="middle" font-size="12">{trip:g} ms</text>')
        for power in range(low, high + 1):
            at = y(10 ** power)
            lines.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
            if panel == 0:
                lines.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{10 ** power:g}</text>')
        for loss in losses:
            lines.append(f'<text x="{x(panel, loss):.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{loss}</text>')
        for name in names:
            points = [(x(panel, cell["loss"]), y(value(cell["arms"][name]))) for cell in cells if cell["round_trip_ms"] == trip]
            colour = COLOURS.get(name, "#555")
            line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
            lines.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            lines += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points]
    for number, name in enumerate(names):
        left = LEFT + number * 110
        lines.append(f'<line x1="{left}" x2="{left + 20}" y1="{TOP + HEIGHT + 45}" y2="{TOP + HEIGHT + 45}" stroke="{COLOURS.get(name, "#555")}" stroke-width="3"/>')
        lines.append(f'<text x="{left + 26}" y="{TOP + HEIGHT + 49}">{name}</text>')
    return "\n".join(lines + ["</svg>"]) + "\n"
