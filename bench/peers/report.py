"""The tables: Markdown that also reads well on a terminal."""


def figure(value):
    """Three digits, as far as there are any."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(headings, rows):
    rows = [headings, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if column < 1 else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths))]
        lines.append("| " + " | ".join(cells) + " |")
    dashes = ["-" * width if column < 1 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines.insert(1, "| " + " | ".join(dashes) + " |")
    return "\n".join(lines)


def run_of(store, step, concurrency):
    """What was measured at a concurrency, and its only operation."""
    for run in store["figures"].get(step, {}).get("runs", []):
        if run["concurrency"] == concurrency:
            for one in run["by_operation"].values():
                return run, one
    return None, None


def small(stores, step, concurrencies):
    headings = ["store"]
    for concurrency in concurrencies:
        headings += [f"{concurrency}: ops/s", "p50 ms", "p99 ms", "CPU µs"]
    rows = []
    for store in stores:
        cells = [store["name"]]
        for concurrency in concurrencies:
            run, one = run_of(store, step, concurrency)
            if run is None:
                cells += ["–"] * 4
                continue
            latency = one["latency_ms"]
            figures = (one["operations_per_second"], latency["p50"], latency["p99"],
                       run["server_cpu_us_per_operation"])
            cells += map(figure, figures)
            if run["errors"]:
                cells[-4] += f" ({run['errors']} errors)"
        rows.append(cells)
    return table(headings, rows)


def large(stores):
    headings = ["store", "PUT MiB/s", "CPU ms", "GET MiB/s", "CPU ms", "page of 1,000: p50 ms", "p99 ms",
                "CPU ms", "memory MiB"]
    rows = []
    for store in stores:
        cells = [store["name"]]
        for step in ("put-64m", "get-64m", "list-10k"):
            run, one = run_of(store, step, 1)
            if run is None:
                cells += ["–"] * (3 if step == "list-10k" else 2)
                continue
            cpu = run["server_cpu_us_per_operation"]
            latency = one["latency_ms"]
            shown = [latency["p50"], latency["p99"]] if step == "list-10k" else [one["mib_per_second"]]
            cells += map(figure, [*shown, cpu and cpu / 1000])
        memory = store.get("memory")
        cells.append(figure(memory and memory / 2**20))
        rows.append(cells)
    return table(headings, rows)


def whole(stores, concurrencies):
    """Everything that was measured."""
    measured = [store for store in stores if store["figures"]]
    versions = [[store["name"], store.get("version", "–"), store["synced"], store["api"]] for store in stores]
    parts = [
        table(["store", "version", "on stable storage when acknowledged", "API"], versions),
        "4 KiB PUT, by concurrent requests\n" + small(measured, "put-4k", concurrencies),
        "4 KiB GET\n" + small(measured, "get-4k", concurrencies),
        "64 MiB objects, one request at a time; a page of a listing of 10,000 objects; memory at the end\n"
        + large(measured),
    ]
    failures = [f"{store['name']}: {words}" for store in stores for words in store["failures"]]
    if failures:
        parts.append("Not measured:\n" + "\n".join(failures))
    return "\n\n".join(parts)
