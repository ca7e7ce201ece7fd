"""PyTorch's side of bench/peers/transformers: the same shapes on the same GPU, and what its libraries reach there.

Prints one JSON object: {"info": {...}, "measurements": [...]}. Started by transformers.bench.ts; on its own:

    python3 bench/peers/pytorch.py --prompts 1024,4096 --compile

Weights are random and so is what the caches hold: neither changes what a step costs. Every part has its own limit, and a part that fails says
why instead of a time.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from limits import log, within  # in the folder that the line before adds

PRODUCTS = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "lm_head": (32000, 4096),
}
ROWS = (1, 8, 16, 32, 64, 4096)
# Weights gone through in turn, so that no cache holds one: five times what Hopper's second level does.
COLD_BYTES = 1 << 28
WARMUP_STEPS = 3


class Clock:
    """Milliseconds on the device; of the process where there is none."""

    def __init__(self, device):
        self.is_cuda = device == "cuda"

    def sync(self):
        if self.is_cuda:
            torch.cuda.synchronize()

    def of(self, work):
        self.sync()
        start = time.perf_counter()
        work()
        self.sync()
        return 1e3 * (time.perf_counter() - start)

    def of_replays(self, work, repeats, samples):
        """Median milliseconds of one of `repeats` calls, captured into one graph where there is a device."""
        if not self.is_cuda:
            return self.of(work)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                work()
        times = []
        for i in range(samples + 2):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            if i >= 2:
                times.append(begin.elapsed_time(end) / repeats)
        return statistics.median(times)


def measure_copy(clock, device, out):
    """By a kernel: the runtime's own copy reaches two thirds of it."""
    size = 1 << 29 if device == "cuda" else 1 << 22
    a = torch.randn(size, dtype=torch.float32, device=device)
    b = torch.empty_like(a)
    ms = clock.of_replays(lambda: torch.neg(a, out=b), 4, 11)
    out.append({"kind": "copy", "bytes": 2 * 4 * size, "ms": ms})


def measure_products(clock, device, products, out):
    for name, (columns, depth) in products.items():
        log(f"product {name}")
        copies = max(2, -(-COLD_BYTES // (2 * columns * depth))) if device == "cuda" else 1
        weights = [torch.randn(columns, depth, device=device) / depth**0.5 for _ in range(copies)]
        for rows in ROWS:
            x = torch.randn(rows, depth, device=device)
            result = torch.empty(rows, columns, device=device)
            turn = [0]

            def once():
                turn[0] = (turn[0] + 1) % copies
                torch.mm(x, weights[turn[0]].t(), out=result)

            with torch.inference_mode():
                ms = clock.of_replays(once, 2 * copies if rows <= 64 else copies, 21)
            out.append({"kind": "product", "product": name, "columns": columns, "depth": depth, "rows": rows, "ms": ms})


def measure_attention(clock, device, tokens, out):
    log(f"attention {tokens}")
    q = torch.randn(1, 32, tokens, 128, device=device)
    k, v = (torch.randn(1, 8, tokens, 128, device=device) for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention
    with torch.inference_mode():
        ms = clock.of_replays(lambda: attend(q, k, v, is_causal=True, enable_gqa=True), 1, 7)
    out.append({"kind": "attention", "tokens": tokens, "flops": 4 * 32 * 128 * tokens * (tokens + 1) / 2, "ms": ms})


def make_model(config, device):
    torch.manual_seed(1)
    with torch.device(device):
        model = transformers.MistralForCausalLM(config)
    return model.eval()


def fill(cache, config, rows, device):
    """Rows of a prompt that was never run."""
    for layer in range(config.num_hidden_layers):
        shape = (1, config.num_key_value_heads, rows, config.head_dim)
        cache.update(torch.randn(shape, device=device), torch.randn(shape, device=device), layer)
    return cache


def set_attention(model, kind):
    model.set_attn_implementation(kind)


def decode(model, config, device, clock, attention, cache_kind, way, prompt, steps):
    """Median milliseconds of a greedy step behind `prompt` rows."""
    set_attention(model, attention)
    total = prompt + steps + 2 * WARMUP_STEPS + 8
    if cache_kind == "dynamic":
        cache = transformers.DynamicCache(config=config)
    else:
        cache = transformers.StaticCache(config=config, max_cache_len=total)
    fill(cache, config, prompt, device)
    ids = torch.zeros(1, 1, dtype=torch.long, device=device)
    forward = model
    if way == "compiled":
        forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=False)

    def step():
        logits = forward(input_ids=ids, past_key_values=cache, use_cache=True).logits
        ids.copy_(logits[:, -1:].argmax(-1))

    # cuDNN's attention plans anew for every length of the keys: 10 ms for each layer and step.
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    with torch.inference_mode():
        if way == "graph":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARMUP_STEPS):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            run = graph.replay
        else:
            run = step
        for _ in range(WARMUP_STEPS):
            run()
        return statistics.median(clock.of(run) for _ in range(steps))


def prefill(model, config, device, clock, prompt):
    set_attention(model, "sdpa")
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(True)
    ids = torch.randint(0, config.vocab_size, (1, prompt), device=device)

    def once():
        cache = transformers.DynamicCache(config=config)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    with torch.inference_mode():
        once()
        return min(clock.of(once) for _ in range(2))


def main():
    parser = argparse.ArgumentParser(description="PyTorch and transformers on the shape of Mistral-7B: decoding, prompts, products, copies.")
    parser.add_argument("--prompts", default="1024,4096,16384,65536", help="rows in the cache while decoding")
    parser.add_argument("--steps", type=int, default=16, help="of each way of decoding")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--compile", action="store_true", help="torch.compile too, at the first prompt: takes a minute")
    parser.add_argument("--seconds", type=float, default=120, help="after which nothing new is begun")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights: only shows that it runs")
    options = parser.parse_args()

    device, begun = options.device, time.monotonic()
    clock = Clock(device)
    torch.set_default_dtype(torch.bfloat16)
    sizes = dict(hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=32000)
    products = PRODUCTS
    if options.tiny:
        sizes = dict(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=256)
        products = {"o": (64, 64)}
    config = transformers.MistralConfig(
        **sizes, num_hidden_layers=options.layers, max_position_embeddings=1 << 20, sliding_window=None, tie_word_embeddings=False
    )
    measurements, failures = [], []

    def attempt(name, seconds, work):
        left = options.seconds - (time.monotonic() - begun)
        why = "no time was left" if left <= 0 else within(min(seconds, left), work)
        if why is not None:
            failures.append({"kind": "failure", "what": name, "why": why})

    attempt("copy", 20, lambda: measure_copy(clock, device, measurements))
    attempt("products", 40, lambda: measure_products(clock, device, products, measurements))
    for tokens in (4096, 32768) if not options.tiny else (64,):
        attempt(f"attention over {tokens} tokens", 20, lambda: measure_attention(clock, device, tokens, measurements))

    log("model")
    model = make_model(config, device)
    prompts = [int(word) for word in options.prompts.split(",")]

    def try_decode(prompt, attention, cache, way, seconds):
        log(f"{prompt}: {attention}, {cache}, {way}")

        def work():
            ms = decode(model, config, device, clock, attention, cache, way, prompt, options.steps)
            measurements.append({"kind": "decode", "attention": attention, "cache": cache, "way": way, "prompt": prompt, "ms": ms})

        attempt(f"decoding behind {prompt} rows, {attention}, {cache} cache, {way}", seconds, work)

    for prompt in prompts:
        for attention, cache in (("sdpa", "dynamic"), ("eager", "dynamic"), ("sdpa", "static")):
            try_decode(prompt, attention, cache, "eager", 20)
    for prompt in prompts:
        log(f"prompt {prompt}")
        attempt(
            f"a prompt of {prompt} tokens",
            30,
            lambda: measurements.append({"kind": "prefill", "prompt": prompt, "ms": prefill(model, config, device, clock, prompt)}),
        )
    # A capture that fails may leave the device useless to what comes after it.
    if device == "cuda":
        for prompt in prompts:
            try_decode(prompt, "sdpa", "static", "graph", 20)
    if options.compile:
        try_decode(prompts[0], "sdpa", "static", "compiled", 90)
    log("")
    capability = "".join(map(str, torch.cuda.get_device_capability())) if device == "cuda" else None
    info = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "isa": f"sm_{capability}" if capability else "cpu",
        "layers": options.layers,
    }
    print(json.dumps({"info": info, "measurements": measurements + failures}))


if __name__ == "__main__":
    main()
