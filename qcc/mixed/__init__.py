"""Precisions chosen layer by layer: what each would cost and lose, the integer program over that, and the check of what it promises."""
