"""Object detectors of GenEval and of the micro world; opened by ``metrics.base.load_detector``."""
