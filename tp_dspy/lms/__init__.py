"""What the library talks to: an embedded LM, and an adapter for plain prompts."""
