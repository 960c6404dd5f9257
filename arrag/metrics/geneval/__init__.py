"""GenEval (Ghosh et al. 2023): ``judge`` decides on an image, ``score`` on a folder of them.

``results`` reads verdicts that were recorded, also by the official code.
"""
