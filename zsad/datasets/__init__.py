"""Labelled data sets: a user's own in four layouts, published ones by name."""
