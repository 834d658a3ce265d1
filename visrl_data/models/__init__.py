"""Find a model, know exactly which one it is, and what is known of its family."""
