"""The check of a machine with a GPU; ``python -m gpu`` runs it, out of a bundle."""
