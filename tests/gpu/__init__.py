"""What only a GPU can show: that results are right on it, and how fast they come."""
