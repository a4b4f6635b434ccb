"""One self-contained HTML page with the scores, the plots and the structures of an evaluation."""
