"""DPG-Bench (Hu et al. 2024) and DSG (Cho et al. 2024); start with ``questions``, the rules.

``judges`` answer questions on ``images``; ``answers`` reads and writes what they said.
"""
