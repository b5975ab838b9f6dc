"""Text classification learned from labelled examples: fitting needs the extra `train`, answering only numpy."""
