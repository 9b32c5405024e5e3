"""CPU loops that tensor operations cannot express, compiled by numba when first used.

Lives here: kernels on float32 arrays, each named by the slow readable reference it must equal (a test holds them together).
Never here: anything that has no such reference, or that a few tensor operations do as well.
"""
