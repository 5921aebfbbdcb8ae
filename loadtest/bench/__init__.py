"""`make bench`: each stage alone, and the whole path against the best that the same processors can do without it."""
