"""The stages of the data factory; factory.py shows their order."""
