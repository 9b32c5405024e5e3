"""Pure functions that follow a differential equation over a time grid, and the divergences densities need.

Lives here: methods as data, one callable in, states out. Never here: networks, schedules, stateful steppers.
"""
