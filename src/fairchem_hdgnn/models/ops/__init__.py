"""What messages are made of: each operation in plain torch beside its fast forms, and how blocks of edges are run."""
