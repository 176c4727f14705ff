"""What runs at the far end: one job from a bundle, or one envelope answered. The local provider wraps it."""
