"""Texts of 256 symbols drawn from a GPT-2 of 6 layers × 128 with kept keys and values, beside transformers' of the same shape.

The peer runs the loop that a user would write for speed, one call of the model with its own cache, a softmax and a draw each
time, and ``generate``, which does the same and more. A row is a symbol.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import Clock, Entry, by_turns, main, run_parts

from pushforward.catalog import FAMILIES
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Tokens

SYMBOLS, LENGTH, WIDTH, DEPTH, HEADS = 65, 256, 128, 6, 4


def sides(batch: int) -> dict[str, Callable[[], object]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    family = FAMILIES["gpt"]
    schema = Schema(Tokens(tuple(chr(48 + i) for i in range(SYMBOLS)), LENGTH))
    options = {"width": WIDTH, "depth": DEPTH, "heads": HEADS}
    models = {s: family.build(schema, family.configure({"style": s, **options})).eval() for s in ("gpt2", "llama")}
    config = GPT2Config(vocab_size=SYMBOLS, n_positions=LENGTH, n_embd=WIDTH, n_layer=DEPTH, n_head=HEADS)
    peer = GPT2LMHeadModel(config).eval()
    peer.generation_config.pad_token_id = 0
    peer.generation_config.eos_token_id = None
    first = torch.zeros(batch, 1, dtype=torch.int64)

    @torch.no_grad()
    def loop() -> torch.Tensor:
        code, kept, drawn = first, None, []
        for _ in range(LENGTH):
            found = peer(code, past_key_values=kept, use_cache=True)
            kept = found.past_key_values
            code = torch.multinomial(found.logits[:, -1].softmax(-1), 1)
            drawn.append(code)
        return torch.cat(drawn, 1)

    def generate() -> object:
        return peer.generate(first, do_sample=True, max_new_tokens=LENGTH - 1, use_cache=True, top_k=0)

    return {
        "ours": lambda: models["gpt2"].sample(batch, None, Draws(0, 0, batch)),  # type: ignore[operator]
        "llama style": lambda: models["llama"].sample(batch, None, Draws(0, 0, batch)),  # type: ignore[operator]
        "transformers": loop,
        "generate": generate,
    }


def part(batch: int, target: float) -> Callable[[bool, Clock], list[Entry]]:
    def measured(quick: bool, clock: Clock) -> list[Entry]:
        name, rounds = f"{batch} texts of {LENGTH} symbols", 3 if quick else 7
        given = {"rounds": rounds, "most": 120.0, "clock": clock, "floors": ["llama style"], "target": 1 / target}
        return [by_turns(name, batch * LENGTH, sides(batch), **given)]  # type: ignore[arg-type]

    return measured


PARTS = {"1": part(1, 2.5), "16": part(16, 2.5), "64": part(64, 1.4)}


def run(quick: bool = False, only: str = "", threads: int = 2) -> list[Entry]:
    return run_parts(PARTS, quick, only, threads)


if __name__ == "__main__":
    main(run, __doc__ or "", PARTS)
