"""The run folder and the dataset folder: write, resume, open and read them."""
