"""What requests use and cost, whichever way they end, and what they would have cost on the baseline."""
