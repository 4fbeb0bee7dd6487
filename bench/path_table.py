#!/usr/bin/env python3
"""Every path at every size and traffic, from reports of `tokenferry bench alltoall --path auto,.. --json F`.

  path_table.py REPORT.json [REPORT.json ..]

Prints a Markdown table of median round trips in microseconds for each report. The fastest path is **bold**, the one that
the automatic choice took is marked <, and "regret" is how much slower that path was than the fastest, in per cent; of its
two times, its own and that of `auto`, the shorter counts. The last line names the largest regret.
"""
import json
import sys

POINT = ("traffic", "dtype", "hidden", "experts", "top_k", "placement", "tokens")


def tables(report):
    """[(point, {path: median round trip in us}, (the path that auto took, auto's round trip) or None)]"""
    points = {}
    for result in report["results"]:
        times, chosen = points.setdefault(tuple(result[key] for key in POINT), ({}, []))
        if "unavailable" in result:
            continue
        node = " node" if result.get("reduction") == "node" else ""
        if result["path"] == "auto":
            if not node:
                chosen.append((result["chosen_path"], result["phases"]["round_trip"]["median_us"]))
        else:
            times[result["path"] + node] = result["phases"]["round_trip"]["median_us"]
    return [(point, times, chosen[0] if chosen else None) for point, (times, chosen) in points.items()]


def regret(times, chosen):
    """Per cent; None where there was no automatic choice."""
    if chosen is None:
        return None
    path, auto = chosen
    exact = [time for path, time in times.items() if not path.endswith(" node")]  # the choice was among these
    return 100 * max(0, min(auto, times.get(path, auto)) / min(exact) - 1)


def markdown(report):
    rows = tables(report)
    paths = sorted({path for _, times, _ in rows for path in times})
    lines = ["| traffic | shape | tokens | " + " | ".join(paths) + " | regret |", "|---" * (len(paths) + 4) + "|"]
    worst = (0.0, "none")
    for point, times, chosen in rows:
        traffic, dtype, hidden, experts, top_k, _, tokens = point
        cells = []
        for path in paths:
            text = f"{times[path]:.0f}" if path in times else "-"
            if path in times and times[path] == min(times.values()):
                text = f"**{text}**"
            cells.append(text + (" <" if chosen and path == chosen[0] else ""))
        lost = regret(times, chosen)
        lines.append(f"| {traffic} | {dtype} {hidden}, {top_k} of {experts} | {tokens} | " + " | ".join(cells) +
                     (f" | {lost:.0f} % |" if lost is not None else " | |"))
        if lost is not None and lost > worst[0]:
            worst = (lost, f"{chosen[0]} at {tokens} tokens, {traffic}")
    return "\n".join(lines + ["", f"largest regret: {worst[0]:.0f} % ({worst[1]})"])


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    for name in sys.argv[1:]:
        with open(name) as f:
            report = json.load(f)
        print(f"\n{report.get('machine', {}).get('topology', name)}\n")
        print(markdown(report))


if __name__ == "__main__":
    main()
