"""Retrieval models, one file each, named as in the field; ``training.recommender`` finds them by file name."""
