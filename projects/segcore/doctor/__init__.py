"""Which implementation serves which operator where and why, and what does not fit a GPU."""
