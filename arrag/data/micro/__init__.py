"""The micro world: synthetic scenes of real sprites, for a demo that runs on two CPU cores.

Start reading at ``world``, which renders scenes; ``prompts`` and ``questions`` are its benchmarks.
"""
