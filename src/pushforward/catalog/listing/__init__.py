"""What families there are, a module for each sort, without their recipes: importing it imports no torch.

Lives here: names, titles, sources, verbs and the training a family likes. Never here: options, parts, builders.
"""
