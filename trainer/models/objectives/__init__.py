"""What a base has learned to say of noisy latents: the noise (`epsilon`), a velocity (`velocity`), or a flow (`flow`).

In: the scheduler of a base, by `choose.objective_of`. Out: an Objective, pure functions of latents, noise and timesteps.
Called by the families, which own it, and by the loss.
"""
