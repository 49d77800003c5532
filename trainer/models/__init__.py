"""The families of base models, and what a ControlNet of theirs learns to predict.

In: a folder or a name on the Hub, by `families.load_base`. Out: a Base: it encodes pictures and captions and predicts;
the loss as pure functions. Called by inference, evaluation and training.
"""
