"""measure.py PROGRAM [--only NAME ..] [--minutes M] [--json F]: what serving promises, measured over HTTP with ferry-tiny-v3.

Each measurement's figures, and beside each target what was measured; --json writes all of them and the machine. Nothing else may run
meanwhile: the clients, the front and the ranks share this machine's processors. `--minutes` is of `abuse` (10, as its target says). A
measurement that fails does not keep the others from being made; the exit status is 1 then. Missed targets are counted at the end."""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.dirname(HERE), os.path.join(ROOT, "tests", "launch", "serve")]

from abuse import Abuse  # noqa: E402
from launched_server import LaunchedServer  # noqa: E402
from machine import machine  # noqa: E402
from server import MODEL, PROGRAM, Server, await_, resident_bytes  # noqa: E402
from streams import Crowd, Stream, cpu_seconds, num_sockets, percentile  # noqa: E402


def milliseconds(seconds):
    return round(1000 * seconds, 2)


class Targets:
    """What a measurement has to keep, with what it was."""

    def __init__(self):
        self.rows = []

    def at_most(self, what, measured, most, unit):
        self._add(what, measured, f"at most {most} {unit}", unit, measured <= most)

    def at_least(self, what, measured, least, unit):
        self._add(what, measured, f"at least {least} {unit}", unit, measured >= least)

    def _add(self, what, measured, target, unit, is_kept):
        self.rows.append({"what": what, "measured": measured, "unit": unit, "target": target, "kept": is_kept})


def open_streams(targets, _):
    """2,000 open streams, 64 running: none fails; front at most 16 KiB each."""
    count = 2000
    resource.setrlimit(resource.RLIMIT_NOFILE, 2 * resource.getrlimit(resource.RLIMIT_NOFILE)[1:])
    with Server("--max-num-seqs", "64", "--max-waiting", str(count), "--kv-cache-tokens", "16384", "--max-model-len", "256") as server:
        front = server.front()
        before = resident_bytes(front)
        crowd = Crowd()
        streams = [crowd.add(Stream(server.port, {"max_tokens": 32})) for _ in range(count)]
        await_(lambda: sum(server.metric(f"tokenferry_{name}") or 0 for name in ("num_requests_waiting", "num_requests_running", "requests_total")) >= count, "all are there")
        most, num_open = resident_bytes(front), int(server.metric("tokenferry_http_connections")) - 1
        crowd.read_all()
        whole = [s for s in streams if not s.failed]
        assert len({s.text() for s in whole}) == 1, "the same prompt at temperature 0 has several answers"
        kib = round((most - before) / 1024 / num_open, 2)
        targets.at_most(f"failed of {count} open streams", count - len(whole), 0, "streams")
        targets.at_most("front's memory for each", kib, 16, "KiB")
        return {"failed": count - len(whole), "open_when_measured": num_open, "front_kib_per_stream": kib,
                "tokens_per_second": round(32 * count / (max(s.ended for s in streams) - streams[0].begun))}


def throughput(targets, _):
    """32 streams over HTTP: at least 80 % of bench engine --sequences 32, client included; front 50 us of CPU a token."""
    sequences, tokens, rounds = 32, 256, 5
    command = [PROGRAM, "bench", "engine", "--model", MODEL, "--sequences", str(sequences), "--prompt-tokens", "16", "--decode-tokens", str(tokens), "--repeats", "3", "--json"]
    engine = statistics.median(r["decode_tokens_per_second"] for r in _report(command)["rounds"])
    with Server("--max-num-seqs", str(sequences)) as server:
        front, rates, cpu = server.front(), [], []
        for _ in range(rounds):
            crowd, start = Crowd(), cpu_seconds(front)
            streams = [crowd.add(Stream(server.port, {"max_tokens": tokens, "prompt": list(range(100, 116))})) for _ in range(sequences)]
            crowd.read_all()
            assert not any(s.failed for s in streams)
            rates.append(sequences * tokens / (max(s.ended for s in streams) - streams[0].begun))
            cpu.append((cpu_seconds(front) - start) / (sequences * tokens))
        share, microseconds = round(statistics.median(rates) / engine, 3), round(1e6 * statistics.median(cpu), 1)
        targets.at_least("32 streams over HTTP, of bench engine --sequences 32", share, 0.8, "of its tokens/s")
        targets.at_most("front's CPU for a token", microseconds, 50, "us")
        return {"engine_tokens_per_second": round(engine), "http_tokens_per_second": round(statistics.median(rates)), "share": share,
                "front_cpu_us_per_token": microseconds}


def _report(command):
    path = f"/tmp/tokenferry-measure-{os.getpid()}.json"
    try:
        subprocess.run([*command, path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(path) as f:
            return json.load(f)
    finally:
        if os.path.exists(path):
            os.remove(path)


def gone(targets, _):
    """From a client's going to free blocks: 2 steps at p99. The next in line has its slot then, and its first token a step later; steps
    are counted by a third client, which gets a token in each."""
    trials = 200
    with Server("--max-num-seqs", "2", "--kv-cache-tokens", "8192") as server:
        waits, steps = [], []
        for i in range(trials):
            crowd = Crowd()
            counts = crowd.add(Stream(server.port, {"max_tokens": 2000, "cache_salt": f"counts {i}"}))
            runs = crowd.add(Stream(server.port, {"max_tokens": 2000, "cache_salt": str(i)}))
            crowd.read_until(lambda: min(len(runs.times), len(counts.times)) > 20)
            follows = crowd.add(Stream(server.port, {"max_tokens": 2, "prompt": [100], "cache_salt": str(i)}))
            mark = len(runs.times)
            crowd.read_until(lambda: len(runs.times) > mark + 20)
            crowd.drop(runs)
            left, mark = time.monotonic(), len(counts.times)
            crowd.read_until(lambda: follows.times)
            waits.append(follows.times[0] - left)
            steps.append(len(counts.times) - mark - 1)
            crowd.drop(counts)
            crowd.read_all()
        targets.at_most("a client gone, to its blocks free, p99", percentile(steps, 99), 2, "steps")
        return {"steps_to_free_blocks": {"p50": percentile(steps, 50), "p99": percentile(steps, 99), "most": max(steps)},
                "to_next_first_token_ms": {"p50": milliseconds(percentile(waits, 50)), "p99": milliseconds(percentile(waits, 99))}}


def flood(targets, _):
    """One key floods, another asks: its wait at most twice a slot's mean service time."""
    slots, asked = 4, 60
    keys = f"/tmp/tokenferry-measure-{os.getpid()}.keys"
    with open(keys, "w") as f:
        f.write("key-of-the-flood\nkey-of-the-other\n")
    try:
        with Server("--max-num-seqs", str(slots), "--api-key-file", keys) as server:
            crowd, flooding, services, waits, mine = Crowd(), [], [], [], None
            start = time.monotonic()
            while len(waits) < asked:
                flooding += [crowd.add(Stream(server.port, {"max_tokens": 100}, "key-of-the-flood")) for _ in range(64 - len(flooding))]
                if mine is None:
                    mine = crowd.add(Stream(server.port, {"max_tokens": 5}, "key-of-the-other"))
                crowd.read_until(lambda: mine.ended or any(s.ended for s in flooding))
                services += [s.ended - s.times[0] for s in flooding if s.ended]
                flooding = [s for s in flooding if not s.ended]
                if mine.ended:
                    waits.append(mine.first())
                    mine = None
            for stream in list(crowd.open):
                crowd.drop(stream)
            service = statistics.mean(services)
            for name, wait in ("mean", statistics.mean(waits)), ("p99", percentile(waits, 99)):
                targets.at_most(f"one key floods: the other's wait, {name}", round(wait / service, 2), 2, "times a slot's mean service")
            return {"service_ms": milliseconds(service), "wait_ms": {"mean": milliseconds(statistics.mean(waits)), "p99": milliseconds(percentile(waits, 99))},
                    "wait_in_services": {"mean": round(statistics.mean(waits) / service, 2), "p99": round(percentile(waits, 99) / service, 2)},
                    "flood_requests_per_second": round(len(services) / (time.monotonic() - start), 1)}
    finally:
        os.remove(keys)


def _answered(how, *flags):
    """From a signal to a rank of three to the last of 16 streams' ends."""
    seconds = []
    for rank in 0, 1, 2:
        with Server(*flags, ranks=3, via="mpi") as server:
            crowd = Crowd()
            streams = [crowd.add(Stream(server.port, {"max_tokens": 4000})) for _ in range(16)]
            crowd.read_until(lambda: all(s.times for s in streams))
            os.kill(server.job.ranks()[rank], how)
            start = time.monotonic()
            crowd.read_all()
            assert all(s.failed and s.done for s in streams), "a stream has no error"
            seconds.append(max(s.ended for s in streams) - start)
            server.job.wait()
    return {"seconds_per_rank": [round(s, 3) for s in seconds]}


def killed(targets, _):
    """A rank of three is killed: all answered within 1 s."""
    figures = _answered(signal.SIGKILL)
    targets.at_most("a rank is killed, to the last answer", max(figures["seconds_per_rank"]), 1, "s")
    return figures


def stopped(targets, _):
    """A rank of three is stopped: all answered within --comm-timeout + 1 s. It is 2 s here."""
    figures = _answered(signal.SIGSTOP, "--comm-timeout", "2s")
    targets.at_most("a rank is stopped (--comm-timeout 2s), to the last answer", max(figures["seconds_per_rank"]), 3, "s")
    return {"comm_timeout_s": 2, **figures}


def restart(targets, _):
    """launch: from kill to the next token of every stream: 5 s."""
    seconds = []
    for rank in 0, 1, 2:
        with LaunchedServer() as server:
            crowd = Crowd()
            streams = [crowd.add(Stream(server.port, {"max_tokens": 600})) for _ in range(8)]
            crowd.read_until(lambda: all(len(s.times) > 5 for s in streams))
            start = time.monotonic()
            os.kill(server.ranks()[rank], signal.SIGKILL)
            crowd.read_all()
            assert not any(s.failed for s in streams), "a stream has failed"
            # The longest silence is the one of the restart; what was on its way when the rank died is before it.
            seconds.append(max(max(b for a, b in zip(s.times, s.times[1:]) if b - a == max(y - x for x, y in zip(s.times, s.times[1:]))) for s in streams) - start)
            server.stop()
    targets.at_most("launch: a rank is killed, to the next token of every stream", round(max(seconds), 3), 5, "s")
    return {"seconds_per_rank": [round(s, 3) for s in seconds]}


def idle(targets, _):
    """Idle: below 1 % of a core per rank; first token at most 10 ms later than without a pause."""
    with Server(ranks=3, via="mpi") as server:
        ranks = server.job.ranks()

        def first_tokens(pause):
            got = []
            for _ in range(40):
                time.sleep(pause)
                crowd = Crowd()
                stream = crowd.add(Stream(server.port, {"max_tokens": 1, "prompt": [100]}))
                crowd.read_all()
                got.append(stream.first())
            return statistics.median(got)

        busy, rested = first_tokens(0), first_tokens(0.5)
        time.sleep(2)
        before, start = {r: cpu_seconds(pid) for r, pid in ranks.items()}, time.monotonic()
        time.sleep(20)
        passed = time.monotonic() - start
        percents = [round(100 * (cpu_seconds(ranks[r]) - before[r]) / passed, 2) for r in sorted(ranks)]
        targets.at_most("an idle rank", max(percents), 1, "% of a core")
        targets.at_most("first token after half a second of idleness, later than at once", milliseconds(rested - busy), 10, "ms")
        return {"percent_of_a_core_per_rank": percents,
                "first_token_ms": {"at_once": milliseconds(busy), "after_half_a_second": milliseconds(rested)}, "later_ms": milliseconds(rested - busy)}


def prefix(targets, _):
    """Shared prefix of 2,000 tokens: time to first token at least 5 times smaller."""
    with Server("--kv-cache-tokens", "16384") as server:
        firsts = {"cold": [], "warm": []}
        for i in range(10):
            for kind in "cold", "warm":
                crowd = Crowd()
                stream = crowd.add(Stream(server.port, {"max_tokens": 1, "prompt": [100 + j % 1000 for j in range(2000)] + [200 + i, 7], "cache_salt": str(i)}))
                crowd.read_all()
                firsts[kind].append(stream.first())
        cold, warm = (statistics.median(firsts[k]) for k in ("cold", "warm"))
        targets.at_least("first token of a prompt whose first 2,000 tokens are known", round(cold / warm, 1), 5, "times sooner")
        return {"cold_ms": milliseconds(cold), "warm_ms": milliseconds(warm), "times_smaller": round(cold / warm, 1)}


def _benchmark(name, what):
    """CPU microseconds of a benchmark of the build that PROGRAM is of."""
    path = os.path.join(os.path.dirname(PROGRAM), "bench", name)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} is not there: configure with -DTOKENFERRY_BENCH=ON and build it")
    words = [path, f"--benchmark_filter=^{what}$", "--benchmark_format=json", "--benchmark_repetitions=5", "--benchmark_report_aggregates_only=true"]
    report = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    (median,) = (b for b in report["benchmarks"] if b["aggregate_name"] == "median")
    assert median["time_unit"] == "us", median
    return round(median["cpu_time"], 1)


def scheduler(targets, _):
    """Scheduler and plan: 3 % of step time, with 32 sequences."""
    scheduling = _benchmark("scheduler_bench", "BM_DecodeStep/32")
    command = [PROGRAM, "bench", "engine", "--model", MODEL, "--sequences", "32", "--prompt-tokens", "512", "--decode-tokens", "64", "--threads", "1", "--repeats", "3", "--json"]
    step = 1e6 * 32 / statistics.median(r["decode_tokens_per_second"] for r in _report(command)["rounds"])
    targets.at_most("scheduler and plan, of a step of 32 sequences", round(100 * scheduling / step, 2), 3, "%")
    return {"scheduler_us": scheduling, "step_us": round(step)}


def sampler(targets, _):
    """top-p, vocabulary 129,280: 1 ms a token, whatever the logits are."""
    microseconds = [_benchmark("sampler_bench", f"BM_TopP/{logits}") for logits in range(3)]
    targets.at_most("top-p of 129,280 tokens", max(microseconds), 1000, "us a token")
    return {"us_per_kind_of_logits": microseconds}


def _fill_caches(server, ranks, num_tokens):
    """Writes every block of the ranks' caches once, so that memory that was given to them at start is not taken for growth."""
    each = 2000
    for i in range(num_tokens // each + 1):
        crowd = Crowd()  # at the same time, so that each rank gets one
        for rank in range(ranks):
            crowd.add(Stream(server.port, {"prompt": [100 + (7 * (ranks * i + rank) + j) % 1000 for j in range(each)], "max_tokens": 30}))
        crowd.read_all()


def abuse(targets, args):
    """10 minutes of abuse: resident memory of front and ranks within 2 % or 4 MiB of minute 2; blocks, sockets back; a canary keeps its bytes."""
    ranks, cache_tokens = 3, 8192
    with Server("--max-num-seqs", "16", "--max-waiting", "64", "--write-timeout", "2s", "--idle-timeout", "3s", "--header-timeout", "2s", "--body-timeout", "2s",
                "--kv-cache-tokens", str(cache_tokens), "--max-model-len", "2048", ranks=ranks, via="mpi") as server:
        pids = {"front": server.front(), **{f"rank {r}": pid for r, pid in sorted(server.job.ranks().items())}}
        canary = {"prompt": "In the beginning", "max_tokens": 20, "temperature": 0}
        expected = server.post("/v1/completions", canary)[1]["choices"]
        _fill_caches(server, ranks, cache_tokens)
        sockets, seed = num_sockets(pids["front"]), int(time.time())
        print(f"abuse: seed {seed}", flush=True)
        start, early, canaries, refused = time.monotonic(), None, 0, 0
        with Abuse(server.port, seed) as abuse:
            while (passed := time.monotonic() - start) < 60 * args.minutes:
                status, answer = server.post("/v1/completions", canary)
                assert status == 429 or (status == 200 and answer["choices"] == expected), (status, answer)
                canaries, refused = canaries + (status == 200), refused + (status == 429)
                if early is None and passed >= min(120, 12 * args.minutes):
                    early = {name: resident_bytes(pid) for name, pid in pids.items()}
                time.sleep(0.2)
            late = {name: resident_bytes(pid) for name, pid in pids.items()}
        await_(lambda: server.metric("tokenferry_num_requests_running") == 0 and num_sockets(pids["front"]) <= sockets + 1, "sockets are back")
        await_(lambda: server.metric("tokenferry_kv_cache_usage_perc") == 0, "blocks are back")
        assert abuse.unexpected == [], abuse.unexpected[:5]
        assert canaries > 0, "no canary was answered"
        for who, then in early.items():
            most = round(max(4.0, 0.02 * then / 2**20), 1)
            targets.at_most(f"{args.minutes:g} minutes of abuse: memory of {who} since minute 2", round((late[who] - then) / 2**20, 2), most, "MiB")
        return {"minutes": args.minutes, "seed": seed, "clients": abuse.counts, "canaries": canaries, "canaries_refused": refused,
                "mib_at_minute_2": {k: round(v / 2**20, 1) for k, v in early.items()}, "mib_at_the_end": {k: round(v / 2**20, 1) for k, v in late.items()}}


ALL = [open_streams, throughput, gone, flood, killed, stopped, restart, idle, scheduler, prefix, sampler, abuse]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--only", nargs="+", choices=[f.__name__ for f in ALL])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--json")
    args = parser.parse_args()
    results = {"benchmark": "serving", "machine": machine(), "model": os.path.relpath(MODEL, ROOT)}
    failed, rows = [], []
    for measure in ALL:
        name = measure.__name__
        if args.only and name not in args.only:
            continue
        targets, start = Targets(), time.monotonic()
        try:
            results[name] = measure(targets, args)
        except Exception:  # said, and the others are measured all the same
            traceback.print_exc()
            failed.append(name)
        print(f"{name} ({time.monotonic() - start:.0f} s): {json.dumps(results.get(name, 'failed'))}")
        for row in targets.rows:
            print(f"    {'kept' if row['kept'] else 'MISSED':6} {row['what']}: {row['measured']} {row['unit']} (target: {row['target']})")
        sys.stdout.flush()
        rows += targets.rows
    results["targets"] = rows
    missed = [row["what"] for row in rows if not row["kept"]]
    print(f"{len(rows) - len(missed)} of {len(rows)} targets kept; missed: {'; '.join(missed) or 'none'}; failed measurements: {', '.join(failed) or 'none'}")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results, f, indent=1)
            f.write("\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
