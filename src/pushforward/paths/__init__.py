"""Gaussian paths from data (t = 0) to noise (t = 1): x_t = α(t) x_0 + σ(t) ε.

Lives here: schedules and what a network predicts along them. Never here: networks, solvers, training.
"""
