"""The search: predict, evolve, select, evaluate, adapt."""
