"""How a GPU runs it: schedules per family, kernel plans, the Triton printer, knobs."""
