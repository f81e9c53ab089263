"""Commands of pages at a size at which they take seconds."""

__all__ = ["at_small_size"]

_ROUNDS = "num_rounds = 2"
_PROBLEM = [_ROUNDS, "num_workers = 2", "num_local_steps = 2"]
_TRAINING = [
    "num_meta_steps = 2", "num_tasks = 2", "truncation_length = 2", "min_rounds = 2",
    "max_rounds = 2", "ThetaAdamW.warmup_steps = 1", "meta_train.validation_every = 2",
    "meta_train.validation_seeds = (1000,)",
    "stack_antithetic_samples = True",  # One program to compile, not two.
]  # fmt: skip


def at_small_size(arguments, *bindings):
    """The arguments of a command, with what makes it small and `bindings` after them."""
    command = arguments[0]
    if "--config_file" not in arguments or command == "convert":
        return [*arguments]
    training = command in ("meta-train", "run-train")
    # Several processes have at least as many workers.
    small = [_ROUNDS] if command == "launch" else [*_PROBLEM, *(_TRAINING if training else [])]
    if "experiments/digits.gin" in arguments:
        small.append("LOptA.hidden_size = 4")
    flags = [flag for one in (*small, *bindings) for flag in ("--gin_bindings", one)]
    return [*arguments, *flags, *(["--no_progress"] if command == "meta-train" else [])]
