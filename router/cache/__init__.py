"""The exact cache."""
