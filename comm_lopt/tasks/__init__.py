"""Task families: local SGD around any of them, and the ones that ship."""
