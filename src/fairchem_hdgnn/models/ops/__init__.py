"""The operations of messages, in plain torch and in fast forms, and their execution by blocks of edges."""
