"""Measuring the joint space, improving it, and letting it speak."""
