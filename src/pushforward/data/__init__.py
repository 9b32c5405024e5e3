"""From the user's data to codes and back: sources, inferred schemas, tables, images, text, bundled sets, streaming.

Lives here: reading, typing, splitting, encoding, decoding. Never here: anything learned, any density (those are transforms).
"""
