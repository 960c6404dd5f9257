"""One self-contained web page of a run: tables, figures, samples, and where patches came from."""
