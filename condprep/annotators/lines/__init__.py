"""lineart, lineart_anime, pidinet, teed, mlsd: lines of networks that controlnet_aux runs a picture at a time, in batches.

In and out as of every annotator. Loaded by the registry. Each network's file is the architecture under the names of its
published weights; `load` makes annotators of them.
"""
