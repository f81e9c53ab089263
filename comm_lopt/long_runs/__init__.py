"""What any long run needs: checkpoints, logs by rows, progress, and ends that are told."""
