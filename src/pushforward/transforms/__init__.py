"""Maps with a known V: bijections and stochastic maps, stateless in spirit, parameters given or learned.

Lives here: anything with push and pull. Never here: a network (transforms take callables), a paper's recipe, a loss.
"""
