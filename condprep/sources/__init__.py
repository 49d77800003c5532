"""Where pictures come from: a folder, an imagefolder, a Hugging Face dataset, WebDataset tars, zips.

In: a path or a name, by `open.open_source`. Out: a Source: `Entry` after `Entry` in a fixed order, and the bytes of
each on demand; nothing is decoded. Opened by building; the rules of `base`, by which files are read, serve all who read any.
"""
