"""Inference: the forward pass, cached features, predictors of runs, and files of predictions."""
