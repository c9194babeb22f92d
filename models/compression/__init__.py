"""Choosing how a table's layers are stored, by what each choice costs a model on a text, and a report of such costs."""
