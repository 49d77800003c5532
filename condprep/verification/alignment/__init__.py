"""Does a map lie on its picture, and is it that picture's?

In: an opened pair, or many. Out: measures of shifts, turns, flips and exchanged maps, and the rules that judge them.
Called through the table of `verification.groups`; poses and reannotation measure with it.
"""
