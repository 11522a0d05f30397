"""What programs are scored on: tasks and where they come from."""
