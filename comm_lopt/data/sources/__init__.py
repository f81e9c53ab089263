"""Where examples come from: one file a source, and the registry of them."""
