"""aux:NAME, the detectors of the package controlnet_aux, one picture a call.

In and out as of every annotator. Loaded by the registry; imports controlnet_aux only when a detector is built.
"""
