"""Where the experiments are, and a problem for them that is as small as can be."""

import pathlib

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[1] / "experiments"

TINY = """
include 'tasks/digits_mlp.gin'
digits_datasets.batch_size = 2
digits_mlp.hidden_sizes = (2,)
num_workers = 2
num_local_steps = 1
num_rounds = 4
"""
