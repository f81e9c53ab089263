"""Haiku networks: functions of inputs, the number of classes and whether it is training."""
