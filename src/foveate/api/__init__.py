"""One file a verb: a story of a few lines, and its result type."""
