"""Published and measured numbers, side by side."""
