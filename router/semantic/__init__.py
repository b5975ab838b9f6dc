"""Whether two requests have the same answer, and whether an answer keeps: what the semantic cache decides by."""
