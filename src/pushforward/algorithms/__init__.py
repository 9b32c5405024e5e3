"""Pure functions with a known cost: what a textbook gives a name, a specification and a bound.

Lives here: functions of arrays, tensors, graphs or callables whose docstring states what is computed and its complexity O(…).
Never here: models, data, files, random state that outlives a call, and anything that imports a floor above it (nets, models,
metrics, fitting): a network comes in as a callable.
"""
