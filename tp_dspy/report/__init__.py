"""What people look at before they trust a prompt: plots, and the page of a run."""
