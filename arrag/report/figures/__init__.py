"""Figures 4 to 7: start reading at ``build.py``; ``style.py`` has what they share."""
