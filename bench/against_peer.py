#!/usr/bin/env python3
"""Tandem beside a llama.cpp-style engine on one GGUF file, in alternation.

    bench/against_peer.py --tandem PROGRAM --peer BIN_DIR --file MODEL.gguf [--threads N]
        [--repetitions 5] [--peer-args "-rtr 1"] [--depth 16384] [--cases prefill,...]

BIN_DIR holds llama-bench, and llama-batched-bench for several sequences; with --depth also
llama-sweep-bench. --peer-args go to llama-bench; the other two run with their defaults. Every repetition runs both engines once for each case, so both meet the same
minutes of a shared machine. Prints the median, smallest and largest tokens/s of each and the median
of the ratios of the pairs.
"""
import argparse
import json
import re
import statistics
import subprocess
import sys
import time


def output_of(command):
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


class Tandem:
    def __init__(self, args):
        self.base = [args.tandem, "bench", "--model", args.file, "--device", "none", "--quiet",
                     "--repetitions", "1", "--output", "json", "--threads", str(args.threads)]
        self.read_gb_per_s = []
        self.share_of_read = []

    def measure(self, prompt=0, generate=0, sequences=1, depth=0):
        result = json.JSONDecoder().raw_decode(output_of(self.base + [
            "--prompt-tokens", str(prompt), "--gen-tokens", str(generate),
            "--sequences", str(sequences), "--depth", str(depth)]))[0]
        if generate and sequences == 1 and not depth:
            self.read_gb_per_s.append(result["read_bytes_per_s"]["median"] / 1e9)
            self.share_of_read.append(result["host_weight_share_of_read"]["median"])
        key = "decode_tokens_per_s" if generate else "prefill_tokens_per_s"
        return result[key]["median"]

    def seconds_to_first_token(self):
        start = time.time()
        output_of(self.base + ["--prompt-tokens", "1", "--gen-tokens", "0"])
        return time.time() - start


class Peer:
    def __init__(self, args):
        self.bin = args.peer
        self.extra = args.peer_args.split()
        self.common = ["-m", args.file, "-t", str(args.threads)]

    def bench(self, prompt, generate):
        text = output_of([f"{self.bin}/llama-bench", *self.common, *self.extra, "-p", str(prompt),
                          "-n", str(generate), "-r", "1", "-o", "json"])
        return json.JSONDecoder().raw_decode(text[text.index("["):])[0][0]["avg_ts"]

    def several(self, sequences, generate):
        text = output_of([f"{self.bin}/llama-batched-bench", *self.common, "-c", "2048",
                          "-npp", "16", "-ntg", str(generate), "-npl", str(sequences)])
        rows = [r for r in text.splitlines() if re.match(r"\|\s*16 \|\s*\d", r)]
        return float(rows[-1].split("|")[8])

    def sweep(self, depth):
        text = output_of([f"{self.bin}/llama-sweep-bench", *self.common, "-c",
                          str(depth + 1024), "-ub", "512"])
        for row in text.splitlines():
            cells = [c.strip() for c in row.split("|")]
            if len(cells) > 7 and cells[3] == str(depth):
                return float(cells[5]), float(cells[7])
        sys.exit("llama-sweep-bench printed no line for that depth")


def report(name, ours, theirs, less_is_better=False):
    ratios = [(b / a if less_is_better else a / b) for a, b in zip(ours, theirs)]
    show = lambda v: f"{statistics.median(v):8.1f} ({min(v):.1f} to {max(v):.1f})"
    print(f"{name:28} {show(ours):30} {show(theirs):30} {statistics.median(ratios):5.2f}"
          f" ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tandem", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--file", required=True)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--peer-args", default="")
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--cases", default="prefill512,prefill128,decode,sequences8,load")
    args = parser.parse_args()
    ours, peer = Tandem(args), Peer(args)
    cases = {
        "prefill512": (lambda: ours.measure(prompt=512), lambda: peer.bench(512, 0)),
        "prefill128": (lambda: ours.measure(prompt=128), lambda: peer.bench(128, 0)),
        "decode": (lambda: ours.measure(prompt=1, generate=64), lambda: peer.bench(0, 64)),
        "sequences8": (lambda: ours.measure(prompt=16, generate=32, sequences=8),
                       lambda: peer.several(8, 32)),
        "load": (ours.seconds_to_first_token, None),
    }

    def peer_load():
        start = time.time()
        peer.bench(1, 0)
        return time.time() - start
    cases["load"] = (cases["load"][0], peer_load)

    print(f"{args.file}, {args.threads} threads, {args.repetitions} repetitions")
    print(f"{'':28} {'Tandem':30} {'peer':30} ratio")
    for name in [c for c in args.cases.split(",") if c]:
        pairs = [(cases[name][0](), cases[name][1]()) for _ in range(args.repetitions)]
        report(name + (", s" if name == "load" else ", tokens/s"), *zip(*pairs),
               less_is_better=name == "load")
    if args.depth:
        prefill, decode, theirs = [], [], []
        for _ in range(min(args.repetitions, 2)):
            prefill.append(ours.measure(prompt=512, depth=args.depth))
            decode.append(ours.measure(prompt=1, generate=32, depth=args.depth))
            theirs.append(peer.sweep(args.depth))
        report(f"prefill 512 after {args.depth}", prefill, [t[0] for t in theirs])
        report(f"decode after {args.depth}", decode, [t[1] for t in theirs])
    if ours.share_of_read:
        print(f"read bandwidth {statistics.median(ours.read_gb_per_s):.1f} GB/s, decode reads "
              f"{100 * statistics.median(ours.share_of_read):.0f} % of it (each beside its own)")


if __name__ == "__main__":
    main()
