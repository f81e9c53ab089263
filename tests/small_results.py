"""Results as a small meta-test would write them."""

PROBLEM = {
    "task": "a_task",
    "num_parameters": 10,
    "num_workers": 8,
    "num_local_steps": 4,
    "local_batch_size": 16,
    "num_rounds": 3,
    "settings": {"a_task.size": "(8,)"},
}


def small_entry(losses=(2.0, 1.0, 0.5), diverged=(), final=0.5, learned=False, **changes):
    """What results hold of a method with these losses of three rounds."""
    return {
        "optimizer": "SlowMo",
        "local_optimizer": "local_sgd",
        "sends": "mean",
        "workers": "all",
        "learned": learned,
        "hparams": {"momentum": 0.9, "local_clip_norm": None, "implementation": "auto"},
        "sources": {"momentum": "sweep x", "local_clip_norm": "default", "implementation": "given"},
        "theta": {"path": "/a/theta.safetensors", "sha256": "00"} if learned else None,
        "train_loss": list(losses),
        "train_loss_std": [None if loss is None else 0.1 for loss in losses],
        "final_train_loss": final,
        "final_train_loss_std": None if final is None else 0.01234,
        "loss_at_weights": [final],
        "loss_at_weights_std": [None if final is None else 0.1],
        "final_loss_at_weights": final,
        "final_loss_at_weights_std": None if final is None else 0.02,
        "diverged_seeds": list(diverged),
        "heldout": {
            "split": "test", "loss": final, "loss_std": None,
            "accuracy": None, "accuracy_std": None,
        },
        "rounds_to": {"final_loss_of_LocalSGD": None, "half": 2},
        "bytes_sent_per_round_per_worker": 4096,
        "bytes_received_per_round_per_worker": 32768,
        "seconds_per_round": 0.001,
        **changes,
    }  # fmt: skip


def small_results(methods):
    """Results of three rounds on two seeds, with these entries of methods."""
    return {
        "format_version": 2,
        "problem": PROBLEM,
        "seeds": [1, 2],
        "evaluated_rounds": [3],
        "methods": methods,
        "targets": {"final_loss_of_LocalSGD": 0.5, "half": 0.75},
    }
