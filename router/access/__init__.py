"""Who may ask, for what, and how much: virtual keys, limits and budgets. See docs/keys.md."""
