"""Reference implementations for a course on optimization beyond the gradient."""
