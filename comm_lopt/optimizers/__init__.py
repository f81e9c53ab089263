"""Global optimizers: learned ones and hand-designed ones, one idea a file."""
