"""The web page of a run: one HTML file with tables, figures, samples and traced patches."""
