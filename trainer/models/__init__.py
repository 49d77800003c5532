"""The families of base models, and what a ControlNet of theirs learns to predict.

In: a folder or a name on the Hub, by `families.load_base`. Out: a Base, which encodes pictures and captions and predicts;
`loss`, as pure functions. Called by data, inference, evaluation and training.
"""
