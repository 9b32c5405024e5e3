"""The contract everything else hangs on: model, transform, distribution, schema, context, draws, shapes, errors.

Lives here: the nouns every family shares. Never here: a paper, a network, a file format, a training loop.
"""
