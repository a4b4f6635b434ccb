"""A model card: a description of a checkpoint for its users, as Markdown for the Hugging Face Hub."""
