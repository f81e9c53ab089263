"""Thetas that ship, a folder each with its card, and `comm_lopt.load`, which reads them."""
