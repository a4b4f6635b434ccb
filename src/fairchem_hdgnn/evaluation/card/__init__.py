"""A model card: what to know of a checkpoint that somebody else trained, as Markdown for the Hugging Face Hub."""
