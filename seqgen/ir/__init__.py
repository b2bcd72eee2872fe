"""The recurrence as mathematics: named-axis expressions and the single-assignment token program."""
