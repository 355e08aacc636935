"""Targets that can't be counted on the graph: they are searched for, with measurements of what a cut does."""
