"""How rounds are fed: data on the device or streamed, samplers, partitions, positions."""
