"""What a prompt is worth: metrics, objective, scorer."""
