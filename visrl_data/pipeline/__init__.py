"""The stages of the data factory, in the order of factory.py."""
