"""Models of sequences: one element after the other, by a network that carries the past or looks back at it."""

from __future__ import annotations

from pushforward.catalog.family import ALL, Family, listed

FAMILIES: tuple[Family, ...] = (
    listed(
        "gpt",
        "causal transformer, LLaMA or GPT-2 style, with exact density",
        "Radford et al. 2019; Touvron et al. 2023, arXiv:2302.13971",
        "sequences:GptOptions:gpt",
        "sample score complete",
        "exact",
        ALL,
        conditions=True,
        training={"learning_rate": 4e-3, "steps": 4000, "batch_size": 16, "weight_decay": 0.1},
    ),
    listed(
        "rnn",
        "recurrent network (LSTM, GRU or plain) with exact density",
        "Hochreiter & Schmidhuber 1997; Cho et al. 2014, arXiv:1406.1078",
        "sequences:RnnOptions:rnn",
        "sample score complete",
        "exact",
        ALL,
        conditions=True,
        training={"learning_rate": 4e-3, "steps": 4000, "batch_size": 16},
    ),
    listed(
        "ngram",
        "interpolated Kneser–Ney n-gram model of text",
        "Kneser & Ney 1995; Chen & Goodman 1999",
        "sequences:NgramOptions:ngram",
        "sample score complete",
        "exact",
        ("tokens",),
    ),
)
