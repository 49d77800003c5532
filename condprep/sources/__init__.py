"""Where pictures come from: a folder, an imagefolder, a Hugging Face dataset, WebDataset tars.

In: a path or a name, by `open.open_source`. Out: a Source: `Entry` after `Entry` in a fixed order, and the bytes of
each on demand. Called by building; decodes nothing.
"""
