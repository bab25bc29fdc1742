"""Blocks on several devices: schedules as data, their simulation, and what runs them."""
