"""Diagnosis: what a port does another way than diffusers, found by experiments from outside."""
