"""The same bytes at any number of ranks, whatever else runs, with a cache so small that sequences are preempted, with
and without shared prefixes; what the ranks count; and a sequence that cannot go on."""

import enum
import random
import re
import struct
import threading

from server import NAME, WAIT, Server, await_  # first: it finds the next
from program import MODEL, ModelCopy, ProgramTest, main, run
from tools_test import FORMAT

SEED = 20261128
NUM_REQUESTS = 200
LONGEST = ["--max-model-len", "320"]
# Longest sequence: two blocks of the cache more than it has room for beside another one.
SMALL_CACHE = ["--kv-cache-tokens", "512", "--max-num-seqs", "8", *LONGEST]


class Prefixes(enum.Enum):
    """Whether requests may share what the cache has of their prompts; where not, each has a salt of its own."""
    SHARED = enum.auto()
    APART = enum.auto()


def requests():
    """Mixed: short and long prompts, some that begin alike, greedy and sampled, with stops, logprobs, routing, n."""
    rng = random.Random(SEED)
    shared = "In the beginning God created the heaven and the earth. " * 10  # more than a block of the cache
    out = []
    for i in range(NUM_REQUESTS):
        body = {"prompt": (shared if i % 3 == 0 else "") + f"Chapter {i}\n" + "word " * rng.randrange(1, 20), "max_tokens": rng.randrange(1, 40), "seed": i}
        body["temperature"] = rng.choice([0, 0.7, 1.2])
        if i % 4 == 1:
            body["stop"] = ["the", "\n\n"]
        if i % 5 == 2:
            body.update(logprobs=2, echo=i % 2 == 0)
        if i % 7 == 3:
            body.update(n=2, frequency_penalty=0.5)
        if i % 6 == 4:
            body["routing"] = True
        if i % 8 == 5:
            body["response_format"] = FORMAT
        out.append(body)
    # More sequences at once than a small cache has blocks for, and a prompt that has just been there.
    out.append({"prompt": "All of them\n", "max_tokens": 250, "ignore_eos": True, "n": 24, "seed": 1})
    return out + [{"prompt": shared, "max_tokens": 3, "seed": 2}] * 2


def salted(bodies, prefixes):
    return bodies if prefixes == Prefixes.SHARED else [{**body, "cache_salt": str(i)} for i, body in enumerate(bodies)]


def answers(server, bodies, at_a_time):
    """What is in the answers but ids and times."""
    results = [None] * len(bodies)
    todo = list(range(len(bodies)))

    def work():
        while todo:
            try:
                i = todo.pop()
            except IndexError:
                return
            # The last of 48 at a time waits for most of the others.
            status, answer = server.post("/v1/completions", bodies[i], limit=4 * WAIT)
            usage = {k: v for k, v in answer.get("usage", {}).items() if k != "prompt_tokens_details"}
            results[i] = (status, answer.get("choices"), usage, answer.get("error"))

    threads = [threading.Thread(target=work) for _ in range(at_a_time)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def undisturbed(test, bodies):
    """The answers of one rank to one request after the other, with room for all."""
    with Server(*LONGEST) as server:
        expected = answers(server, bodies, 1)
        test.assertEqual({status for status, *_ in expected}, {200}, [e for e in expected if e[0] != 200][:3])
        test.assertEqual(server.stop(), 0)
    return expected


def check_bytes(test, expected, bodies, ranks, via, flags, at_a_time, prefixes):
    """That a server so started answers as the undisturbed one; where its cache is small, that sequences were preempted."""
    with test.subTest(ranks=ranks, via=via, flags=flags, at_a_time=at_a_time, prefixes=prefixes), Server(*flags, ranks=ranks, via=via) as server:
        asked = salted(bodies, prefixes)
        got = answers(server, asked, at_a_time)
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            test.assertEqual(a, b, f"request {i}: {bodies[i]}")
        for _ in range(2):  # alone, so that nothing can have taken its prefix away
            test.assertEqual(answers(server, asked[-1:], 1), expected[-1:])
        # The ranks report once a second.
        if flags is SMALL_CACHE and at_a_time > 1:
            await_(lambda: server.metric("tokenferry_num_preemptions_total") > 0, "preemptions")
        await_(lambda: server.metric("tokenferry_prefix_cache_hits_total") > 0, "prefix hits")
        test.assertEqual(server.stop(), 0)


class RanksTest(ProgramTest):
    def test_the_same_bytes(self):
        """Each number of ranks and of requests at a time, and each cache, with all requests; each pair of these with some.
        long_test.py has all combinations."""
        print("seed", SEED)
        bodies = requests()
        expected = undisturbed(self, bodies)
        for combination in ((1, "local", SMALL_CACHE, 64, Prefixes.SHARED), (3, "mpi", SMALL_CACHE, 8, Prefixes.APART),
                            (4, "local", LONGEST, 64, Prefixes.SHARED)):
            check_bytes(self, expected, bodies, *combination)
        for ranks, flags, at_a_time, prefixes in ((1, LONGEST, 8, Prefixes.APART), (3, SMALL_CACHE, 1, Prefixes.SHARED), (3, LONGEST, 64, Prefixes.APART),
                                                  (4, SMALL_CACHE, 1, Prefixes.APART), (4, SMALL_CACHE, 8, Prefixes.SHARED)):
            preempts = flags is SMALL_CACHE and at_a_time > 1
            some = [*range(0, NUM_REQUESTS, 16), *range(NUM_REQUESTS + (0 if preempts else 1), len(bodies))]
            check_bytes(self, [expected[i] for i in some], [bodies[i] for i in some], ranks, "local", flags, at_a_time, prefixes)

    def test_what_ranks_count(self):
        with Server("--metrics-compat", "vllm", ranks=3, via="mpi") as server:
            answers(server, requests()[:12], 6)

            before = await_(lambda: (table := server.get("/v1/experts")[1])["rank_rows"] and table, "a report of the ranks")
            self.assertEqual(len(before["rank_rows"]), before["num_layers"])
            self.assertEqual({len(row) for row in before["rank_rows"]}, {3})
            self.assertEqual({len(row) for row in before["expert_rows"]}, {before["num_experts"]})
            for ranks, experts in zip(before["rank_rows"], before["expert_rows"], strict=True):
                self.assertEqual(sum(ranks), sum(experts))
            self.assertEqual({len(row) for row in before["wait_seconds"]}, {3})
            text = server.get("/metrics")[1]
            for name in ("requests_total", "prompt_tokens_total", "generation_tokens_total", "time_to_first_token_seconds_bucket",
                         "inter_token_latency_seconds_bucket", "e2e_request_latency_seconds_bucket", "num_requests_running", "num_requests_waiting",
                         "kv_cache_usage_perc", "num_preemptions_total", "moe_rank_tokens_total", "moe_balancedness", "a2a_bytes_total",
                         "a2a_wait_seconds_total", "steps_total", "ranks_up", "http_accepted_connections_total", "http_refused_connections_total",
                         "http_cut_connections_total"):
                self.assertRegex(text, rf"(?m)^tokenferry_{name}\{{", name)
            self.assertEqual(server.metric("tokenferry_ranks_up"), 3)
            for line in text.splitlines():
                self.assertRegex(line, r"^(#|[a-z0-9_:]+\{[^}]*\} \S+$)")
            # For dashboards that know vLLM: the same values under its names.
            same = set(re.findall(r"(?m)^vllm:(.+)$", text))
            self.assertLess(same, set(re.findall(r"(?m)^tokenferry_(.+)$", text)))
            self.assertLess({"num_requests_running", "kv_cache_usage_perc", "prompt_tokens_total", "time_to_first_token_seconds_bucket"},
                            {line.split("{")[0] for line in same})
            self.assertTrue(re.search(r'outcome="success"', text))
            self.assertEqual(server.stop(), 0)

    def test_what_one_sequence_meets_is_its_error_alone(self):
        """One expert whose products overflow: sequences that choose it end with an error, alone or among others; those
        that do not have the bytes that they have with the whole model."""
        model = ModelCopy(self.path(NAME))
        model.poke("model.layers.1.mlp.experts.30.up_proj.weight_scale_inv", 0, struct.pack("<f", 3e38))
        bodies = [{"prompt": f"Chapter {i}", "temperature": 0.7, "seed": i, "max_tokens": 1 + i % 12} for i in range(24)]
        with Server() as server:
            healthy = answers(server, bodies, 8)
            self.assertEqual(server.stop(), 0)
        for ranks, via in (1, "local"), (3, "mpi"):
            with self.subTest(ranks=ranks, via=via), Server(model=model.path, ranks=ranks, via=via) as server:
                got = answers(server, bodies, 24)
                self.assertEqual([status for status, *_ in got], [status for status, *_ in answers(server, bodies, 1)])
                self.assertEqual({status for status, *_ in got}, {200, 500})
                for i, (status, choices, usage, error) in enumerate(got):
                    if status == 200:
                        self.assertEqual((choices, usage), healthy[i][1:3], bodies[i])
                    else:
                        self.assertRegex(error["message"], "the router's scores of the token at position [0-9]+ are NaN")
                        self.assertEqual(error["code"], "internal_error")
                # Of a stream that has begun, as its last event.
                failed = [{**body, "stream": True} for (status, *_), body in zip(got, bodies, strict=True) if status == 500]
                begun = [text for status, text in (server.post("/v1/completions", body) for body in failed) if status == 200]
                self.assertTrue(begun, "all fail before their first token")
                for text in begun:
                    events = text.split("\n\n")
                    self.assertEqual(events[-2:], ["data: [DONE]", ""])
                    self.assertIn("internal_error", events[-3])
                self.assertEqual(server.get("/health")[0], 200)
                self.assertEqual(server.stop(), 0)

    def test_a_path_whose_buffers_do_not_fit(self):
        """Path peer has buffers from its start. Where they are too much --path auto goes on without, and says so; peer is refused."""
        def planned(chunk, cache):
            flags = ["--prefill-chunk", chunk, "--kv-cache-tokens", cache, "--max-num-seqs", "1"]
            told = run("inspect", "--model", MODEL, "--json", *flags, ranks=2).json()["ranks"]
            sums = {key: sum(rank[f"{key}_bytes"] for rank in told) for key in ("cache", "activation", "exchange")}
            return flags, sums, sum(rank["bytes"] + rank["logit_bytes"] for rank in told)

        refused = run("generate", "--model", MODEL, "--prompt", "a", "--kv-cache-tokens", 10**9)
        available = float(re.search(r"and ([\d.]+) GiB are available", refused.err)[1]) * 2**30
        _, small, _ = planned(1000, 64000)
        chunk = int(available / 5 / small["exchange"] * 1000)  # nothing of it is ever touched
        _, with_exchange, fixed = planned(chunk, 64000)
        free = available - fixed - with_exchange["activation"] - with_exchange["exchange"] / 2
        flags, _, _ = planned(chunk, int(free / small["cache"] * 64000))
        with Server(*flags, ranks=2) as server:
            self.assertRegex(server.job.err, r"not taking path peer: .*not enough memory on host .*exchanges [\d.]+ GiB")
            self.assertEqual(server.complete(max_tokens=3)["usage"]["completion_tokens"], 3)
        job = run("serve", "--model", MODEL, "--port", "0", "--path", "peer", *flags, ranks=2)
        self.assertNotEqual(job.status, 0)
        self.assertRegex(job.err, r"not enough memory on host .*exchanges [\d.]+ GiB")


if __name__ == "__main__":
    main()
