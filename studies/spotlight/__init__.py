"""The recipe of Spotlight's weights: lessons, training, measurement. Not in the wheel."""
