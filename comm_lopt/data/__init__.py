"""Data: where examples come from (`sources`), and how rounds are fed with them (`feeding`)."""
