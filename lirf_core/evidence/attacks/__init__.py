"""Attacks on a network that should not know some classes, by someone who holds its weights.

Every attack gives logits of all classes. `statistic` compares them fairly: one constant on the deposited logits decides
how readily a network answers a deposited class, so it is no knowledge, and each attacker chooses it.
"""
