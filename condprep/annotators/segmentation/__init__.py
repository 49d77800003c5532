"""segmentation:OWNER/MODEL: what is where, in the colours of ADE20K or COCO, by models of transformers.

In and out as of every annotator. Loaded by the registry.
"""
