"""Denoisers steered: towards a condition, a classifier's label, a better model, or what was measured.

Everything here takes a denoiser D(x, α, σ) and gives another one, so that every sampler works with it. Lives here: guidance and
completion. Never here: networks, training, schedules.
"""
