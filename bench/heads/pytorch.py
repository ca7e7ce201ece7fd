"""PyTorch's side of bench/heads/throughput: the same frozen model and heads over as many tokens on the same GPU, trained by autograd.

Prints one JSON object: {"info": {...}, "measurements": [...]}. Started by throughput.bench.ts, which names shapes as bench/support/shapes.ts
does; on its own:

    python3 bench/heads/pytorch.py --compile --shapes '[{"name": "mistral-7b", "hidden": 4096, "ffn": 14336, "layers": 32, "queryHeads": 32,
      "kvHeads": 8, "headDim": 128, "vocab": 32000}]'

A step is what a training script would do: transformers' model without gradients, SDPA, the texts as one batch; then, over its rows, f32 weights
under bf16 autocast, each head's loss by cross_entropy and backward, the frozen output projection in bf16; then clipping and fused AdamW.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from limits import log, within  # in the folder that the line before adds


class Head(torch.nn.Module):
    def __init__(self, hidden, blocks, projection, private):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(hidden, hidden) for _ in range(blocks))
        for block in self.blocks:
            torch.nn.init.zeros_(block.weight)
            torch.nn.init.zeros_(block.bias)
        if private:
            self.projection = torch.nn.Parameter(projection.float())
        else:
            self.register_buffer("projection", projection)

    def forward(self, rows, targets):
        z = rows
        for block in self.blocks:
            z = z + F.silu(block(z))
        return F.cross_entropy(F.linear(z, self.projection), targets)


def timed(work, device):
    def sync():
        if device == "cuda":
            torch.cuda.synchronize()

    sync()
    start = time.perf_counter()
    work()
    sync()
    return 1e3 * (time.perf_counter() - start)


def measure_frozen(shape, options, device, out):
    config = transformers.MistralConfig(
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["queryHeads"],
        num_key_value_heads=shape["kvHeads"],
        head_dim=shape["headDim"],
        vocab_size=shape["vocab"],
        sliding_window=None,
        attn_implementation="sdpa",
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = transformers.MistralModel(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    ids = torch.randint(0, shape["vocab"], (options.texts, options.tokens), device=device)

    def once():
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)

    for _ in range(2):
        once()
    times = [timed(once, device) for _ in range(options.rounds)]
    out.append({"kind": "pytorch-frozen", "shape": shape["name"], "ms": statistics.median(times)})


def measure(shape, private, options, way, device, out):
    hidden, vocab = shape["hidden"], shape["vocab"]
    torch.manual_seed(1)
    projection = (torch.randn(vocab, hidden, device=device) / hidden**0.5).to(torch.bfloat16)
    heads = torch.nn.ModuleList(Head(hidden, options.blocks, projection, private) for _ in range(options.heads)).to(device)
    weights = [weight for weight in heads.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=device == "cuda")
    row_count = options.texts * options.tokens
    rows = torch.randn(row_count, hidden, device=device).to(torch.bfloat16)
    targets = torch.randint(0, vocab, (options.heads, row_count), device=device)
    passes = [torch.compile(head) if way == "compiled" else head for head in heads]

    def accumulate():
        for head, target in zip(passes, targets):
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = head(rows, target)
            loss.backward()

    def update():
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(2):
        accumulate()
        update()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = [(timed(accumulate, device), timed(update, device)) for _ in range(options.rounds)]
    out.append(
        {
            "kind": "pytorch",
            "way": way,
            "shape": shape["name"],
            "projection": "private" if private else "shared",
            "headsMs": statistics.median(heads_ms for heads_ms, _ in times),
            "updateMs": statistics.median(update_ms for _, update_ms in times),
            "peakBytes": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
        }
    )


def main():
    parser = argparse.ArgumentParser(description="A training step of Medusa heads with PyTorch: the frozen model, the heads' passes, the update.")
    parser.add_argument("--shapes", type=json.loads, required=True, help="a JSON list")
    parser.add_argument("--projections", default="shared,private")
    parser.add_argument("--texts", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2048, help="of a text")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="the heads by torch.compile too")
    parser.add_argument("--seconds", type=float, default=120, help="after which nothing new is begun")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    begun, measurements = time.monotonic(), []

    def attempt(what, work):
        log(f"PyTorch: {what}")
        left = options.seconds - (time.monotonic() - begun)
        why = "no time was left" if left <= 0 else within(left, work)
        if why is not None:
            measurements.append({"kind": "failure", "what": what, "why": why})

    for shape in options.shapes:
        attempt(f"{shape['name']}, frozen", lambda: measure_frozen(shape, options, options.device, measurements))
    for way in ("eager", "compiled") if options.compile else ("eager",):
        for shape in options.shapes:
            for projection in options.projections.split(","):
                private = projection == "private"
                attempt(f"{shape['name']}, {projection}, {way}", lambda: measure(shape, private, options, way, options.device, measurements))
    log("")
    info = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"info": info, "measurements": measurements}))


if __name__ == "__main__":
    main()
