"""The picture: throughput against concurrency, a line for each store, both axes logarithmic."""

import html
import math

WIDTH, HEIGHT, TOP, BOTTOM, LEFT, GAP = 1060, 480, 84, 100, 70, 80
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a", "#bf3989")
STYLE = ("text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:17px;font-weight:600}"
         ".small{font-size:11px;fill:#777}.grid{stroke:#e4e4e4}.axis{stroke:#888}"
         "polyline{fill:none;stroke-width:2.5}")


def draw(title, below, panels, names):
    """`panels`: of each its title and, by store, the points (concurrency, operations a second)."""
    rates = [rate for _, lines in panels for line in lines.values() for _, rate in line if rate > 0]
    low = math.floor(math.log10(min(rates, default=1)))
    high = max(math.ceil(math.log10(max(rates, default=10))), low + 1)
    width = (WIDTH - LEFT - 30 - GAP * (len(panels) - 1)) / len(panels)
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
           f'height="{HEIGHT}">', f"<style>{STYLE}</style>",
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', text(LEFT, 30, title, "start", "title"),
           text(LEFT, HEIGHT - 10, below, "start", "small")]
    for index, (heading, lines) in enumerate(panels):
        svg += panel(LEFT + index * (width + GAP), width, (low, high), heading, lines, names)
    place = LEFT
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        svg.append(f'<rect x="{place}" y="{HEIGHT - 46}" width="14" height="5" fill="{colour}"/>')
        svg.append(text(place + 20, HEIGHT - 38, name, "start"))
        place += 44 + 7.2 * len(name)
    return "\n".join([*svg, "</svg>", ""])


def panel(left, width, bounds, heading, lines, names):
    low, high = bounds
    concurrencies = sorted({point[0] for line in lines.values() for point in line}) or [1]
    span = math.log(concurrencies[-1] / concurrencies[0]) or 1

    def x(concurrency):
        return left + 20 + math.log(concurrency / concurrencies[0]) / span * (width - 40)

    def y(rate):
        return HEIGHT - BOTTOM - (math.log10(rate) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    svg = [text(left, TOP - 20, heading, "start")]
    for power in range(low, high + 1):
        level = y(10**power)
        svg.append(f'<line class="grid" x1="{left}" x2="{left + width:.1f}" y1="{level:.1f}" y2="{level:.1f}"/>')
        svg.append(text(left - 8, level + 4.5, f"{10**power:,}", "end"))
    base = HEIGHT - BOTTOM
    svg.append(f'<line class="axis" x1="{left}" x2="{left + width:.1f}" y1="{base}" y2="{base}"/>')
    svg += [text(x(concurrency), base + 20, str(concurrency), "middle") for concurrency in concurrencies]
    for index, name in enumerate(names):
        points = [(x(concurrency), y(rate)) for concurrency, rate in lines.get(name, []) if rate > 0]
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in points)
        svg.append(f'<polyline stroke="{colour}" points="{path}"/>')
        svg += [f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4" fill="{colour}"/>' for across, up in points]
    return svg


def text(x, y, words, anchor, kind=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">'
            f"{html.escape(words)}</text>")
