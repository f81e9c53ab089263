"""Learned global rules: feature sets, the per-parameter MLP, and three ways to compute them."""
