"""Results as a small meta-test would write them."""


def small_results(optimizers):
    """Results of three rounds on two seeds, with these entries of optimizers."""
    return {
        "task": "a_task",
        "num_workers": 8,
        "num_local_steps": 4,
        "local_batch_size": 16,
        "num_rounds": 3,
        "seeds": [1, 2],
        "optimizers": optimizers,
        "targets": {"final_loss_of_LocalSGD": 0.5, "half": 0.75},
    }
