"""The cycle that both phases share."""
