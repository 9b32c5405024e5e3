"""From data to a fitted model and back to the user: fit, train, resume, save, evaluate, compare, report.

Lives here: everything that needs data, a model and a clock together. Never here: a family's maths, a network.
"""
