"""Data sets on the device, batches of rounds, and where training stands in them."""
