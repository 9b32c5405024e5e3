"""Families of distributions: a loss and the verbs they offer, over transforms, paths and nets they are given.

Lives here: one file a family. Never here: which net suits which data (catalog), training loops (fitting), file formats.
"""
